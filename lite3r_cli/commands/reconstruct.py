"""`lite3r reconstruct`: photographs in; cloud, depth maps and cameras out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import console
from ..config import InputConfig, PredictConfig, scene_file
from . import options


def _output(*names: str, help: str, **more: object):
    return typer.Option(*names, help=help, rich_help_panel=options.OUTPUT, **more)


Output = Annotated[
    str,
    _output("--output", "-o", metavar="PATH", help="The cloud's .ply file, or a folder that gets a scene.ply."),
]
Formats = Annotated[
    list[str],
    _output(
        "--format", "-f", metavar="FORMAT", show_default=False,
        help="Write also colmap, nerfstudio, tum or glb; may be given several times.",
    ),
]  # fmt: skip
Preview = Annotated[
    bool, _output("--preview", metavar="", show_default=False, help="Draw the cloud and the cameras to preview.png.")
]
SaveNpy = Annotated[
    bool, _output("--save-npy", metavar="", show_default=False, help="Write depth also as float32 .npy, without rounding.")
]
SkipExisting = Annotated[
    bool,
    _output(
        "--skip-existing", metavar="", show_default=False,
        help="Do nothing, successfully, if the output is already complete: for shell loops.",
    ),
]  # fmt: skip


def reconstruct(
    images: options.Images,
    output: Output = "scene.ply",
    formats: Formats = [],
    preview: Preview = False,
    save_npy: SaveNpy = False,
    overwrite: options.Overwrite = False,
    skip_existing: SkipExisting = False,
    masks: options.Masks = None,
    max_views: options.MaxViews = None,
    stride: options.Stride = InputConfig.stride,
    max_pixels: options.MaxPixels = InputConfig.max_pixels,
    strict: options.Strict = False,
    model: options.Model = PredictConfig.model,
    resolution: options.Resolution = PredictConfig.resolution,
    device: options.Device = PredictConfig.device,
    dtype: options.Dtype = PredictConfig.dtype,
    seed: options.Seed = PredictConfig.seed,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """Reconstruct a scene: photographs in; a coloured cloud, depth maps and cameras out.

    [bold]lite3r reconstruct photos -o scene.ply[/bold] writes scene.ply and a folder scene/
    with cameras.json, depth/, depth_preview/, confidence/ and run.json.

    The world frame is the first camera (x right, y down, z forward).
    Depth is along z, in scene units: photographs alone do not tell the scale.
    """
