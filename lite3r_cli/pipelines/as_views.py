"""From the pixels of the network to those of the photographs: posed depth maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..networks.base import Prediction
from ..networks.pictures import NetworkInput
from ..scene import geometry
from ..scene.facing import tied
from ..scene.posed_view import View
from .no_scene import in_window

if TYPE_CHECKING:
    from ..io.images import ImageRecord, ImageSet


def to_views(
    images: ImageSet, kept: Sequence[int], inputs: Sequence[NetworkInput], prediction: Prediction
) -> list[View]:
    """Network pixels → original pixels, world → frame of the first camera, invalid and unseen depth → 0."""
    poses = geometry.rebase(prediction.cam_from_world.numpy())
    views = []
    for j, i in enumerate(kept):
        record = images.records[i]
        depth = prediction.depth[j].numpy()
        confidence = prediction.confidence[j].numpy()
        known = np.isfinite(depth) & (depth > 0) & np.isfinite(confidence)
        if (unseen := in_window(inputs[j])) is not None:
            known &= ~unseen
        K, pose = square_pixels(record, inputs[j], prediction.K[j].numpy(), poses[j])
        views.append(
            View(
                name=record.name,
                width=record.width,
                height=record.height,
                K=K,
                cam_from_world=pose,
                depth=inputs[j].uncrop(np.where(known, depth, np.float32(0))),
                confidence=inputs[j].uncrop(np.where(known, confidence, np.float32(0))),
                facing=record.facing,
            )
        )
    return views


def square_pixels(
    record: ImageRecord, shown: NetworkInput, K: np.ndarray, pose: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """K (3, 3) of the original picture with one focal length, unless its pixels are not square, and the pose that fits.

    Rounding to whole patches squeezes a picture along one axis by up to half a patch. The network takes it for the
    scene: its sideways lengths are off by the ratio of its focal length along that axis to the true one, and so are
    the sideways parts of the translation. Depth is not.
    """
    height, width = shown.full
    K = geometry.scale_intrinsics(shown.uncrop_intrinsics(K), record.width / width, record.height / height)
    aspect = record.pixel_aspect
    across, down = K[0, 0] * aspect, K[1, 1]
    focal = float(np.sqrt(across * down))
    K, pose = K.copy(), pose.copy()
    K[0, 0], K[1, 1] = focal / aspect, focal
    pose[:2, 3] *= across / focal, down / focal
    return K, pose


def as_rigs(views: Sequence[View], known: Sequence[int] = ()) -> list[View]:
    """The views with those of each 360° picture turned as they were cut and in one place; the first camera stays, and
    so do those `known` beforehand."""
    facings = [None if i in known else view.facing for i, view in enumerate(views)]
    if not any(facings):
        return list(views)
    before = np.stack([view.cam_from_world for view in views])
    poses = geometry.compose(geometry.rebase(tied(before, facings)), before[:1])
    return [replace(view, cam_from_world=pose) for view, pose in zip(views, poses, strict=True)]
