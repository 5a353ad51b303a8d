"""What `lite3r view` shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from .option import OUTPUT, Argument, Option, require


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
    serve: Annotated[
        bool,
        Option(
            OUTPUT,
            "Serve the scene to a browser of this machine instead of writing a page, until Ctrl-C: for clouds of many "
            "millions of points, of which it sends those that can be told apart.",
        ),
    ] = False
    port: Annotated[int, Option(OUTPUT, "Where to serve it.", metavar="N")] = 8080
    open: Annotated[bool, Option(OUTPUT, "Open the page in the browser of this machine.")] = False
    overwrite: Annotated[bool, Option(OUTPUT, "Replace a file that is no page of this program.")] = False

    def __post_init__(self) -> None:
        require(0 < self.port < 65536, f"--port {self.port}: has to lie between 1 and 65535")
        require(not (self.serve and self.output), "--serve writes no page: leave out -o")
