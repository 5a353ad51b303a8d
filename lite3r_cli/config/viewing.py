"""Options of `lite3r view`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from .option import OUTPUT, Argument, Option, require
from .output_names import require_suffix


@dataclass(frozen=True)
class ViewConfig:
    """The scene and its HTML page."""

    scene: Annotated[
        Path, Argument(None, "A scene that `lite3r reconstruct` wrote: the .ply file, or its folder.", metavar="SCENE")
    ]
    output: Annotated[
        Path | None,
        Option(
            OUTPUT,
            "Output HTML file.",
            ("--output", "-o"),
            metavar="FILE.html",
            shown="next to the cloud, with its name",
        ),
    ] = None
    serve: Annotated[
        bool,
        Option(
            OUTPUT,
            "Serve the scene to a browser on this machine until Ctrl-C instead of writing a page. For clouds of "
            "many millions of points, which are thinned by distance, and for a run in chunks that is still going on "
            "(pip install 'lite3r\\[serve]').",
        ),
    ] = False
    port: Annotated[int, Option(OUTPUT, "Port of --serve.", metavar="N")] = 8080
    open: Annotated[bool, Option(OUTPUT, "Open the page in a browser on this machine.")] = False
    overwrite: Annotated[bool, Option(OUTPUT, "Replace an existing file that lite3r did not write.")] = False

    def __post_init__(self) -> None:
        require(0 < self.port < 65536, f"--port {self.port}: has to lie between 1 and 65535")
        require(not (self.serve and self.output), "--serve writes no page: leave out -o")
        if self.output is not None and not os.path.isdir(self.output):  # false in a folder without permission
            require_suffix("-o", self.output, "a page", ".html", ".htm")
