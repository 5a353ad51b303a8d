"""This process's place among those that train together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from lite3r_cli.ranks import place_of_process
from lite3r_cli.runtime import choose


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
    place = place_of_process()
    rank, world, local = place.number, place.count, place.local
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
