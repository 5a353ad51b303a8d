"""Options of `lite3r train`: duration, data, and optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ..errors import UsageError
from .option import OUTPUT, Option, require
from .output_names import require_folder
from .prediction import Device, require_device

SCHEDULE, DATA, OPTIMISER = "Time", "Data", "Optimiser"


def _is_muon(name: str) -> bool:
    if name not in ("adamw", "muon"):
        raise UsageError(f"--optimiser {name}: use adamw or muon")
    return name == "muon"


@dataclass(frozen=True)
class LossWeights:
    """Weights of the loss terms, see training/losses.py."""

    depth: float = 1.0
    gradient: float = 1.0
    rotation: float = 2.0
    position: float = 1.0
    direction: float = 0.5
    focal: float = 1.0
    rays: float = 0.5
    points: float = 0.5
    sky: float = 0.1
    belongs: float = 0.05
    confidence_alpha: float = 0.1  # optimal confidence = alpha / |log-depth error|


@dataclass(frozen=True)
class LoopConfig:
    """`budget_minutes` of wall time or `max_steps`, whichever ends first. The cosine of the learning rate follows the
    one that is closer to its end.
    """

    output: Annotated[
        Path, Option(OUTPUT, "Folder for checkpoints, log and loss plot.", ("--output", "-o"), metavar="DIR")
    ]
    budget_minutes: Annotated[
        float, Option(SCHEDULE, "Wall time of the training. The learning-rate schedule follows it.", metavar="MINUTES")
    ] = 20.0
    max_steps: Annotated[int | None, Option(SCHEDULE, "Maximum number of steps.", metavar="N", shown="no limit")] = None
    lr: Annotated[float, Option(OPTIMISER, "Peak learning rate.", metavar="RATE")] = 4e-4
    encoder_factor: Annotated[
        float, Option(OPTIMISER, "Factor on --lr for the pretrained first blocks.", metavar="FACTOR")
    ] = 0.3
    muon: Annotated[
        bool,
        Option(
            OPTIMISER,
            "Optimiser of the matrices in the transformer blocks.",
            ("--optimiser",),
            metavar="adamw|muon",
            parse=_is_muon,
            default="adamw",
        ),
    ] = False
    warmup_steps: int = 300
    clip: float = 1.0
    ema_decay: float = 0.9985
    rounded_share: Annotated[
        float,
        Option(OPTIMISER, "Share of the budget, at its end, that trains on FP8-rounded weights.", metavar="SHARE"),
    ] = 0.25
    log_every: int = 50
    save_minutes: Annotated[float, Option(SCHEDULE, "Minutes between two checkpoints.", metavar="MINUTES")] = 3.0
    compile: Annotated[bool, Option(OPTIMISER, "Compile the transformer blocks (CUDA).")] = False
    seed: Annotated[int, Option(SCHEDULE, "Seed of the weights and of the scenes.", metavar="N")] = 0
    weights: LossWeights = LossWeights()

    def __post_init__(self) -> None:
        require_folder("-o", self.output)
        require(0 < self.budget_minutes < float("inf"), "--budget-minutes must be positive")
        require(0 < self.lr < 1, "--lr must lie between 0 and 1")
        require(self.seed >= 0, f"--seed must not be negative, not {self.seed}")
        require(self.max_steps is None or self.max_steps >= 1, "--max-steps must be at least 1")
        require(0 <= self.rounded_share <= 1, "--rounded-share lies between 0 and 1")


@dataclass(frozen=True)
class ShapeConfig:
    """Image shapes in training, see training/shape_schedule.py."""

    tokens: Annotated[int, Option(DATA, "Batch size in tokens per GPU and step.", metavar="N")] = 49_152
    low_resolution_steps: Annotated[
        int, Option(DATA, "Number of first steps that use images of 224 to 280 pixels only.", metavar="N")
    ] = 0
    portrait: Annotated[float, Option(DATA, "Share of portrait batches.", metavar="SHARE")] = 0.3
    photos: Annotated[
        float, Option(DATA, "Share of steps on photos, with --photos.", ("--photo-share",), metavar="SHARE")
    ] = 0.06
    seed: int = 0  # seed of the training loop

    def __post_init__(self) -> None:
        require(self.tokens >= 2048, "--tokens must be at least 2048")
        require(0 <= self.photos <= 1, "--photo-share must lie between 0 and 1")


@dataclass(frozen=True)
class TrainConfig:
    """Options of `lite3r train`."""

    loop: LoopConfig
    shapes: ShapeConfig = ShapeConfig()
    init: Annotated[
        tuple[Path, ...],
        Option(
            DATA,
            "Initial weights: a checkpoint of mini, or a ViT-S/14 encoder with timm's names; repeat the option "
            "for its shards.",
            metavar="FILE",
            shown="random weights",
        ),
    ] = ()
    resume: Annotated[bool, Option(SCHEDULE, "Continue from DIR/state.safetensors.")] = False
    resume_anyway: Annotated[
        bool, Option(SCHEDULE, "Continue even if data or options differ from those of the saved state.")
    ] = False
    textures: Annotated[
        Path | None,
        Option(
            DATA,
            ".npz file of JPEG crops (`data`, `offsets`) that texture the surfaces.",
            metavar="FILE",
            shown="patterns",
        ),
    ] = None
    photos: Annotated[
        Path | None,
        Option(
            DATA,
            "Folder of posed photo scenes (cameras.json, depth maps or points.npz) to mix in.",
            metavar="DIR",
            shown="none",
        ),
    ] = None
    strict: Annotated[bool, Option(DATA, "Fail on a damaged photo or scene of --photos instead of skipping it.")] = (
        False
    )
    workers: Annotated[int, Option(DATA, "Processes per GPU that sample scenes.", metavar="N")] = 8
    device: Device = "auto"

    def __post_init__(self) -> None:
        missing = [p for p in (*self.init, self.photos) if p is not None and not p.exists()]
        if missing:
            raise UsageError(f"{missing[0]}: no such file or folder")
        require(self.workers >= 0, "--workers must not be negative")
        require_device(self.device)

    @property
    def goes_on(self) -> bool:
        return self.resume or self.resume_anyway
