"""What `lite3r splat` trains on, how long, and where the splats go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from .locating import WrittenPlace
from .option import NETWORK, OUTPUT, Option, require
from .prediction import Device

TRAINING = "Training"


@dataclass(frozen=True)
class SplatConfig:
    """A scene, and a short training of Gaussians on its photographs."""

    scene: WrittenPlace
    output: Annotated[
        Path | None,
        Option(
            OUTPUT, "The splats.", ("--output", "-o"), metavar="FILE.ply", shown="beside the cloud, NAME-splats.ply"
        ),
    ] = None
    steps: Annotated[
        int,
        Option(
            TRAINING, "At most so many steps; it ends before where held-out photographs no longer gain.", metavar="N"
        ),
    ] = 2000
    size: Annotated[
        int, Option(TRAINING, "Photographs are made smaller until no side is longer.", metavar="PIXELS")
    ] = 1024
    hold_out: Annotated[
        bool,
        Option(
            TRAINING,
            "Train on all photographs, for all steps; nothing tells then when to end, or how good the splats are.",
            off="--no-hold-out",
        ),
    ] = True
    overwrite: Annotated[bool, Option(OUTPUT, "Replace splats that are there already.")] = False
    device: Device = "auto"
    seed: Annotated[
        int,
        Option(
            NETWORK,
            "Of the order of the photographs and of the growth; on a GPU results are alike, not equal.",
            metavar="N",
        ),
    ] = 0

    def __post_init__(self) -> None:
        require(1 <= self.steps <= 100_000, f"--steps {self.steps}: has to lie between 1 and 100000")
        require(64 <= self.size <= 8192, f"--size {self.size}: has to lie between 64 and 8192")
        ok = self.output is None or self.output.suffix.lower() == ".ply"
        require(ok, f"-o {self.output}: the name of splats ends in .ply")
