"""`lite3r synth`: make scenes with exact cameras and depth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import console
from . import options


def synth(
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Folder that gets scene-000/, scene-001/ and so on.")
    ],
    scenes: Annotated[int, typer.Option(metavar="N", help="Number of scenes.")] = 1,
    views: Annotated[int, typer.Option(metavar="N", help="Photographs of each scene.")] = 8,
    width: Annotated[int, typer.Option(metavar="PIXELS", help="Width of the images.")] = 640,
    height: Annotated[int, typer.Option(metavar="PIXELS", help="Height of the images.")] = 480,
    kind: Annotated[
        str | None,
        typer.Option(
            metavar="chaos|collage|room|desk|facade|outdoor|street", help="What to show.", show_default="a mixture"
        ),
    ] = None,
    field_of_view: Annotated[
        float | None,
        typer.Option(
            metavar="DEGREES",
            help="Field of view along the longer side; some photographs of a scene may be zoomed by 5 % either way.",
            show_default="what suits the scene",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed gives the same scenes.")] = 0,
    textures: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=".npz of JPEG crops (`data`, `offsets`) to paint surfaces with, besides patterns.",
            show_default=False,
        ),
    ] = None,
    samples: Annotated[int, typer.Option(metavar="N", help="Rays per pixel, 1 to 8.")] = 8,
    quality: Annotated[int, typer.Option(metavar="1-100", help="JPEG quality.")] = 95,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where to render.")] = "auto",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace scenes that this command wrote before.")
    ] = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """Make procedural scenes: photographs with exact cameras and depth, in the format of the sample scenes.

    Example: lite3r synth -o scenes --scenes 4 --kind facade --seed 7
    """
    from ..pipelines.synth import SynthConfig, run

    config = SynthConfig(
        output,
        scenes,
        views,
        width,
        height,
        seed,
        kind,
        textures,
        samples=samples,
        quality=quality,
        device=device,
        overwrite=overwrite,
        field_of_view=field_of_view,
    )
    for folder in run(config, console.progress()):
        console.text(str(folder))
