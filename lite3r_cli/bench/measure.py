"""Measure time and peak memory of functions on a device."""

from __future__ import annotations

import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lite3r_cli.runtime import peak_memory

GIB = 2**30


class Timer:
    """Measures the time inside `span`: with CUDA events on a GPU, else with the clock. Spans must not be nested."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self._spans: list[tuple[str, Any, Any]] = []  # events, or seconds

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Add the time inside this context to `name`."""
        start = self._now()
        yield
        self._spans.append((name, start, self._now()))

    def _now(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def totals(self) -> dict[str, float]:
        """Name → milliseconds so far. Synchronises with the device."""
        if self.cuda:
            torch.cuda.synchronize()
        sums: dict[str, float] = {}
        for name, start, end in self._spans:
            sums[name] = sums.get(name, 0.0) + (start.elapsed_time(end) if self.cuda else 1e3 * (end - start))
        return sums


def once(device: torch.device, run: Callable[[], object]) -> float:
    """Milliseconds of one run."""
    timer = Timer(device)
    with timer.span("run"):
        run()
    return timer.totals()["run"]


def alternate(
    device: torch.device,
    runs: dict[str, Callable[[int], object]],
    repeats: int,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, list[float]]:
    """Name → milliseconds of each run. The functions run alternately, `repeats` times; each gets the index of the
    repetition, so that it can use another input.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats):
        for name, run in runs.items():
            times[name].append(once(device, partial(run, turn)))
            tick()
    return times


def spread(times: Sequence[float]) -> float:
    """Half the interquartile range."""
    if len(times) < 2:
        return 0.0
    low, _, high = statistics.quantiles(times, n=4, method="inclusive")
    return (high - low) / 2


class Peak:
    """Peak memory in bytes inside `watch`. On a GPU, memory that was allocated before is not counted, except `own`
    bytes; on a CPU it is the memory of the whole process.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.allocated, self.reserved = device, 0, 0

    def watch(self, own: int = 0) -> AbstractContextManager[None]:
        """A context whose peak memory is measured."""
        return self._on_gpu(own) if self.device.type == "cuda" else self._on_host()

    @contextmanager
    def _on_gpu(self, own: int) -> Iterator[None]:
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()
        others = torch.cuda.memory_allocated(self.device) - own
        kept = torch.cuda.memory_reserved(self.device) - own
        torch.cuda.reset_peak_memory_stats(self.device)
        yield
        torch.cuda.synchronize(self.device)
        self.allocated = max(self.allocated, torch.cuda.max_memory_allocated(self.device) - others)
        self.reserved = max(self.reserved, torch.cuda.max_memory_reserved(self.device) - kept)

    @contextmanager
    def _on_host(self) -> Iterator[None]:
        reset = _forget_host_peak()
        yield
        self.allocated = self.reserved = max(self.allocated, _host_peak() if reset else peak_memory()["host_bytes"])


def _forget_host_peak() -> bool:
    """Reset the peak memory of the process; returns whether the system supports it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return sys.platform == "linux"


def _host_peak() -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else peak_memory()["host_bytes"]


def allocated(device: torch.device) -> int:
    """Bytes of tensors on a GPU; 0 for other devices."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
