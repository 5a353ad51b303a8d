"""Options of the world frame: up direction, scale, location."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from .option import WORLD, Option, require

UPS = ("auto", "none", "camera")
WORLDS = ("auto", "level", "enu")
SHORTEST, LONGEST = 1e-6, 1e9  # metres: with others, coordinates leave the range of single precision


def parse_up(text: str) -> tuple[float, float, float]:
    """The direction x,y,z of `--up`. Raises UsageError."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    ok = len(values) == 3 and 1e-6 <= math.hypot(*values) <= 1e6  # others lose their direction when they are squared
    require(ok, f"--up must be one of {', '.join(UPS)}, or a direction x,y,z in the frame of the outputs, not {text!r}")
    return values[0], values[1], values[2]


@dataclass(frozen=True)
class WorldConfig:
    """The world frame of a scene."""

    up: Annotated[
        str,
        Option(
            WORLD,
            "Up direction, used to level previews and GLB. auto: from vertical edges or the gimbal angles of a "
            "drone; none; camera: from how the cameras are held; or a direction x,y,z.",
            metavar="HOW",
        ),
    ] = "auto"  # one of UPS, or x,y,z
    world: Annotated[
        str,
        Option(
            WORLD,
            "World frame of all outputs. auto: that of --cameras, else the first camera; level: z up, origin on "
            "the ground below the centre of the cameras; enu: metres east, north, up, from GPS in the images or "
            "--gcp.",
            metavar="FRAME",
        ),
    ] = "auto"  # one of WORLDS
    scale_from: Annotated[
        tuple[str, str, float] | None,
        Option(WORLD, "Metric scale from the distance between the cameras of images A and B.", metavar="A B METRES"),
    ] = None
    scale_points: Annotated[
        tuple[str, str, str, float] | None,
        Option(
            WORLD,
            "Metric scale from the distance between the points that two pixels X,Y of an image show.",
            metavar="X,Y X,Y IMAGE METRES",
        ),
    ] = None
    camera_height: Annotated[
        float | None,
        Option(WORLD, "Metric scale from the height of the cameras above level ground.", metavar="METRES"),
    ] = None
    gcp: Annotated[
        Path | None,
        Option(
            WORLD,
            "Ground control points (gcp_list.txt of OpenDroneMap). The world frame becomes metres east, north, up.",
            metavar="FILE",
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.up not in UPS:
            parse_up(self.up)
        require(self.world in WORLDS, f"--world must be one of {', '.join(WORLDS)}, not {self.world!r}")
        require(
            self.world != "level" or self.up != "none", "--world level needs to know what is up: leave out --up none"
        )
        ways = {
            "--scale-from": self.scale_from, "--scale-points": self.scale_points, "--camera-height": self.camera_height,
            "--gcp": self.gcp, "--world enu": None if self.gcp or self.world != "enu" else True,
        }  # fmt: skip
        given = [name for name, value in ways.items() if value is not None]
        require(len(given) < 2, f"{' and '.join(given)} both say how large the scene is: give one")
        lengths = [self.camera_height, *(way[-1] for way in (self.scale_from, self.scale_points) if way is not None)]
        for metres in lengths:
            ok = metres is None or SHORTEST <= metres <= LONGEST
            name = given[0] if given else ""
            require(ok, f"{name}: metres have to lie between {SHORTEST:g} and {LONGEST:g}, not {metres}")
        if self.scale_points is not None:
            self.pixels()
        require(
            self.camera_height is None or self.up != "none",
            "--camera-height needs to know what is up: leave out --up none",
        )

    def pixels(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """The two pixels of `--scale-points`. Raises UsageError."""
        assert self.scale_points is not None
        found = []
        for text in self.scale_points[:2]:
            try:
                x, y = map(float, text.split(","))
            except ValueError:
                x = math.nan
            require(math.isfinite(x), f"--scale-points: a pixel is X,Y, not {text!r}")
            found.append((x, y))
        return found[0], found[1]
