"""Options of `lite3r synth`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from .option import OUTPUT, Option, require
from .output_names import require_folder
from .prediction import Device

SCENES, RENDERING = "Scenes", "Rendering"


@dataclass(frozen=True)
class SynthConfig:
    """The procedural scenes and how they are rendered."""

    output: Annotated[
        Path, Option(OUTPUT, "Output folder for scene-000/, scene-001/ and so on.", ("--output", "-o"), metavar="DIR")
    ]
    scenes: Annotated[int, Option(SCENES, "Number of scenes.", metavar="N")] = 1
    views: Annotated[int, Option(SCENES, "Photos per scene.", metavar="N")] = 8
    width: Annotated[int, Option(RENDERING, "Width of the images.", metavar="PIXELS")] = 640
    height: Annotated[int, Option(RENDERING, "Height of the images.", metavar="PIXELS")] = 480
    seed: Annotated[int, Option(SCENES, "The same seed gives the same scenes.", metavar="N")] = 0
    kind: Annotated[
        str | None,
        Option(
            SCENES,
            "Kind of scene.",
            metavar="chaos|collage|room|desk|facade|outdoor|street",
            shown="a mixture, as in training",
        ),
    ] = None  # a key of data.procedural.sampling.SAMPLERS
    field_of_view: Annotated[
        float | None,
        Option(
            SCENES,
            "Field of view along the longer side. Some photos are zoomed by up to 5 %.",
            metavar="DEGREES",
            shown="depends on the kind of scene",
        ),
    ] = None
    textures: Annotated[
        Path | None,
        Option(
            SCENES,
            ".npz file of JPEG crops (`data`, `offsets`) that texture the surfaces, in addition to patterns.",
            metavar="FILE",
        ),
    ] = None
    samples: Annotated[int, Option(RENDERING, "Rays per pixel, 1 to 8.", metavar="N")] = 8
    quality: Annotated[int, Option(RENDERING, "JPEG quality.", metavar="1-100")] = 95
    device: Device = "auto"
    overwrite: Annotated[bool, Option(OUTPUT, "Replace scenes that an earlier run wrote.")] = False

    def __post_init__(self) -> None:
        require_folder("-o", self.output)
        bounds = {
            "scenes": (1, 10**6),
            "views": (1, 1000),
            "width": (16, 8192),
            "height": (16, 8192),
            "samples": (1, 8),
            "quality": (1, 100),
        }
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            require(low <= value <= high, f"--{name} {value}: has to lie between {low} and {high}")
        require(
            self.field_of_view is None or 5 <= self.field_of_view <= 140,
            f"--field-of-view {self.field_of_view}: has to lie between 5 and 140 degrees",
        )
        require(self.seed >= 0, f"--seed {self.seed}: has to be 0 or more")

    def folder(self, index: int) -> Path:
        """The folder of scene number `index`."""
        return self.output / f"scene-{index:03d}"
