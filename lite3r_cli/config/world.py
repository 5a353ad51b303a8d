"""Which way is up, how large the scene is, and where on Earth it stands."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from .option import WORLD, Option, require

UPS = ("auto", "none", "camera")
WORLDS = ("auto", "level")


def parse_up(text: str) -> tuple[float, float, float]:
    """The direction of `--up x,y,z`. Raises UsageError."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    ok = len(values) == 3 and all(map(math.isfinite, values)) and any(values)
    require(ok, f"--up must be one of {', '.join(UPS)}, or a direction x,y,z in the frame of the outputs, not {text!r}")
    return values[0], values[1], values[2]


@dataclass(frozen=True)
class WorldConfig:
    """The frame that a scene stands in."""

    up: Annotated[
        str,
        Option(
            WORLD,
            "Which way is up: auto looks for vertical edges (or what a drone's gimbal says); none; camera: how the "
            "cameras are held; or a direction x,y,z. Previews and GLB are levelled with it.",
            metavar="HOW",
        ),
    ] = "auto"  # one of UPS, or x,y,z
    world: Annotated[
        str,
        Option(
            WORLD,
            "Frame of all outputs: auto is that of --cameras, else the first camera; level: z up, the origin on the "
            "ground below the middle of the cameras.",
            metavar="FRAME",
        ),
    ] = "auto"  # one of WORLDS

    def __post_init__(self) -> None:
        if self.up not in UPS:
            parse_up(self.up)
        require(self.world in WORLDS, f"--world must be one of {', '.join(WORLDS)}, not {self.world!r}")
        require(
            self.world != "level" or self.up != "none", "--world level needs to know what is up: leave out --up none"
        )
