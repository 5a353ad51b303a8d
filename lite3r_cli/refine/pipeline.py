"""Refines predicted views, with an account of the decision for each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from ..console import Progress
from ..scene.posed_view import View
from ..scene.priors import PositionPrior
from ..scene.sparse_points import SparseModel
from ..world.undistort import Undistortion, undistorted
from .backend import quiet_pycolmap
from .camera_refinement import refine_cameras, triangulate
from .depth_refinement import refine_depth
from .early import EarlyMatches
from .keypoints import ReadImage, ReadMask
from .refine_config import RefineConfig
from .verdicts import KEPT, names_of


@dataclass(frozen=True)
class Refined:
    """The result of `--refine`."""

    views: list[View]
    sparse: SparseModel | None  # None if no camera could be refined
    verdicts: list[dict[str, object]]  # per view, for run.json
    warnings: list[str]
    account: dict[str, object] | None = None  # of the camera search, for run.json


@quiet_pycolmap()
def refine(
    views: Sequence[View],
    read_rgb: ReadImage,
    read_mask: ReadMask | None = None,
    config: RefineConfig = RefineConfig(),
    progress: Progress | None = None,
    device: torch.device = torch.device("cpu"),
    given: bool = False,
    positions: Sequence[PositionPrior | None] = (),
    early: EarlyMatches | None = None,
) -> Refined:
    """Refine cameras, then the depth maps of views with verified cameras; stereo runs on `device`.

    `given`: the cameras are known and do not change. `positions`: the GPS position of each view, () = none. `early` has
    begun to match the images, with the same config. Raises BackendError without pycolmap.
    """
    progress = progress or Progress()
    with progress.stage("Refine cameras", total=len(views)) as step:
        if given:
            cameras = triangulate(views, read_rgb, read_mask, config, step, early)
        else:
            cameras = refine_cameras(views, read_rgb, read_mask, config, step, positions, early)
    verdicts = [asdict(verdict) for verdict in cameras.verdicts]
    result = cameras.views
    if config.depth and cameras.sparse is not None:
        with progress.stage("Refine depth", total=len(cameras.trusted)) as step, torch.inference_mode():
            read, mask = _undistorted(result, read_rgb, read_mask)
            depth = refine_depth(result, cameras.sparse, cameras.trusted, read, config, device, step, mask)
        result = depth.views
        verdicts = [
            {**verdict, "depth": done, "confirmed": share}
            for verdict, done, share in zip(verdicts, depth.steps, depth.confirmed, strict=True)
        ]
    told = cameras.account
    warnings = _warnings(views, cameras) + (told.warnings if told is not None else [])
    return Refined(result, cameras.sparse, verdicts, warnings, None if told is None else told.as_dict())


def _undistorted(
    views: Sequence[View], read_rgb: ReadImage, read_mask: ReadMask | None
) -> tuple[ReadImage, ReadMask | None]:
    """Functions that read undistorted pictures and masks."""

    def mask(i: int) -> np.ndarray | None:
        found, lens = None if read_mask is None else read_mask(i), views[i].lens
        return found if found is None or lens is None else Undistortion(lens).mask(found)

    return lambda i: undistorted(read_rgb(i), views[i]), None if read_mask is None else mask


def _warnings(views: Sequence[View], cameras) -> list[str]:
    kept = [i for i, verdict in enumerate(cameras.verdicts) if verdict.cameras == KEPT]
    if not kept:
        return []
    if len(kept) == len(views):
        return [f"--refine changed no camera: {cameras.verdicts[0].reason}"]
    reasons = [verdict.reason for verdict in cameras.verdicts]
    return [
        f"--refine kept the predicted cameras of {names_of(views, [i for i in kept if reasons[i] == reason])}: {reason}"
        for reason in dict.fromkeys(reasons[i] for i in kept)
    ]
