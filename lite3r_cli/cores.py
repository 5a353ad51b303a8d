"""Which processor cores this process may use, and how several processes divide them."""

from __future__ import annotations

import os
from itertools import pairwise


def own_cores() -> list[int]:
    """The numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def count_cores() -> int:
    """How many cores this process may use."""
    return len(own_cores())


def divide_cores(cores: list[int], parts: int) -> list[list[int]]:
    """The cores of each of `parts` processes: neighbours, of equal number within one. With fewer cores than processes
    each process gets one, which it shares.
    """
    if len(cores) < parts:
        return [[cores[part % len(cores)]] for part in range(parts)]
    edges = [len(cores) * part // parts for part in range(parts + 1)]
    return [cores[first:last] for first, last in pairwise(edges)]


def keep_to(cores: list[int]) -> None:
    """Use these cores only, in this process. Call it before torch or OpenCV is imported: they count cores then."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    asked = os.environ.get("OMP_NUM_THREADS", "")
    os.environ["OMP_NUM_THREADS"] = str(min(int(asked), len(cores)) if asked.isdecimal() else len(cores))
