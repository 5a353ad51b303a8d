"""Options that only some networks have: their own options, known cameras, and measured depth."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch

from ..config import PredictConfig
from ..errors import InputError, UsageError
from ..io.given_depth import GivenDepth
from ..io.images import ImageRecord
from ..networks.base import Configurable, KnownCameras, Network
from ..networks.family import TOLD, families, family_of
from ..networks.pictures import NetworkInput
from ..scene import geometry
from ..scene.frame import FIRST_CAMERA, GIVEN, METRIC, WorldFrame
from ..scene.priors import CameraPriors
from .beforehand import Beforehand

FLAGS = {"poses": "--poses", "reference_view": "--reference-view", "depth": "--depth"}  # field → its option


def configure(backbone: Network, config: PredictConfig) -> None:
    """Set the options that only some networks have. Raises UsageError if this network lacks a given option."""
    family = family_of(backbone)
    known = () if family is None else family.options
    for name, flag in FLAGS.items():
        given = getattr(config, name) != getattr(PredictConfig, name)
        if not given or name in known:
            continue
        others = ", ".join(f.name for f in families().values() if name in f.options)
        raise UsageError(f"{flag} is for the {others} models; {backbone.name} has nothing like it")
    settings = {name: getattr(config, name) for name in known if name not in TOLD}
    if settings:
        assert isinstance(backbone, Configurable)  # families with options implement it
        backbone.configure(**settings)


def frame_of(backbone: Network, priors: CameraPriors) -> WorldFrame:
    """Frame and unit of the prediction with these known cameras."""
    family = family_of(backbone)
    if priors.known_poses:
        return GIVEN
    return METRIC if family is not None and family.scale == "metric" else FIRST_CAMERA


def for_inputs(
    backbone: Network,
    beforehand: Beforehand,
    priors: CameraPriors,
    records: Sequence[ImageRecord],
    inputs: Sequence[NetworkInput],
) -> KnownCameras | None:
    """Known cameras for the network's input images, in the frame of the first known one, and measured depth; None if
    nothing is known that this network accepts. Raises InputError if `--depth` does not fit the pictures.
    """
    family = family_of(backbone)
    if family is None or not family.takes_cameras:
        return None
    poses, focal = priors.known_poses, [i for i, prior in enumerate(priors.focal) if prior is not None]
    whole = len(poses) == len(focal) == len(records)
    if not whole and not (family.partial_cameras and (poses or focal)):
        if beforehand.depth is not None and beforehand.depth.find(records):
            raise InputError(f"--depth {beforehand.depth.folder}: {NO_FOCAL}")
        return None
    K = np.full((len(records), 3, 3), np.nan)
    for i in focal:
        K[i] = _seen_intrinsics(priors, i, records[i], inputs[i])
    cam_from_world = np.full((len(records), 3, 4), np.nan)
    if poses:
        cam_from_world[poses] = geometry.rebase(priors.given_poses())
    depth = () if beforehand.depth is None else _seen_depth(beforehand, beforehand.depth, focal, records, inputs)
    poses_known, K_known = (torch.from_numpy(values).float() for values in (cam_from_world, K))
    return KnownCameras(poses_known, K_known, depth, metric=bool(depth))


NO_FOCAL = "depth needs focal lengths, which these images do not state: give --focal, --intrinsics or --cameras"


def _seen_intrinsics(priors: CameraPriors, i: int, record: ImageRecord, item: NetworkInput) -> np.ndarray:
    prior = priors.focal[i]
    assert prior is not None
    height, width = item.full
    K = prior.intrinsics(record.width, record.height)
    K = geometry.scale_intrinsics(K, width / record.width, height / record.height)
    K[:2, 2] -= item.corner[::-1]
    return K


def _seen_depth(
    beforehand: Beforehand,
    given: GivenDepth,
    focal: Sequence[int],
    records: Sequence[ImageRecord],
    inputs: Sequence[NetworkInput],
) -> tuple[torch.Tensor | None, ...]:
    """Measured depth at the network's size by nearest neighbour, because edges must not be mixed."""
    files = given.find(records)
    bent = beforehand.lenses(records)
    for i, (path, record) in enumerate(zip(files, records)):
        if path is not None and i not in focal:
            raise InputError(f"--depth {given.folder}: {record.name}: {NO_FOCAL}")
        if path is not None and record.name in bent:
            raise InputError(
                f"--depth {given.folder}: {record.name} was taken by a lens that bends lines, and its depth is not "
                "undistorted: give undistorted images and depth"
            )
    return tuple(
        None if path is None else torch.from_numpy(_window(given.read(path, record), item))
        for path, record, item in zip(files, records, inputs)
    )


def _window(depth: np.ndarray, item: NetworkInput) -> np.ndarray:
    """Depth (h, w) of the whole picture → the part in the network's window."""
    height, width = item.full
    whole = cv2.resize(depth, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    top, left = item.corner
    rows, columns = item.rgb.shape[:2]
    return np.ascontiguousarray(whole[top : top + rows, left : left + columns])
