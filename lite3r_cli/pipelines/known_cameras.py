"""What only some networks can be told, and cameras that are known beforehand: some networks take them as input, and
`--refine` puts them in place of the predicted ones.
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
from ..networks.base import Backbone, KnownCameras
from ..networks.family import families, family_of
from ..networks.pictures import NetworkInput
from ..scene import geometry
from ..scene.view import View

FLAGS = {"poses": "--poses", "reference_view": "--reference-view", "cameras": "--cameras"}  # field → its option


def configure(backbone: Backbone, config: PredictConfig) -> None:
    """Set the options that only some networks know. Raises UsageError where this one does not know a given option."""
    family = family_of(backbone)
    known = () if family is None else family.options
    for name, flag in FLAGS.items():
        given = getattr(config, name) != getattr(PredictConfig, name)
        if not given or name in known or (name == "cameras" and config.refine):
            continue
        others = " and ".join(f.name for f in families().values() if name in f.options)
        more = " without --refine" if name == "cameras" else ""
        raise UsageError(f"{flag} is for the {others} models; {backbone.name} has nothing like it{more}")
    settings = {name: getattr(config, name) for name in known if name != "cameras"}
    if settings:
        backbone.configure(**settings)


def taken_by(backbone: Backbone) -> bool:
    """Whether a network can be told the cameras."""
    family = family_of(backbone)
    return family is not None and family.takes_cameras


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
