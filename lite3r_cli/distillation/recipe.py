"""How a student is trained; what of it decides the numbers is stored with the run and in the checkpoint."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lite3r_cli.errors import UsageError

LINEAR_BRANCH = ("*.proj_lin.weight", "*.mix_logit")  # what trains by default
STARTS = ("calibrated", "zero")
ATTENTION_LOSSES = ("mse", "cosine")
MATCHING = ("auto", "always", "never")


@dataclass(frozen=True)
class Recipe:
    steps: int = 200
    lr: float = 1e-3
    warmup_steps: int = 10
    clip: float = 1.0
    trainable: tuple[str, ...] = ()  # patterns of parameters beside LINEAR_BRANCH
    start: str = "calibrated"  # one of STARTS
    calibration_batches: int = 4
    attention_loss: str = "mse"  # one of ATTENTION_LOSSES
    attention_layers: tuple[str, ...] = ("sparse",)  # patterns of attention modules whose outputs are compared
    attention_weight: tuple[float, float] = (0.1, 0.01)  # from, to: half a cosine over the run
    match_teacher: str = "auto"  # the teacher's depth and poses: "auto" where a batch has no true depth
    fp8_from: float = 0.5  # share of the steps after which both operands of the linear layers are rounded; 1: never
    ema_decay: float = 0.99
    views: int = 6
    batch: int = 1  # scenes a step and process
    resolution: int = 252  # longest side, pixels
    validate_every: int = 50
    validation_batches: int = 4
    log_every: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("start", STARTS), ("attention_loss", ATTENTION_LOSSES), ("match_teacher", MATCHING)):
            if getattr(self, name) not in known:
                option = f"--{name.replace('_', '-')}"
                raise UsageError(f"{option} must be one of {', '.join(known)}, not {getattr(self, name)!r}")
        bounds = {"steps": 0, "calibration_batches": 1, "views": 1, "batch": 1, "resolution": 28, "validate_every": 1,
                  "validation_batches": 1, "log_every": 1, "seed": 0, "warmup_steps": 1}  # fmt: skip
        for name, least in bounds.items():
            if getattr(self, name) < least:
                raise UsageError(f"--{name.replace('_', '-')} must be at least {least}, not {getattr(self, name)}")
        if not 0 < self.lr < 1:
            raise UsageError(f"--lr must lie between 0 and 1, not {self.lr}")
        if not 0 <= self.fp8_from <= 1:
            raise UsageError(f"--fp8-from is a share of the steps, 0 to 1, not {self.fp8_from}")
        if min(self.attention_weight) < 0:
            raise UsageError(f"--attention-weight must not be negative, not {self.attention_weight}")

    def is_fp8(self, step: int) -> bool:
        """Whether linear layers compute in rounded arithmetic at a step."""
        return self.fp8_from < 1 and step >= self.fp8_from * self.steps

    def attention_weight_at(self, step: int) -> float:
        start, end = self.attention_weight
        progress = min(1.0, step / max(1, self.steps))
        return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))
