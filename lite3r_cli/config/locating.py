"""Options of `lite3r locate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from .option import INPUT, NETWORK, Argument, Option, require
from .prediction import DTYPES, Device, Dtype, require_device, require_one_of

WrittenPlace = Annotated[
    Path, Argument(INPUT, "A scene that `lite3r reconstruct` wrote: the .ply file, or its folder.", metavar="SCENE")
]
NewPhotos = Annotated[tuple[Path, ...], Argument(INPUT, "New photos: files, folders, or videos.", metavar="PHOTOS")]
NearestViews = Annotated[
    int,
    Option(
        NETWORK,
        "Predict each new photo together with its N most similar photos of the scene.",
        metavar="N",
    ),
]


@dataclass(frozen=True)
class LocateConfig:
    """The scene, the new photos, and the network."""

    scene: WrittenPlace
    inputs: NewPhotos
    views: NearestViews = 3
    model: Annotated[
        str | None,
        Option(
            NETWORK,
            "A name from `lite3r models`, or a checkpoint file.",
            ("--model", "-m"),
            metavar="MODEL",
            shown="that of the scene",
        ),
    ] = None
    resolution: Annotated[
        int | None,
        Option(
            NETWORK,
            "Longest side of an image inside the network.",
            ("--resolution", "-r"),
            metavar="PIXELS",
            shown="that of the scene",
        ),
    ] = None
    device: Device = "auto"
    dtype: Dtype = "auto"

    def __post_init__(self) -> None:
        require(len(self.inputs) > 0, "no photos given: name the files to locate")
        require(self.views >= 1, f"--views must be at least 1, not {self.views}")
        require_device(self.device)
        require_one_of("--dtype", self.dtype, DTYPES)
