"""Options of `lite3r add` and `lite3r merge`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from .locating import NearestViews, NewPhotos, WrittenPlace
from .option import CAMERAS, INPUT, NETWORK, OUTPUT, Argument, Option, require
from .prediction import DTYPES, Device, Dtype, require_device, require_one_of
from .reconstruction import Overwrite

Adjust = Annotated[
    bool,
    Option(
        CAMERAS,
        "Adjust the cameras of old and new photos together to matched features (pip install 'lite3r\\[colmap]'). "
        "Without it the old cameras do not change.",
    ),
]


@dataclass(frozen=True)
class AddConfig:
    """Options of `lite3r add`: the scene and the new photos."""

    scene: WrittenPlace
    inputs: NewPhotos
    cameras: Annotated[
        Path | None,
        Option(
            CAMERAS,
            "Known cameras of the new photos, in the frame of the scene: cameras.json, transforms.json, a COLMAP "
            "folder, or a TUM trajectory (.txt, which gets the focal length of the scene). `lite3r render --frames` "
            "writes such a cameras.json for its frames.",
            metavar="PATH",
        ),
    ] = None
    adjust: Adjust = False
    views: NearestViews = 4
    device: Device = "auto"
    dtype: Dtype = "auto"

    def __post_init__(self) -> None:
        require(len(self.inputs) > 0, "no photos given: name the files to add")
        require(self.views >= 1, f"--views must be at least 1, not {self.views}")
        require_device(self.device)
        require_one_of("--dtype", self.dtype, DTYPES)


@dataclass(frozen=True)
class MergeConfig:
    """Options of `lite3r merge`: the two scenes and the output."""

    first: Annotated[
        Path,
        Argument(
            INPUT, "A scene that `lite3r reconstruct` wrote. The result has its frame and scale.", metavar="SCENE"
        ),
    ]
    second: Annotated[Path, Argument(INPUT, "Another scene that overlaps with the first.", metavar="OTHER")]
    output: Annotated[
        str,
        Option(OUTPUT, "Output .ply file, or a folder for scene.ply.", ("--output", "-o"), metavar="PATH"),
    ]
    overwrite: Overwrite = False
    adjust: Annotated[
        bool,
        Option(CAMERAS, "Adjust all cameras together to matched features (pip install 'lite3r\\[colmap]')."),
    ] = False
    views: Annotated[
        int,
        Option(NETWORK, "Predict N photos of each scene together, where the scenes overlap.", metavar="N"),
    ] = 6
    device: Device = "auto"
    dtype: Dtype = "auto"

    def __post_init__(self) -> None:
        require(self.views >= 1, f"--views must be at least 1, not {self.views}")
        require_device(self.device)
        require_one_of("--dtype", self.dtype, DTYPES)
