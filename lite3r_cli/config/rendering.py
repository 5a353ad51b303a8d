"""Options of `lite3r render`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ..errors import UsageError
from .option import INPUT, OUTPUT, Argument, Option, require
from .output_names import require_folder, require_suffix
from .prediction import Device

FLIGHT = "Flight"
PATHS = ("cameras", "orbit")  # any other value is a file


def size_of(text: str) -> tuple[int, int]:
    """WIDTHxHEIGHT → (width, height). Raises UsageError."""
    width, _, height = text.lower().partition("x")
    if not (width.isascii() and width.isdigit() and height.isascii() and height.isdigit()):
        raise UsageError(f"--size {text}: give width and height in pixels, as in 1920x1080")
    found = int(width), int(height)
    require(
        all(16 <= side <= 8192 and side % 2 == 0 for side in found),
        f"--size {text}: both sides have to be even numbers from 16 to 8192",
    )
    return found


def _require_apart(film: Path, frames: Path) -> None:
    """Raise UsageError if one of the outputs would lie within the other. The video may lie directly in the folder of
    the frames, beside rgb/.
    """
    film, frames = Path(os.path.realpath(film)), Path(os.path.realpath(frames))
    require(film != frames, f"-o and --frames both name {film}: give each its own name")
    require(film not in frames.parents, f"--frames {frames}: lies below the video {film}; give it another name")
    require(
        frames not in film.parent.parents,
        f"-o {film}: lies below the frames; put the video into {frames} itself or elsewhere",
    )


@dataclass(frozen=True)
class RenderConfig:
    """The scene, the path of the camera, and the outputs."""

    scene: Annotated[
        Path, Argument(INPUT, "A scene that `lite3r reconstruct` wrote: the .ply file, or its folder.", metavar="SCENE")
    ]
    output: Annotated[
        Path | None,
        Option(
            OUTPUT,
            "Output video file.",
            ("--output", "-o"),
            metavar="FILE.mp4",
            shown="next to the cloud, with its name",
        ),
    ] = None
    path: Annotated[
        str,
        Option(
            FLIGHT,
            "Path of the camera. cameras: a smooth flight through the cameras of the photos; orbit: around "
            "the scene; or a file with cameras to fly through: cameras.json, transforms.json, a nerfstudio "
            "camera path, or a TUM trajectory.",
            metavar="cameras|orbit|FILE",
        ),
    ] = "cameras"
    exact: Annotated[
        bool, Option(FLIGHT, "With a --path file: render one frame per camera instead of a smooth flight.")
    ] = False
    seconds: Annotated[float, Option(FLIGHT, "Length of the flight.", metavar="SECONDS")] = 8.0
    fps: Annotated[float, Option(FLIGHT, "Frames per second.", metavar="N")] = 30.0
    size: Annotated[
        tuple[int, int],
        Option(FLIGHT, "Width and height of the video.", metavar="WIDTHxHEIGHT", parse=size_of, default="1280x720"),
    ] = (1280, 720)
    frames: Annotated[
        Path | None,
        Option(
            OUTPUT,
            "Also write all frames to this folder: rgb/, depth/, seen/ (white where some photo saw the "
            "surface), and cameras.json. Without -o no video is made then.",
            metavar="DIR",
        ),
    ] = None
    condition: Annotated[
        int | None,
        Option(
            OUTPUT,
            "With --frames: list for each frame the N photos that show most of it (condition.json), and "
            "copy them to photographs/.",
            metavar="N",
        ),
    ] = None
    overwrite: Annotated[bool, Option(OUTPUT, "Replace an existing video and existing frames.")] = False
    device: Device = "auto"

    def __post_init__(self) -> None:
        require(0 < self.seconds <= 3600, f"--seconds {self.seconds:g}: has to lie between 0 and 3600")
        require(0 < self.fps <= 240, f"--fps {self.fps:g}: has to lie between 0 and 240")
        require(
            self.condition is None or self.frames is not None, "--condition needs --frames DIR, where it is written"
        )
        require(self.condition is None or self.condition >= 1, f"--condition {self.condition}: has to be 1 or more")
        require(not self.exact or self.path not in PATHS, "--exact needs --path FILE")
        if self.output is not None:
            require_suffix("-o", self.output, "a video", ".mp4", ".mov", ".mkv")
        if self.frames is not None:
            require_folder("--frames", self.frames)
        if self.output is not None and self.frames is not None:
            _require_apart(self.output, self.frames)

    @property
    def count(self) -> int:
        """Number of frames of a smooth flight."""
        return max(2, round(self.seconds * self.fps))
