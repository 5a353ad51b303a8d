"""Options of `lite3r reconstruct` and `lite3r eval` beyond the prediction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from .option import CLOUD, INPUT, NETWORK, OUTPUT, Argument, Option, require
from .prediction import InputConfig, PredictConfig, parse_depth_unit
from .sequence import LongConfig
from .world import WorldConfig

SMALLEST_VOXEL = 1e-12  # scene units; coordinates in smaller ones do not fit in 64 bits

Overwrite = Annotated[bool, Option(OUTPUT, "Replace the output of an earlier run. Other files are not touched.")]


@dataclass(frozen=True)
class FusionConfig:
    """How depth maps become a point cloud. All filters are relative, so units and the scale of confidence do not
    matter.
    """

    confidence_percentile: Annotated[
        float,
        Option(CLOUD, "Drop this percentage of all pixels, the least confident first; 0 keeps all.", metavar="PERCENT"),
    ] = 20.0
    edge_filter: Annotated[bool, Option(CLOUD, "Keep flying pixels at depth edges.", off="--no-edge-filter")] = True
    max_incidence_deg: float = 84.0  # degrees; a surface seen at a flatter angle on both sides counts as flying pixels
    consistency: Annotated[bool, Option(CLOUD, "Keep points that other views contradict.", off="--no-consistency")] = (
        True
    )
    tolerance: Annotated[
        float | None,
        Option(
            CLOUD,
            "Largest relative depth difference at which two views agree.",
            metavar="FRACTION",
            shown="estimated from the scene, 0.02 to 0.15",
        ),
    ] = None
    neighbours: int = 8  # views that each view is compared with: those with the largest overlap
    average: bool = True  # move points to the mean of the surfaces that agree on them
    voxel: Annotated[
        float | None,
        Option(
            CLOUD,
            "Merge the points in each cube of this size, in scene units (the units of the depth maps).",
            ("--voxel-size",),
            metavar="SIZE",
            shown="off",
        ),
    ] = None
    max_points: Annotated[
        int | None, Option(CLOUD, "Keep at most N points, chosen at random with --seed.", metavar="N")
    ] = 2_000_000

    def __post_init__(self) -> None:
        require(
            0 <= self.confidence_percentile < 100,
            f"--confidence-percentile must be at least 0 and below 100, not {self.confidence_percentile}",
        )
        require(
            0 < self.max_incidence_deg < 90,
            f"the largest incidence must lie between 0 and 90 degrees, not {self.max_incidence_deg}",
        )
        require(
            self.tolerance is None or 0 < self.tolerance < 1,
            f"the tolerance must lie between 0 and 1, not {self.tolerance}",
        )
        require(
            1 <= self.neighbours <= 255, f"the number of neighbours must lie between 1 and 255, not {self.neighbours}"
        )
        require(
            self.voxel is None or SMALLEST_VOXEL <= self.voxel < math.inf,
            f"--voxel-size must be at least {SMALLEST_VOXEL:g}, not {self.voxel}",
        )
        require(
            self.max_points is None or self.max_points >= 1, f"--max-points must be at least 1, not {self.max_points}"
        )


@dataclass(frozen=True)
class ReconstructConfig:
    """All options of `lite3r reconstruct`; run.json stores them."""

    input: InputConfig
    predict: PredictConfig = PredictConfig()
    fusion: FusionConfig = FusionConfig()
    output: Annotated[
        str,
        Option(OUTPUT, "Output .ply file, or a folder for scene.ply.", ("--output", "-o"), metavar="PATH"),
    ] = "scene.ply"
    formats: Annotated[
        tuple[str, ...],
        Option(
            OUTPUT,
            "Also write colmap, nerfstudio, 3dgs, mesh, textured-mesh, tum, tum-rgbd, glb, las, laz, rrd or html; "
            "repeatable.",
            ("--format", "-f"),
            metavar="FORMAT",
        ),
    ] = ()  # keys of io.formats.EXTRA_FORMATS
    keep_unverified: Annotated[
        bool,
        Option(
            OUTPUT,
            "With --refine: also export images whose cameras could not be verified. Models trained on them are "
            "blurred.",
        ),
    ] = False
    keep_distortion: Annotated[
        bool,
        Option(
            OUTPUT, "Export COLMAP and nerfstudio models with the original, distorted images and their lens parameters."
        ),
    ] = False
    preview: Annotated[bool, Option(OUTPUT, "Draw the cloud and the cameras to preview.png.")] = False
    save_npy: Annotated[bool, Option(OUTPUT, "Also write depth as float32 .npy.")] = False
    depth_unit: Annotated[
        float | None,
        Option(
            OUTPUT,
            "Use one scale for all depth files: mm, cm, m, or the number of values per scene unit, e.g. 5000 for TUM.",
            metavar="UNIT",
            shown="one scale per file",
            parse=partial(parse_depth_unit, "--depth-unit", "a scene unit"),
        ),
    ] = None
    depth_at_picture_size: Annotated[
        bool, Option(OUTPUT, "Write depth/ at the size of the original images instead of the network's resolution.")
    ] = False
    previews: Annotated[
        bool,
        Option(OUTPUT, "Do not write the preview images depth_preview/ and confidence/.", off="--no-previews"),
    ] = True
    keep_memory: Annotated[
        bool,
        Option(OUTPUT, "Also store image features in memory/, so that locate, add and merge start faster."),
    ] = False
    all_frames: Annotated[
        bool,
        Option(
            OUTPUT,
            "Write the cameras of all frames of a video to frames.json (and trajectory.txt), not only of key "
            "frames. The others are computed by tracking.",
        ),
    ] = False
    overwrite: Overwrite = False
    gpus: Annotated[
        int,
        Option(
            NETWORK,
            "Split the views of one scene over N GPUs: 2, 3 or 6 for mini; 2, 4, 8 or 16 for vggt-1b and da3-large.",
            metavar="N",
        ),
    ] = 1
    world: WorldConfig = WorldConfig()
    long: LongConfig = LongConfig()

    def __post_init__(self) -> None:
        require(self.gpus >= 1, f"--gpus must be at least 1, not {self.gpus}")
        require(
            not (self.keep_distortion and "tum-rgbd" in self.formats),
            "--keep-distortion: the depth maps of --format tum-rgbd fit undistorted images only; leave one out",
        )


@dataclass(frozen=True)
class EvaluateConfig:
    """Options of `lite3r eval`."""

    scenes: Annotated[
        tuple[Path, ...],
        Argument(
            None, "Folders with images/ and cameras.json (cameras and, if known, depth maps).", metavar="SCENE..."
        ),
    ]
    predict: PredictConfig = PredictConfig()
    views: Annotated[
        int,
        Option(
            INPUT,
            "Predict N consecutive images at a time. Neighbouring windows share half of their images.",
            metavar="N",
        ),
    ] = 4

    def __post_init__(self) -> None:
        require(len(self.scenes) > 0, "no scenes given: name folders that hold images/ and cameras.json")
        require(self.views >= 1, f"--views must be at least 1, not {self.views}")
