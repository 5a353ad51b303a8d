"""Rank, device and signals of this process in distributed training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lite3r_cli.errors import BackendError
from lite3r_cli.ranks import LOST, cannot_meet, lost_another, place_of_process
from lite3r_cli.runtime import choose, device_of
from lite3r_cli.stopping import Noted, responsive

SAME_SIGNAL = 5.0  # seconds within which a repeated signal counts as the same one


@dataclass(frozen=True)
class Worker:
    """This process among all processes of a run."""

    rank: int
    world: int  # number of processes
    device: torch.device
    signals: Any = field(default=None, repr=False, compare=False)  # gloo group of all processes

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    @property
    def patience(self) -> float:
        """Seconds for `between_steps`: torchrun forwards a signal that the terminal has already
        sent to all processes.
        """
        return SAME_SIGNAL if self.world > 1 else 0.0

    def obey(self, noted: Noted) -> None:
        """Stop here if any process has received a signal. All processes call this between steps and synchronise on the
        host, without waiting for the GPU.
        """
        if self.world > 1:
            heard = torch.tensor([noted.number])
            dist.all_reduce(heard, dist.ReduceOp.MAX, group=self.signals)
            if not int(heard):
                return  # a signal that arrives now is handled after the next step, so that no process stops alone
            noted.number = int(heard)
        noted.obey()

    def means(self, window: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
        """The mean of each term over the steps of a window and over all processes, which all call this. A term may be
        missing in some steps, and in all steps of a process.
        """
        values = {name: [terms[name] for terms in window if name in terms] for name in {k for t in window for k in t}}
        everyone: list[Any] = [{name: (float(torch.stack(own).mean()), len(own)) for name, own in values.items()}]
        if self.world > 1:
            own, everyone = everyone[0], [None] * self.world
            dist.all_gather_object(everyone, own, group=self.signals)
        found = {}
        for name in sorted({k for each in everyone for k in each}):
            parts = [each[name] for each in everyone if name in each]
            found[name] = sum(mean * count for mean, count in parts) / sum(count for _, count in parts)
        return found


@contextmanager
def worker_process(device: str) -> Iterator[Worker]:
    """This process's rank and device, from torchrun's environment variables.

    Raises UsageError for an incomplete torchrun environment, BackendError for a missing device or if another process
    has ended.
    """
    place = place_of_process()
    rank, world = place.number, place.count
    where = choose(device_of(place, device) if world > 1 else device).torch_device
    if where.type == "cuda":
        torch.cuda.set_device(where)
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
    if world > 1:
        backend = "nccl" if where.type == "cuda" else "gloo"
        try:
            responsive(lambda: dist.init_process_group(backend))  # waits for the others, and takes no signal meanwhile
        except RuntimeError as error:
            raise cannot_meet(error) from error
    try:
        yield Worker(rank, world, where, dist.new_group(backend="gloo") if world > 1 else None)
    except RuntimeError as error:
        if world > 1 and lost_another(error):
            raise BackendError(LOST) from error
        raise
    finally:
        if world > 1:
            dist.destroy_process_group()
