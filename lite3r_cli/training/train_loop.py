"""The training loop: DDP, bfloat16, gradient clipping, a time budget, EMA of the weights, checkpoints, a JSONL log.

A step does not synchronise with the GPU; values are read back every `log_every` steps.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lite3r_cli.config.training_run import LoopConfig
from lite3r_cli.io.log_lines import append_line
from lite3r_cli.networks.mini.known import CameraHints
from lite3r_cli.networks.mini.network import Mini
from lite3r_cli.training.losses import Targets, compute_losses
from lite3r_cli.training.optimiser import (
    DivergedError,
    WeightAverage,
    build_optimisers,
    learning_rate_factor,
    set_learning_rate,
)
from lite3r_cli.training.own_files import KEY
from lite3r_cli.training.rounding import RoundedWeights
from lite3r_cli.training.state import Dependencies, load_training_state, save_training_state, save_weights
from lite3r_cli.training.worker import Worker

STATE, LOG, PLOT = "state.safetensors", "log.jsonl", "losses.png"
AVERAGE, RESULT = "average.safetensors", "mini.safetensors"


@dataclass(frozen=True)
class Batch:
    """Images (B, S, 3, H, W) in [0, 1] on the device, and their ground truth."""

    images: Tensor
    targets: Targets
    decoded: Tensor | None = None  # (V,) views whose depth is trained in this step; None: all
    known: CameraHints | None = None  # known cameras as an input of the network


class Trainer:
    """Runs steps over batches; `report(record)` is called on rank 0 with each logged record."""

    def __init__(
        self,
        model: Mini,
        config: LoopConfig,
        worker: Worker,
        report: Callable[[dict], None],
        depends_on: Dependencies | None = None,
    ):
        """`depends_on`: everything that determines the result, stored in the state."""
        self.depends_on = depends_on or Dependencies("train", {})
        self.model, self.config, self.worker, self.report = model, config, worker, report
        if config.compile:
            for block in model.blocks:
                block.compile(dynamic=True)
        self.optimisers = build_optimisers(model, config.lr, config.encoder_factor, config.muon)
        self.average = WeightAverage(model, config.ema_decay)
        self.rounded = RoundedWeights(model)
        self.runner: nn.Module = model
        if worker.world > 1:
            ids = [worker.device.index] if worker.device.type == "cuda" else None
            self.runner = DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)
        self.step, self.elapsed = 0, 0.0
        self.whole = True  # whether weights, averages and step counter are consistent
        self.owns_folder = True  # saving replaces no files of another run

    def resume(self, path: Path, tell: Callable[[str], None] = lambda text: None) -> None:
        """Load a state. Raises WeightsError if it is damaged, UsageError if it belongs to another run."""
        self.depends_on.check(path, tell)
        self.step, self.elapsed = load_training_state(
            path, self.model, self.average, self.optimisers, None if self.depends_on.anyway else self.config.max_steps
        )

    def run(self, batches: Callable[[int], Iterator[Batch]], between: Callable[[], None] = lambda: None) -> None:
        """Train until the budget is spent. `batches(step)` yields the batches from that step on. `between` is called
        between steps, where the run may be stopped.
        """
        if self.worker.is_first and self.step == 0:
            self.save_state()  # marks the folder as belonging to this run
        start, saved = time.monotonic() - self.elapsed, time.monotonic()
        window: list[dict[str, Tensor]] = []
        for batch in batches(self.step):
            between()
            if self.step % 10 == 0:  # the clock of rank 0 decides for all
                self.elapsed = self._agree(time.monotonic() - start)
            progress = self._progress()
            if progress >= 1:
                break
            set_learning_rate(self.optimisers, learning_rate_factor(self.step, progress, self.config.warmup_steps))
            window.append(self.train_step(batch, rounded=progress > 1 - self.config.rounded_share))
            if self.step % self.config.log_every == 0:
                self._log(window, progress)
                window = []
            if self.worker.is_first and time.monotonic() - saved > 60 * self.config.save_minutes:
                self.save()
                saved = time.monotonic()
        if self.worker.is_first:
            self.save()

    def train_step(self, batch: Batch, rounded: bool) -> dict[str, Tensor]:
        """One step; `rounded` uses FP8-rounded weights. Returns the weighted losses, scalars on the device."""
        self.model.train()
        device = self.worker.device.type
        with self.rounded(rounded):
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                out = self.runner(batch.images, batch.targets.reference, batch.decoded, rays=True, known=batch.known)
            terms = compute_losses(out, batch.targets, self.config.weights)
            terms["total"].backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.whole = False
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad()
        self.average.update(self.step)
        self.step += 1
        self.whole = True
        return {**{k: v.detach() for k, v in terms.items()}, "grad_norm": norm}

    def save(self) -> None:
        """Save the state, and the EMA weights as a checkpoint. Raises OutputError."""
        self.save_state()  # first: weights without a state would be in the way of every further run
        path = self.config.output / AVERAGE
        save_weights(path, self.average.state_dict(), self.model, torch.float16, **{KEY: self.depends_on.mark})

    def save_state(self) -> None:
        """Save the state for resuming. Raises OutputError."""
        path = self.config.output / STATE
        save_training_state(path, self.model, self.average, self.optimisers, self.step, self.elapsed, self.depends_on)

    def _progress(self) -> float:
        by_time = self.elapsed / (60 * self.config.budget_minutes)
        return max(by_time, self.step / self.config.max_steps) if self.config.max_steps else by_time

    def _agree(self, value: float) -> float:
        if self.worker.world == 1:
            return value
        tensor = torch.tensor([value], dtype=torch.float64, device=self.worker.device)
        dist.broadcast(tensor, 0)
        return float(tensor)

    def _log(self, window: list[dict[str, Tensor]], progress: float) -> None:
        mean = self.worker.means(window)
        if not math.isfinite(mean["grad_norm"]):
            raise DivergedError(f"training diverged before step {self.step}; start again with a lower --lr")
        if not self.worker.is_first:
            return
        record = {
            "step": self.step,
            "seconds": round(self.elapsed, 1),
            "progress": round(progress, 4),
            "lr": self.optimisers[0].param_groups[0]["lr"],
            **{k: round(v, 5) for k, v in mean.items()},
        }
        append_line(self.config.output / LOG, json.dumps(record) + "\n")
        self.report(record)
