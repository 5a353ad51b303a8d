"""Where the time of a real training run goes: `lite3r train`, with the phases of a hundred steps timed as they pass.

    torchrun --standalone --nproc-per-node 2 benchmarks/train_phases.py train -o runs/a --compile …

Everything after the script's name goes to `lite3r`. Steps 150 to 249 are timed without waiting for the device; then
the first worker prints a table of milliseconds a step: `host` is how long the call took to return (issuing work, or
waiting), `device` how long its kernels took. A phase inside another (forward in the step) counts in both. Training goes
on. `benchmarks/train_step.py` times single shapes instead, one phase after the other.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable

import torch

import lite3r_cli.training.train_data as data
from lite3r_cli.cli import main
from lite3r_cli.training import train_loop as loop

FIRST, LAST = 150, 250
PHASES: tuple[tuple[str, object, str], ...] = (
    ("render", data, "render_batch"),
    ("augment", data, "augment"),
    ("step", loop.Trainer, "train_step"),
    ("losses", loop, "compute_losses"),
    ("backward", torch.Tensor, "backward"),
    ("clip", torch.nn.utils, "clip_grad_norm_"),
    ("average", loop.WeightAverage, "update"),
    ("agree", loop.Trainer, "_agree"),
)


class Phases:
    """Collects host seconds and pairs of CUDA events by phase, while `step` lies between FIRST and LAST."""

    def __init__(self) -> None:
        self.step = 0
        self.started = 0.0
        self.host: dict[str, float] = defaultdict(float)
        self.events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = defaultdict(list)

    def timed(self, name: str, call: Callable) -> Callable:
        def wrapper(*args, **kwargs):
            if not FIRST <= self.step < LAST:
                return call(*args, **kwargs)
            before = self._event()
            start = time.perf_counter()
            result = call(*args, **kwargs)
            self.host[name] += time.perf_counter() - start
            if before is not None:
                self.events[name].append((before, self._event()))
            return result

        return wrapper

    def report(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        steps = LAST - FIRST
        print(
            f"{1e3 * (time.perf_counter() - self.started) / steps:.1f} ms a step\n{'phase':<12}{'host':>9}{'device':>9}"
        )
        for name, seconds in self.host.items():
            device = sum(a.elapsed_time(b) for a, b in self.events[name]) / steps
            print(
                f"{name:<12}{1e3 * seconds / steps:>9.1f}" + (f"{device:>9.1f}" if self.events[name] else f"{'–':>9}"),
                flush=True,
            )

    @staticmethod
    def _event() -> torch.cuda.Event | None:
        if not torch.cuda.is_available():
            return None
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def instrument(phases: Phases) -> None:
    """Wrap the calls that a training step is made of; the model's forward pass and the optimisers with the trainer that
    owns them.
    """
    for name, owner, attribute in PHASES:
        setattr(owner, attribute, phases.timed(name, getattr(owner, attribute)))
    build, step = loop.Trainer.__init__, loop.Trainer.train_step

    def built(self, *args, **kwargs):
        build(self, *args, **kwargs)
        runner = self.runner
        self.runner = phases.timed("forward", lambda *a, **k: runner(*a, **k))
        for optimiser in self.optimisers:
            optimiser.step = phases.timed(type(optimiser).__name__, optimiser.step)

    def counted(self, *args, **kwargs):
        if phases.step == FIRST:
            phases.started = time.perf_counter()
        if phases.step == LAST and self.worker.is_first:
            phases.report()
        result = step(self, *args, **kwargs)
        phases.step += 1
        return result

    loop.Trainer.__init__, loop.Trainer.train_step = built, counted


if __name__ == "__main__":
    instrument(Phases())
    sys.exit(main(sys.argv[1:]))
