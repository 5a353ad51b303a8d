"""This process's place among those that train together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from lite3r_cli.errors import UsageError
from lite3r_cli.runtime import choose

PLACES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


@dataclass(frozen=True)
class Worker:
    """This process's place among the others."""

    rank: int
    world: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0


@contextmanager
def worker_process(device: str) -> Iterator[Worker]:
    """This process's rank and device; torchrun's environment says whether there are others.

    Raises UsageError for an environment that only looks like torchrun's, BackendError for a device that is not here.
    """
    rank, world, local = _place()
    where = choose(device).torch_device
    if where.type == "cuda" and world > 1:
        where = choose(f"cuda:{local}").torch_device
    if where.type == "cuda":
        torch.cuda.set_device(where)
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
    if world > 1:
        dist.init_process_group("nccl" if where.type == "cuda" else "gloo")
    try:
        yield Worker(rank, world, where)
    finally:
        if world > 1:
            dist.destroy_process_group()


def _place() -> tuple[int, int, int]:
    """RANK, WORLD_SIZE and LOCAL_RANK. Raises UsageError where one is set without what belongs to it: a process that
    took itself for one of several would compute for nothing, or wait for ever.
    """
    values = {name: os.environ[name] for name in PLACES if os.environ.get(name)}
    if values.get("WORLD_SIZE", "1") == "1" and values.get("RANK", "0") == "0":
        return 0, 1, 0
    missing = [name for name in (*PLACES, "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    said = ", ".join(f"{name}={value}" for name, value in values.items())
    advice = f"start it with torchrun, or run `unset {' '.join(values)}` first"
    if missing:
        raise UsageError(f"the environment says {said[:200]}, but not {', '.join(missing)}: {advice}")
    try:
        rank, world, local = (int(values[name]) for name in PLACES)
    except ValueError:
        raise UsageError(f"the environment says {said[:200]}: not whole numbers: {advice}") from None
    if not (0 <= rank < world and 0 <= local < world):
        raise UsageError(f"the environment says {said[:200]}: there is no such place: {advice}")
    return rank, world, local
