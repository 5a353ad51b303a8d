"""Options of `lite3r splat`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from .locating import WrittenPlace
from .option import NETWORK, OUTPUT, Option, require
from .output_names import require_suffix
from .prediction import Device

TRAINING = "Training"


@dataclass(frozen=True)
class SplatConfig:
    """The scene, and the training of Gaussians on its photos."""

    scene: WrittenPlace
    output: Annotated[
        Path | None,
        Option(
            OUTPUT,
            "Output file of the splats; .spz and .sog need splat-transform (npm).",
            ("--output", "-o"),
            metavar="FILE.ply",
            shown="next to the cloud, NAME-splats.ply",
        ),
    ] = None
    steps: Annotated[
        int,
        Option(
            TRAINING,
            "Maximum number of steps. Training ends earlier if held-out photos no longer improve.",
            metavar="N",
        ),
    ] = 1200
    size: Annotated[int, Option(TRAINING, "Photos are downscaled to this longest side.", metavar="PIXELS")] = 1024
    hold_out: Annotated[
        bool,
        Option(
            TRAINING,
            "Train on all photos for all steps. The quality of the splats is then not measured.",
            off="--no-hold-out",
        ),
    ] = True
    overwrite: Annotated[bool, Option(OUTPUT, "Replace existing splats.")] = False
    device: Device = "auto"
    seed: Annotated[
        int,
        Option(
            NETWORK,
            "Random seed. Results on a GPU are similar, not identical.",
            metavar="N",
        ),
    ] = 0

    def __post_init__(self) -> None:
        require(1 <= self.steps <= 100_000, f"--steps {self.steps}: has to lie between 1 and 100000")
        require(64 <= self.size <= 8192, f"--size {self.size}: has to lie between 64 and 8192")
        if self.output is not None:
            require_suffix("-o", self.output, "splats", ".ply", ".spz", ".sog")
