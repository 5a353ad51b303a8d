"""What only Depth-Anything-3 can be told: how to find cameras and which view is the reference. And cameras known
beforehand, which Depth-Anything-3 takes as input and `--refine` puts in place of the predicted ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ..config import PredictConfig
from ..errors import InputError, UsageError
from ..io.foreign_cameras import read_known_cameras
from ..io.images import ImageRecord
from ..networks.base import Backbone
from ..networks.da3.network import DA3, KnownCameras
from ..networks.da3.reference_view import STRATEGIES
from ..scene import geometry
from ..scene.view import View
from .preprocess import NetworkInput


def configure(backbone: Backbone, config: PredictConfig) -> None:
    """Set the options on the backbone. Raises UsageError for another kind of backbone or an unknown strategy."""
    asked = {
        "--poses": config.poses != PredictConfig.poses,
        "--reference-view": config.reference_view != PredictConfig.reference_view,
        "--cameras": config.cameras is not None and not config.refine,
    }
    if not isinstance(backbone, DA3):
        for option, given in asked.items():
            if given:
                more = " without --refine" if option == "--cameras" else ""
                raise UsageError(f"{option} is for the da3 models; {backbone.name} has nothing like it{more}")
        return
    if config.reference_view not in STRATEGIES:
        raise UsageError(f"--reference-view must be one of {', '.join(STRATEGIES)}, not {config.reference_view!r}")
    backbone.reference_view, backbone.ray_poses = config.reference_view, config.poses == "rays"


def read_known(path: Path | None) -> dict[str, View]:
    """Image name → its camera, see read_known_cameras; empty without a path."""
    return {} if path is None else {view.name: view for view in read_known_cameras(path)}


def for_inputs(known: dict[str, View], records: Sequence[ImageRecord], inputs: Sequence[NetworkInput]) -> KnownCameras:
    """The cameras of these pictures as the network saw them."""
    intrinsics = []
    for record, item in zip(records, inputs, strict=True):
        view = known[record.name]
        height, width = item.full
        K = geometry.scale_intrinsics(view.K, width / view.width, height / view.height)
        K[:2, 2] -= item.corner[::-1]
        intrinsics.append(K)
    poses = np.stack([known[record.name].cam_from_world for record in records])
    return KnownCameras(torch.from_numpy(poses).float(), torch.from_numpy(np.stack(intrinsics)).float())


def in_place(known: dict[str, View], records: Sequence[ImageRecord], views: Sequence[View]) -> list[View]:
    """The views with the known cameras, in the frame of the first one, depth maps in the scale of these cameras.

    The scale is the median ratio of the distances between the cameras.
    """
    poses = geometry.rebase(np.stack([known[record.name].cam_from_world for record in records]))
    centres = geometry.camera_centres(poses)
    predicted = geometry.camera_centres(np.stack([view.cam_from_world for view in views]))
    first, second = np.triu_indices(len(views), k=1)
    true, guess = (np.linalg.norm(c[first] - c[second], axis=1) for c in (centres, predicted))
    ratios = true[guess > 0] / guess[guess > 0]
    scale = np.float32(np.median(ratios)) if len(ratios) and np.median(ratios) > 0 else np.float32(1)
    return [
        replace(view, K=known[record.name].K, cam_from_world=pose, depth=view.depth * scale)
        for record, view, pose in zip(records, views, poses, strict=True)
    ]


def require_all(known: dict[str, View], path: Path, records: Sequence[ImageRecord]) -> None:
    """Raises InputError unless every picture has a camera of its size."""
    missing = [record.name for record in records if record.name not in known]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise InputError(
            f"{path}: has no camera for {', '.join(missing[:3])}{more}; give cameras for all images or none"
        )
    for record in records:
        view = known[record.name]
        if (view.width, view.height) != (record.width, record.height):
            raise InputError(
                f"{path}: says that {record.name} has {view.width}x{view.height} pixels, "
                f"but it has {record.width}x{record.height}: correct width, height and K"
            )
