"""Options that several commands share, declared once: `model: options.Model = PredictConfig.model`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import console

INPUT, MODEL, CLOUD, OUTPUT, GENERAL = "Input", "Network", "Point cloud", "Output", "General"


def _option(panel: str, *names: str, help: str, **more: object):
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


def _flag(panel: str, *names: str, help: str, **more: object):
    return typer.Option(*names, help=help, rich_help_panel=panel, metavar="", show_default=False, **more)


# Which images
Images = Annotated[
    list[Path],
    typer.Argument(help="A folder of photos, several image files, or a video.", metavar="IMAGES", show_default=False),
]
Masks = Annotated[
    Path | None,
    _option(
        INPUT, "--masks", metavar="DIR", show_default=False,
        help="Folder of masks named like the images (a.jpg.png or a.png); black pixels are ignored.",
    ),
]  # fmt: skip
MaxViews = Annotated[
    int | None,
    _option(
        INPUT, "--max-views", metavar="N", show_default="all",
        help="Use at most N images, spread evenly over the set. Time and memory grow with it.",
    ),
]  # fmt: skip
Stride = Annotated[int, _option(INPUT, "--stride", metavar="N", help="Use every N-th image or video frame.")]
MaxPixels = Annotated[
    int, _option(INPUT, "--max-pixels", metavar="N", help="Skip images of more pixels than this, unread.")
]
Strict = Annotated[
    bool,
    _flag(
        INPUT, "--strict",
        help="Fail at the first image that cannot be used, and on an empty cloud, instead of warning.",
    ),
]  # fmt: skip

# Which network, on what
Model = Annotated[
    str,
    _option(MODEL, "--model", "-m", metavar="MODEL", help="A name from `lite3r models`, or a checkpoint file."),
]
Resolution = Annotated[
    int | None,
    _option(
        MODEL, "--resolution", "-r", metavar="PIXELS",
        show_default="the model's: 518, or 504 for da3; mini does not enlarge",
        help="Longest side of an image inside the network. Smaller is faster and coarser.",
    ),
]  # fmt: skip
Preprocess = Annotated[
    str,
    _option(
        MODEL, "--preprocess", metavar="HOW",
        help="keep shows the network the whole image in its aspect ratio; native crops as the model's authors do.",
    ),
]  # fmt: skip
DA3_ONLY = "Network: Depth-Anything-3 only"
Poses = Annotated[
    str,
    _option(
        DA3_ONLY,
        "--poses",
        metavar="HOW",
        help="Cameras from the camera tokens, or rays: fitted to the predicted rays.",
    ),
]
ReferenceView = Annotated[
    str,
    _option(
        DA3_ONLY, "--reference-view", metavar="HOW",
        help="Which view the network refers the others to: saddle_balanced, saddle_sim_range, middle or first.",
    ),
]  # fmt: skip
Cameras = Annotated[
    Path | None,
    _option(
        MODEL, "--cameras", metavar="PATH", show_default=False,
        help="The known camera of every image (cameras.json, transforms.json or a COLMAP folder): depth comes in their "
        "scale. For da3 models, and for any model with --refine.",
    ),
]  # fmt: skip
Refine = Annotated[
    bool,
    _flag(
        MODEL, "--refine",
        help="Adjust cameras and depth to matched features (pip install 'lite3r\\[colmap]'); slower, but exact.",
    ),
]  # fmt: skip
Intrinsics = Annotated[
    str,
    _option(
        MODEL, "--intrinsics", metavar="HOW",
        help="Focal lengths with --refine: shared by all images, per-image, or auto: shared where that fits as well.",
    ),
]  # fmt: skip
Device = Annotated[
    str,
    _option(MODEL, "--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:N; auto takes a GPU if there is one."),
]
Dtype = Annotated[
    str,
    _option(
        MODEL, "--dtype", metavar="DTYPE",
        help="Precision: auto, float32 or bfloat16; auto takes bfloat16 where the hardware computes in it.",
    ),
]  # fmt: skip
Seed = Annotated[int, _option(MODEL, "--seed", metavar="N", help="Same seed and device, same result to the last byte.")]

ATTENTION = "Network: attention across views, arithmetic"
Attention = Annotated[
    str,
    _option(
        ATTENTION, "--attention", metavar="KIND",
        help="dense, or sla: sparse-linear, which computes a part of it; auto is what the checkpoint was made for.",
    ),
]  # fmt: skip
KeepRatio = Annotated[
    float | None,
    _option(
        ATTENTION, "--keep-ratio", metavar="SHARE", show_default="the checkpoint's, or 0.25",
        help="Share of attention across views that sla computes.",
    ),
]  # fmt: skip
Engine = Annotated[
    str,
    _option(
        ATTENTION, "--engine", metavar="HOW",
        help="fast: VGGT and Depth-Anything-3 by fused kernels, on a GPU; ordinary: layer by layer, as their authors "
        "do; auto is fast with sla or FP8.",
    ),
]  # fmt: skip
Fp8Backend = Annotated[
    str,
    _option(
        ATTENTION, "--fp8-backend", metavar="BACKEND",
        help="FP8 products by scaled-mm, te or emulate (anywhere, slow), or off; auto is FP8 where the checkpoint was "
        "trained for it and the GPU has it.",
    ),
]  # fmt: skip

# How depth maps become a cloud. Defaults are those of fusion.FusionConfig, repeated because importing it imports NumPy.
CONFIDENCE_PERCENTILE = 20.0
MAX_POINTS = 2_000_000

ConfidencePercentile = Annotated[
    float,
    _option(
        CLOUD, "--confidence-percentile", metavar="PERCENT",
        help="Drop this share of all pixels, the least confident ones; 0 keeps all.",
    ),
]  # fmt: skip
NoEdgeFilter = Annotated[
    bool,
    _flag(
        CLOUD, "--no-edge-filter",
        help="Keep the pixels that float between foreground and background.",
    ),
]  # fmt: skip
NoConsistency = Annotated[
    bool,
    _flag(
        CLOUD, "--no-consistency",
        help="Keep the points that other views contradict.",
    ),
]  # fmt: skip
Tolerance = Annotated[
    float | None,
    _option(
        CLOUD, "--tolerance", metavar="FRACTION", show_default="from the scene, 0.02 to 0.15",
        help="Relative depth difference up to which two views agree.",
    ),
]  # fmt: skip
VoxelSize = Annotated[
    float | None,
    _option(
        CLOUD, "--voxel-size", metavar="SIZE", show_default="off",
        help="Merge points within cubes of this side, in scene units (those of the depth maps).",
    ),
]  # fmt: skip
MaxPoints = Annotated[
    int, _option(CLOUD, "--max-points", metavar="N", help="Keep at most N points, drawn with the seed.")
]

# Where the result goes
Overwrite = Annotated[
    bool,
    _flag(
        OUTPUT, "--overwrite",
        help="Replace what an earlier run wrote there; no other file is touched.",
    ),
]  # fmt: skip

# Manners
Json = Annotated[
    bool,
    _flag(
        GENERAL, "--json", callback=console.set_json,
        help="Print one JSON document on standard output instead of the table.",
    ),
]  # fmt: skip
Quiet = Annotated[
    bool,
    _flag(
        GENERAL, "--quiet", "-q", callback=console.set_quiet,
        help="Print warnings and errors only.",
    ),
]  # fmt: skip
Verbose = Annotated[
    bool,
    _flag(
        GENERAL, "--verbose", "-v", callback=console.set_verbose,
        help="Say also what was chosen and why.",
    ),
]  # fmt: skip
Debug = Annotated[
    bool,
    _flag(
        GENERAL, "--debug", callback=console.set_debug,
        help="Show the traceback of an error.",
    ),
]  # fmt: skip
