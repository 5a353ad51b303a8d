"""What `lite3r view` shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from .option import OUTPUT, Argument, Option


@dataclass(frozen=True)
class ViewConfig:
    """A scene, and where its page goes."""

    scene: Annotated[
        Path, Argument(None, "What reconstruct wrote: the .ply file, or the folder of the scene.", metavar="SCENE")
    ]
    output: Annotated[
        Path | None,
        Option(OUTPUT, "The page.", ("--output", "-o"), metavar="FILE.html", shown="beside the cloud, with its name"),
    ] = None
    open: Annotated[bool, Option(OUTPUT, "Open the page in the browser of this machine.")] = False
    overwrite: Annotated[bool, Option(OUTPUT, "Replace a file that is no page of this program.")] = False
