"""Batches by the number of their step, drawn by worker processes: how many of these there are changes nothing."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

Drawn = TypeVar("Drawn")
PREFETCH = 4  # batches that a worker holds ready


class Steps(IterableDataset[Drawn], Generic[Drawn]):
    """`draw(step)` from step `first` on. Worker w of n draws every n-th one, so that the loader's order is that of the
    steps.
    """

    def __init__(self, draw: Callable[[int], Drawn], first: int) -> None:
        self.draw, self.first = draw, first

    def __iter__(self) -> Iterator[Drawn]:
        worker = get_worker_info()
        offset, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        step = self.first + offset
        while True:
            yield self.draw(step)
            step += stride


def load_steps(
    draw: Callable[[int], Drawn], first: int = 0, workers: int = 0, pin_memory: bool = False
) -> DataLoader[Drawn]:
    """What `draw` gives for the steps from `first` on, for ever. With workers `draw` has to be picklable: no lambda."""
    return DataLoader(
        Steps(draw, first),
        batch_size=None,
        num_workers=workers,
        pin_memory=pin_memory,
        prefetch_factor=PREFETCH if workers else None,
        worker_init_fn=_prepare,
    )


def _prepare(_: int) -> None:
    """One thread a process. Ctrl-C reaches the processes of a terminal all at once: the main one decides what becomes
    of it, and ends the others; a handler that it has noted signals with is not theirs.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
