"""This process's place among those that train together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from lite3r_cli.errors import BackendError
from lite3r_cli.ranks import place_of_process
from lite3r_cli.runtime import choose
from lite3r_cli.stopping import Noted

SAME_SIGNAL = 5.0  # seconds within which a signal that comes again is the same


@dataclass(frozen=True)
class Worker:
    """This process's place among the others."""

    rank: int
    world: int
    device: torch.device
    signals: Any = field(default=None, repr=False, compare=False)  # group of all processes, on the host

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def patience(self) -> float:
        """For `between_steps`: torchrun hands on to its processes what a terminal has sent to them, too."""
        return SAME_SIGNAL if self.world > 1 else 0.0

    def obey(self, noted: Noted) -> None:
        """Where a run may be left: all processes obey a signal that one of them has heard. They meet here at each step
        on the host; no GPU is waited for.
        """
        if self.world > 1:
            heard = torch.tensor([noted.number])
            dist.all_reduce(heard, dist.ReduceOp.MAX, group=self.signals)
            if not int(heard):
                return  # a signal that came while they met is told at the next step: no process leaves alone
            noted.number = int(heard)
        noted.obey()


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
        yield Worker(rank, world, where, dist.new_group(backend="gloo") if world > 1 else None)
    except RuntimeError as error:
        if world > 1 and lost_another(error):
            raise BackendError("another process of this run has ended; its own message says why") from error
        raise
    finally:
        if world > 1:
            dist.destroy_process_group()


def lost_another(error: BaseException) -> bool:
    """Whether torch says that a process is gone which it wanted to talk to; gloo says so in a RuntimeError's text."""
    text = str(error)
    by_kind = type(error).__name__ in ("DistError", "DistBackendError", "DistNetworkError")
    return by_kind or (type(error) is RuntimeError and ("gloo" in text or "NCCL" in text))
