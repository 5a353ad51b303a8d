"""Options of `lite3r distill`: the attention of the student, its training, and its data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ..errors import UsageError
from .option import OUTPUT, Argument, Option, require
from .prediction import DTYPES, Device, Dtype, Model, PredictConfig, require_device, require_one_of
from .reconstruction import Overwrite

STUDENT, LOSS, TRAINING = "Student", "Loss", "Training"
PROCEDURAL = "procedural"  # the word for generated scenes
CHECKPOINT_SUFFIX = ".safetensors"
LINEAR_BRANCH = ("*.proj_lin.weight", "*.mix_logit")  # parameters that are trained by default
STARTS = ("calibrated", "zero")
ATTENTION_LOSSES = ("mse", "cosine")
MATCHING = ("auto", "always", "never")


@dataclass(frozen=True)
class SparseChoice:
    """Options of the student's attention. None: the checkpoint's setting, else the preset of the network."""

    layers: Annotated[
        tuple[str, ...],
        Option(STUDENT, "Attention modules that become sparse-linear.", metavar="PATTERN", shown="all across views"),
    ] = ()
    keep_ratio: Annotated[
        float | None,
        Option(
            STUDENT,
            "Share of the attention across views that is computed exactly.",
            metavar="SHARE",
            shown="the checkpoint's, or 0.25",
        ),
    ] = None
    mix: Annotated[
        str | None,
        Option(
            STUDENT,
            "How the linear branch is combined: added through a projection, or with a learned weight per head.",
            metavar="sum|convex",
            shown="the checkpoint's, or sum",
        ),
    ] = None
    linear_over: Annotated[
        str | None,
        Option(
            STUDENT,
            "Tokens of the linear branch: rest (those without exact attention) or all.",
            metavar="rest|all",
            shown="the checkpoint's, or rest; all in deep networks",
        ),
    ] = None
    feature: Annotated[
        str | None,
        Option(
            STUDENT,
            "Feature map of the linear branch.",
            metavar="elu|softmax|relu",
            shown="the checkpoint's, or elu",
        ),
    ] = None
    protect: Annotated[
        str | None,
        Option(
            STUDENT,
            "Tokens that every query attends to: none, specials (camera and register tokens), or also those of "
            "the reference view.",
            metavar="none|specials|reference",
            shown="the checkpoint's, or specials",
        ),
    ] = None
    block: Annotated[
        int | None,
        Option(STUDENT, "Tokens per block of queries.", metavar="TOKENS", shown="the checkpoint's, or 64"),
    ] = None
    key_block: Annotated[
        int | None,
        Option(
            STUDENT,
            "Tokens per block of keys. Smaller blocks are slower and more accurate.",
            metavar="TOKENS",
            shown="the checkpoint's, or 16 for mini, else --block",
        ),
    ] = None
    scores: str | None = None
    drop_ratio: float | None = None
    tiles: bool | None = None
    summaries: Annotated[
        bool | None,
        Option(
            STUDENT,
            "Represent each skipped block by one mean token in the softmax.",
            shown="the checkpoint's, or on",
        ),
    ] = None


@dataclass(frozen=True)
class Recipe:
    """Options of the training. Those that affect the result are stored with the run and in the checkpoint."""

    steps: Annotated[int, Option(TRAINING, "Training steps; 0 only calibrates.", metavar="N")] = 100
    lr: Annotated[float, Option(TRAINING, "Peak learning rate.", metavar="RATE")] = 1e-3
    warmup_steps: int = 10
    clip: float = 1.0
    trainable: Annotated[
        tuple[str, ...],
        Option(
            STUDENT,
            "Parameters to train besides the linear branch, e.g. 'blocks.*.attn.proj.weight'.",
            metavar="PATTERN",
            shown="none",
        ),
    ] = ()
    start: Annotated[
        str,
        Option(
            STUDENT,
            "Initial linear branch: calibrated (fitted to dense attention, layer by layer), or zero (no effect).",
            metavar="calibrated|zero",
        ),
    ] = "calibrated"
    calibration_batches: Annotated[int, Option(TRAINING, "Number of batches for that fit.", metavar="N")] = 8
    attention_loss: Annotated[
        str,
        Option(LOSS, "Loss between attention outputs of student and teacher.", metavar="mse|cosine"),
    ] = "mse"
    attention_layers: Annotated[
        tuple[str, ...],
        Option(
            LOSS,
            "Attention modules in that loss: name patterns, or sparse for all sparse modules.",
            ("--distill-layers",),
            metavar="PATTERN",
        ),
    ] = ("sparse",)
    attention_weight: Annotated[
        tuple[float, float],
        Option(LOSS, "Weight of that loss at the start and at the end, with a cosine schedule.", metavar="FROM TO"),
    ] = (0.1, 0.01)
    match_teacher: Annotated[
        str,
        Option(
            LOSS,
            "When depth and cameras of the teacher are the target: where the truth is unknown, always, or never.",
            metavar="auto|always|never",
        ),
    ] = "auto"
    fp8_from: Annotated[
        float,
        Option(
            STUDENT,
            "Train in FP8 arithmetic from this share of the steps on: 0 always, 1 never.",
            metavar="SHARE",
        ),
    ] = 0.5
    ema_decay: float = 0.99
    views: Annotated[int, Option(TRAINING, "Views per scene and step.", metavar="N")] = 6
    batch: Annotated[int, Option(TRAINING, "Scenes per step and GPU.", metavar="N")] = 1
    resolution: int = 252  # longest side, pixels; DistillConfig has the requested one
    validate_every: Annotated[
        int,
        Option(TRAINING, "Steps between evaluations on held-out scenes. The best weights are kept.", metavar="N"),
    ] = 25
    validation_batches: int = 4
    log_every: int = 10
    seed: Annotated[int, Option(TRAINING, "Seed of all random numbers.", metavar="N")] = 0

    def __post_init__(self) -> None:
        for name, known in (("start", STARTS), ("attention_loss", ATTENTION_LOSSES), ("match_teacher", MATCHING)):
            require_one_of(f"--{name.replace('_', '-')}", getattr(self, name), known)
        bounds = {"steps": 0, "calibration_batches": 1, "views": 1, "batch": 1, "resolution": 28, "validate_every": 1,
                  "validation_batches": 1, "log_every": 1, "seed": 0, "warmup_steps": 1}  # fmt: skip
        for name, least in bounds.items():
            if getattr(self, name) < least:
                raise UsageError(f"--{name.replace('_', '-')} must be at least {least}, not {getattr(self, name)}")
        require(0 < self.lr < 1, f"--lr must lie between 0 and 1, not {self.lr}")
        require(0 <= self.fp8_from <= 1, f"--fp8-from is a share of the steps, 0 to 1, not {self.fp8_from}")
        require(
            min(self.attention_weight) >= 0, f"--attention-weight must not be negative, not {self.attention_weight}"
        )

    def is_fp8(self, step: int) -> bool:
        """Whether linear layers compute in rounded FP8 arithmetic at a step."""
        return self.fp8_from < 1 and step >= self.fp8_from * self.steps

    def attention_weight_at(self, step: int) -> float:
        """Weight of the attention loss at a step: half a cosine from the first value to the second."""
        start, end = self.attention_weight
        progress = min(1.0, step / max(1, self.steps))
        return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class DistillConfig:
    """Options of `lite3r distill`."""

    output: Annotated[
        Path,
        Option(
            OUTPUT,
            "Output checkpoint of the student (.safetensors). Log, curves and state go into a folder of the same name.",
            ("--output", "-o"),
            metavar="FILE",
        ),
    ]
    data: Annotated[
        tuple[str, ...],
        Argument(
            None,
            "Folders of photos, of scenes with cameras.json, BlendedMVS or DTU; or `procedural` for generated scenes.",
            metavar="[DATA]...",
        ),
    ] = (PROCEDURAL,)
    model: Model = PredictConfig.model
    sparse: SparseChoice = SparseChoice()
    recipe: Recipe = Recipe()
    resolution: Annotated[
        int | None,
        Option(
            TRAINING,
            "Longest side of an image during training.",
            ("--resolution", "-r"),
            metavar="PIXELS",
            shown="252 on a CPU, else the model's",
        ),
    ] = None
    textures: Annotated[
        Path | None,
        Option(
            TRAINING,
            ".npz file of JPEG crops (`data`, `offsets`) that texture procedural scenes.",
            metavar="FILE",
            shown="none",
        ),
    ] = None
    workers: Annotated[
        int | None,
        Option(TRAINING, "Processes that load data.", metavar="N", shown="0 on a CPU, 8 on a GPU"),
    ] = None
    strict: Annotated[bool, Option(TRAINING, "Fail on damaged images, cameras or scenes instead of skipping them.")] = (
        False
    )
    device: Device = "auto"
    dtype: Dtype = "auto"
    resume: Annotated[bool, Option(TRAINING, "Continue an interrupted run from its saved state.")] = False
    resume_anyway: Annotated[
        bool, Option(TRAINING, "Continue even if data, teacher or options differ from those of the saved state.")
    ] = False
    overwrite: Overwrite = False

    def __post_init__(self) -> None:
        require(
            self.output.suffix == CHECKPOINT_SUFFIX,
            f"-o {self.output}: a checkpoint's name ends in {CHECKPOINT_SUFFIX}",
        )
        require(bool(self.data), f"no data given: name folders, or the word {PROCEDURAL}")
        require(self.workers is None or self.workers >= 0, "--workers must not be negative")
        require_one_of("--dtype", self.dtype, DTYPES)
        require_device(self.device)

    @property
    def goes_on(self) -> bool:
        return self.resume or self.resume_anyway

    @property
    def folder(self) -> Path:
        """Folder of state, log and curves: next to the checkpoint, with its name."""
        return self.output.with_suffix("")
