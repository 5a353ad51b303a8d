"""The CPU cores that this process may use, and their division among several processes."""

from __future__ import annotations

import os
from itertools import pairwise


def own_cores() -> list[int]:
    """The numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def count_cores() -> int:
    """Number of cores that this process may use."""
    return len(own_cores())


def divide_cores(cores: list[int], parts: int) -> list[list[int]]:
    """The cores of each of `parts` processes: adjacent cores, in numbers that differ by at most one. With fewer cores
    than processes, each process gets one core and shares it.
    """
    if len(cores) < parts:
        return [[cores[part % len(cores)]] for part in range(parts)]
    edges = [len(cores) * part // parts for part in range(parts + 1)]
    return [cores[first:last] for first, last in pairwise(edges)]


def keep_to(cores: list[int]) -> None:
    """Restrict this process to these cores. Call it before torch or OpenCV is imported, because they count the cores at
    import.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    asked = os.environ.get("OMP_NUM_THREADS", "")
    os.environ["OMP_NUM_THREADS"] = str(min(int(asked), len(cores)) if asked.isdecimal() else len(cores))
