"""Options of `lite3r convert`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ..errors import UsageError
from .distill_recipe import CHECKPOINT_SUFFIX
from .option import OUTPUT, Argument, Option, require
from .prediction import Device, require_one_of
from .reconstruction import Overwrite

LAYERS, CALIBRATION = "What becomes of the layers", "Calibration"
WEIGHTS = ("fp8", "bf16", "float32")
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


def file_size(text: str | None) -> int | None:
    """ "500M", "2G" → bytes. Raises UsageError."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)i?B?", text.strip(), re.IGNORECASE)
    if match is None:
        raise UsageError(f"--shard-size {text}: a size is written like 500M or 2G")
    return int(float(match[1]) * _UNITS[match[2].upper()])


@dataclass(frozen=True)
class CalibrateConfig:
    """Images on which the effect of FP8 in each layer is measured."""

    images: Annotated[
        tuple[Path, ...],
        Option(
            CALIBRATION,
            "Photos, or folders of photos. The effect of FP8 on depth and poses is measured for each layer; the "
            "worst layers stay in bf16.",
            ("--calibrate",),
            metavar="IMAGES",
        ),
    ] = ()
    views: Annotated[
        int, Option(CALIBRATION, "Number of --calibrate images to use.", ("--calibrate-views",), metavar="N")
    ] = 2
    resolution: Annotated[
        int,
        Option(
            CALIBRATION,
            "Longest side of these images inside the network.",
            ("--calibrate-resolution",),
            metavar="PIXELS",
        ),
    ] = 224
    keep_worst: Annotated[
        int, Option(CALIBRATION, "Number of layers that stay in bf16 after calibration.", metavar="N")
    ] = 8
    device: Device = "auto"

    def __post_init__(self) -> None:
        require(self.views >= 1, f"--calibrate-views must be at least 1, not {self.views}")
        require(self.keep_worst >= 0, f"--keep-worst must not be negative, not {self.keep_worst}")


@dataclass(frozen=True)
class ConvertConfig:
    """Options of `lite3r convert`."""

    source: Annotated[
        str,
        Argument(
            None,
            "A name from `lite3r models`, a checkpoint (.safetensors, its index or folder, .pt), or hf:OWNER/NAME.",
            metavar="SOURCE",
        ),
    ]
    output: Annotated[
        Path, Option(OUTPUT, "Output checkpoint, a .safetensors file.", ("--output", "-o"), metavar="FILE")
    ]
    weights: Annotated[
        str,
        Option(
            LAYERS,
            "Format of the weights: fp8 (E4M3, one scale per row), bf16, or float32 (values unchanged).",
            metavar="KIND",
        ),
    ] = "fp8"  # one of WEIGHTS
    attention: Annotated[
        tuple[str, ...],
        Option(
            LAYERS,
            "Modules that get sparse-linear attention: global (across views), all, none, or a name pattern. Its "
            "new weights have no effect until they are trained.",
            metavar="PATTERN",
        ),
    ] = ("global",)
    keep_ratio: Annotated[
        float | None,
        Option(
            LAYERS,
            "Share of key blocks with exact attention in these modules.",
            metavar="SHARE",
            shown="the source's, or 1",
        ),
    ] = None
    keep: Annotated[
        tuple[str, ...],
        Option(
            LAYERS,
            "Also keep these matrices in 16 bits, e.g. '*.blocks.0.*'; repeatable.",
            metavar="PATTERN",
            shown="embeddings, heads and the camera path",
        ),
    ] = ()
    quantize: Annotated[
        tuple[str, ...],
        Option(
            LAYERS,
            "Quantise these matrices too, which are kept by default, e.g. 'camera_head.*'; repeatable.",
            metavar="PATTERN",
        ),
    ] = ()
    shard_bytes: Annotated[
        int | None,
        Option(
            OUTPUT,
            "Split the output into files of at most this size, e.g. 2G, and an index.",
            ("--shard-size",),
            metavar="SIZE",
            shown="one file",
            parse=file_size,
        ),
    ] = None
    overwrite: Overwrite = False
    calibrate: CalibrateConfig | None = None

    def __post_init__(self) -> None:
        require_one_of("--weights", self.weights, WEIGHTS)
        require(
            self.output.suffix == CHECKPOINT_SUFFIX,
            f"-o {self.output}: a checkpoint's name ends in {CHECKPOINT_SUFFIX}",
        )
        require(
            self.keep_ratio is None or 0 < self.keep_ratio <= 1,
            f"--keep-ratio must lie above 0 and at most at 1, not {self.keep_ratio}",
        )
        require(
            self.keep_ratio is None or set(self.attention) != {"none"},
            "--keep-ratio is of sparse attention, and --attention none attaches none; leave one of them out",
        )
        require(self.shard_bytes is None or self.shard_bytes >= 1, "--shard-size must be positive")
        require(
            self.calibrate is None or self.weights == "fp8",
            "--calibrate chooses what to keep out of FP8: it goes with --weights fp8 only",
        )
