"""Draw the batch of each step in worker processes. The number of workers does not change the batches."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

Drawn = TypeVar("Drawn")
PREFETCH = 4  # batches that a worker prepares in advance


class Steps(IterableDataset[Drawn], Generic[Drawn]):
    """Yields `draw(step)` from step `first` on. Worker w of n draws every n-th step, so that the loader returns steps
    in order.
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
    """Yields `draw(step)` for the steps from `first` on, without end. With workers, `draw` must be picklable."""
    return DataLoader(
        Steps(draw, first),
        batch_size=None,
        num_workers=workers,
        pin_memory=pin_memory,
        prefetch_factor=PREFETCH if workers else None,
        worker_init_fn=_prepare,
    )


def _prepare(_: int) -> None:
    """Initialise a worker: one thread; ignore Ctrl-C, which the terminal sends to all processes, because the main
    process handles it and ends the workers; and do not inherit the main process's SIGTERM handler.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
