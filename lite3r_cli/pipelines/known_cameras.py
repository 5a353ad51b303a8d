"""Options that only some networks have: their own options, known cameras, and measured depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import torch

from ..config import PredictConfig
from ..errors import InputError, UsageError
from ..io.given_depth import GivenDepth
from ..io.images import ImageRecord
from ..networks.base import Configurable, KnownCameras, Network
from ..networks.family import TOLD, Family, families, family_of
from ..networks.pictures import NetworkInput
from ..scene import geometry
from ..scene.frame import FIRST_CAMERA, GIVEN, METRIC, WorldFrame
from ..scene.posed_view import View, known_depth
from ..scene.priors import CameraPriors
from ..world.registration import tells_scale
from .beforehand import Beforehand

MEASURED = "metres, as the known cameras and the measured depth have them"
OFF = 2.0  # ratio of the answer to measured depth that is worth a warning
FLAGS = {"poses": "--poses", "reference_view": "--reference-view", "depth": "--depth"}  # field → its option


def require_options(config: PredictConfig, family: Family | None, model: str) -> None:
    """Raise UsageError if an option is given that the networks of `family` (None: unknown yet) lack."""
    for name, flag in FLAGS.items():
        given = getattr(config, name) != getattr(PredictConfig, name)
        if not given or family is None or name in family.options:
            continue
        others = ", ".join(f.name for f in families().values() if name in f.options)
        raise UsageError(f"{flag} is for the {others} models; {model} has nothing like it")


def configure(backbone: Network, config: PredictConfig) -> None:
    """Set the options that only some networks have."""
    family = family_of(backbone)
    known = () if family is None else family.options
    settings = {name: getattr(config, name) for name in known if name not in TOLD}
    if settings:
        assert isinstance(backbone, Configurable)  # families with options implement it
        backbone.configure(**settings)


def frame_of(backbone: Network, priors: CameraPriors, measured: bool) -> WorldFrame:
    """Frame and unit of the prediction with these known cameras; `measured`: and with measured depth."""
    family = family_of(backbone)
    own = METRIC if family is not None and family.scale == "metric" else FIRST_CAMERA
    if not priors.known_poses:
        return own
    if not tells_scale(priors):
        return replace(GIVEN, units=own.units, metric=own.metric)
    return replace(GIVEN, units=MEASURED, metric=True) if measured else GIVEN


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
        if not tells_scale(priors):
            cam_from_world[poses, :, 3] = 0  # networks divide by the distances, which are rounding here
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
    """Measured depth at the network's size by nearest neighbour, because edges must not be mixed; None without any
    value. Raises InputError if all maps are so.
    """
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
    maps = [
        None if path is None else torch.from_numpy(_window(given.read(path, record), item))
        for path, record, item in zip(files, records, inputs)
    ]
    if not any(depth is not None and bool(depth.any()) for depth in maps):
        raise InputError(f"--depth {given.folder}: no file has a depth above 0 within the images")
    return tuple(depth if depth is not None and bool(depth.any()) else None for depth in maps)


def measured_warnings(
    given: GivenDepth | None, cameras: KnownCameras | None, views: Sequence[View], records: Sequence[ImageRecord]
) -> list[str]:
    """Warnings about measured depth without values, or of another scale than the answer."""
    if given is None or cameras is None:
        return []
    warnings, ratios = [], []
    empty = [r.name for r, path, depth in zip(records, given.find(records), cameras.depth) if path and depth is None]
    if empty:
        more = f" and {len(empty) - 3} more" if len(empty) > 3 else ""
        warnings.append(f"--depth: no depth above 0 for {', '.join(empty[:3])}{more}: treated as unknown")
    for view, depth in zip(views, cameras.depth):
        answer, measured = known_depth(view), np.zeros(0) if depth is None else depth.numpy()
        if answer.shape == measured.shape and (both := (answer > 0) & (measured > 0)).any():
            ratios.append(float(np.median(answer[both] / measured[both])))
    ratio = float(np.median(ratios)) if ratios else 1.0
    if not 1 / OFF < ratio < OFF:
        warnings.append(
            f"--depth: the result is {ratio:.3g} times the measured depth: check --depth-scale, the focal lengths, and "
            "that known poses are in metres"
        )
    return warnings


def _window(depth: np.ndarray, item: NetworkInput) -> np.ndarray:
    """Depth (h, w) of the whole picture → the part in the network's window."""
    height, width = item.full
    whole = cv2.resize(depth, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    top, left = item.corner
    rows, columns = item.rgb.shape[:2]
    return np.ascontiguousarray(whole[top : top + rows, left : left + columns])
