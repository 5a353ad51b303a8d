"""What only Depth-Anything-3 can be told: how to find cameras, which view is the reference,
and cameras known beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from .. import geometry
from ..backbones.base import Backbone
from ..backbones.da3 import DA3, KnownCameras
from ..backbones.reference_view import STRATEGIES
from ..config import PredictConfig
from ..errors import InputError, UsageError
from ..io.cameras import read_cameras_json
from ..io.images import ImageRecord
from ..scene import View
from .preprocess import NetworkInput


def configure(backbone: Backbone, config: PredictConfig) -> None:
    """Set the options on the backbone. Raises UsageError for another kind of backbone or an unknown strategy."""
    asked = {
        "--poses": config.poses != PredictConfig.poses,
        "--reference-view": config.reference_view != PredictConfig.reference_view,
        "--cameras": config.cameras is not None,
    }
    if not isinstance(backbone, DA3):
        for option, given in asked.items():
            if given:
                raise UsageError(f"{option} is for the da3 models; {backbone.name} has nothing like it")
        return
    if config.reference_view not in STRATEGIES:
        raise UsageError(f"--reference-view must be one of {', '.join(STRATEGIES)}, not {config.reference_view!r}")
    backbone.reference_view, backbone.ray_poses = config.reference_view, config.poses == "rays"


def read_known(path: Path | None) -> dict[str, View]:
    """Image name → its camera, from a cameras.json or its folder; empty without a path. Raises InputError."""
    return {} if path is None else {view.name: view for view in read_cameras_json(path, load_depth=False)}


def for_inputs(
    known: dict[str, View], path: Path, records: Sequence[ImageRecord], inputs: Sequence[NetworkInput]
) -> KnownCameras:
    """The cameras of these pictures as the network saw them. Raises InputError for a picture
    without one or of another size.
    """
    missing = [record.name for record in records if record.name not in known]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise InputError(
            f"{path}: has no camera for {', '.join(missing[:3])}{more}; give cameras for all images or none"
        )
    intrinsics = []
    for record, item in zip(records, inputs, strict=True):
        view = known[record.name]
        if (view.width, view.height) != (record.width, record.height):
            raise InputError(
                f"{path}: says that {record.name} has {view.width}x{view.height} pixels, "
                f"but it has {record.width}x{record.height}: correct width, height and K"
            )
        height, width = item.full
        K = geometry.scale_intrinsics(view.K, width / view.width, height / view.height)
        K[:2, 2] -= item.corner[::-1]
        intrinsics.append(K)
    poses = np.stack([known[record.name].cam_from_world for record in records])
    return KnownCameras(torch.from_numpy(poses).float(), torch.from_numpy(np.stack(intrinsics)).float())
