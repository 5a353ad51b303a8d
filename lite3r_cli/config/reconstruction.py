"""How views become a scene and where it is written; how predictions are scored."""

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

Overwrite = Annotated[bool, Option(OUTPUT, "Replace what an earlier run wrote there; no other file is touched.")]


@dataclass(frozen=True)
class FusionConfig:
    """How depth maps become a cloud; every filter is relative: units and the scale of confidence do not matter."""

    confidence_percentile: Annotated[
        float, Option(CLOUD, "Drop this share of all pixels, the least confident ones; 0 keeps all.", metavar="PERCENT")
    ] = 20.0
    edge_filter: Annotated[
        bool, Option(CLOUD, "Keep the pixels that float between foreground and background.", off="--no-edge-filter")
    ] = True
    max_incidence_deg: float = 84.0  # flying pixels: surface seen at a flatter angle than this, on both sides
    consistency: Annotated[
        bool, Option(CLOUD, "Keep the points that other views contradict.", off="--no-consistency")
    ] = True
    tolerance: Annotated[
        float | None,
        Option(
            CLOUD,
            "Relative depth difference up to which two views agree.",
            metavar="FRACTION",
            shown="from the scene, 0.02 to 0.15",
        ),
    ] = None
    neighbours: int = 8  # views that each view is compared with, those with most overlap
    average: bool = True  # move points to the mean of the surfaces that agree on them
    voxel: Annotated[
        float | None,
        Option(
            CLOUD,
            "Merge points within cubes of this side, in scene units (those of the depth maps).",
            ("--voxel-size",),
            metavar="SIZE",
            shown="off",
        ),
    ] = None
    max_points: Annotated[int | None, Option(CLOUD, "Keep at most N points, drawn with the seed.", metavar="N")] = (
        2_000_000
    )

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
    """Everything that was asked for; stands in run.json as it is."""

    input: InputConfig
    predict: PredictConfig = PredictConfig()
    fusion: FusionConfig = FusionConfig()
    output: Annotated[
        str,
        Option(OUTPUT, "The cloud's .ply file, or a folder that gets a scene.ply.", ("--output", "-o"), metavar="PATH"),
    ] = "scene.ply"
    formats: Annotated[
        tuple[str, ...],
        Option(
            OUTPUT,
            "Write also colmap, nerfstudio, 3dgs, mesh, tum, tum-rgbd, glb, las, laz, rrd or html; repeatable.",
            ("--format", "-f"),
            metavar="FORMAT",
        ),
    ] = ()  # keys of io.formats.EXTRA_FORMATS
    keep_unverified: Annotated[
        bool,
        Option(
            OUTPUT,
            "With --refine: export also the pictures whose cameras it could not verify; models trained on them blur.",
        ),
    ] = False
    keep_distortion: Annotated[
        bool,
        Option(
            OUTPUT, "Write the pictures beside COLMAP and nerfstudio models as the lens took them, with its parameters."
        ),
    ] = False
    preview: Annotated[bool, Option(OUTPUT, "Draw the cloud and the cameras to preview.png.")] = False
    save_npy: Annotated[bool, Option(OUTPUT, "Write depth as unrounded float32 .npy too.")] = False
    depth_unit: Annotated[
        float | None,
        Option(
            OUTPUT,
            "One scale for all depth files: mm, cm, m, or how many values a scene unit has, as TUM's 5000.",
            metavar="UNIT",
            shown="a scale for each file",
            parse=partial(parse_depth_unit, "--depth-unit", "a scene unit"),
        ),
    ] = None
    depth_at_picture_size: Annotated[
        bool, Option(OUTPUT, "Write depth/ at the size of the pictures, not of what the network saw.")
    ] = False
    previews: Annotated[
        bool,
        Option(OUTPUT, "Leave out depth_preview/ and confidence/: pictures to look at.", off="--no-previews"),
    ] = True
    keep_memory: Annotated[
        bool,
        Option(OUTPUT, "Keep each picture's features in memory/, too: locate, add and merge start sooner."),
    ] = False
    overwrite: Overwrite = False
    gpus: Annotated[
        int,
        Option(
            NETWORK,
            "Divide the views of the scene among N GPUs: mini 2, 3 or 6; vggt-1b and da3-large up to 16.",
            metavar="N",
        ),
    ] = 1
    world: WorldConfig = WorldConfig()
    long: LongConfig = LongConfig()

    def __post_init__(self) -> None:
        require(self.gpus >= 1, f"--gpus must be at least 1, not {self.gpus}")
        require(
            not (self.keep_distortion and "tum-rgbd" in self.formats),
            "--keep-distortion: the depth maps of --format tum-rgbd fit undistorted pictures only; leave one out",
        )


@dataclass(frozen=True)
class EvaluateConfig:
    """What is scored and how."""

    scenes: Annotated[
        tuple[Path, ...],
        Argument(
            None, "Folders with images/ and cameras.json (cameras and, where known, depth maps).", metavar="SCENE..."
        ),
    ]
    predict: PredictConfig = PredictConfig()
    views: Annotated[
        int,
        Option(INPUT, "Predict N consecutive images at a time, half of them shared with the next window.", metavar="N"),
    ] = 4

    def __post_init__(self) -> None:
        require(len(self.scenes) > 0, "no scenes given: name folders that hold images/ and cameras.json")
        require(self.views >= 1, f"--views must be at least 1, not {self.views}")
