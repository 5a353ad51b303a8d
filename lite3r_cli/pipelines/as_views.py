"""Converts predictions from the pixels of the network to those of the photographs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..networks.base import Prediction
from ..networks.pictures import NetworkInput
from ..scene import geometry
from ..scene.device_maps import DeviceMaps, has_room
from ..scene.facing import tied
from ..scene.posed_view import View
from .no_scene import in_window

if TYPE_CHECKING:
    from ..io.images import ImageRecord, ImageSet

TOGETHER = 32  # views whose maps are copied from a GPU at once


def to_views(
    images: ImageSet,
    kept: Sequence[int],
    inputs: Sequence[NetworkInput],
    prediction: Prediction,
    held: DeviceMaps | None = None,
) -> list[View]:
    """Network pixels → original pixels, world → frame of the first camera, invalid and unseen depth → 0.

    `held` gets the maps that stay on the device of the prediction.
    """
    poses = geometry.rebase(prediction.cam_from_world.numpy())
    views = []
    for j, (depth, confidence) in enumerate(_known_maps(prediction, inputs, held)):
        record = images.records[kept[j]]
        K, pose = square_pixels(record, inputs[j], prediction.K[j].numpy(), poses[j])
        views.append(
            View(
                name=record.name,
                width=record.width,
                height=record.height,
                K=K,
                cam_from_world=pose,
                depth=inputs[j].uncrop(depth),
                confidence=inputs[j].uncrop(confidence),
                facing=record.facing,
            )
        )
    return views


def _known_maps(
    prediction: Prediction, inputs: Sequence[NetworkInput], held: DeviceMaps | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Depth and confidence (h, w) of each view at the network's size; 0 if either is unknown or the pixel was not seen.

    A GPU processes several views at a time and copies them in large pieces.
    """
    size = sum(2 * 4 * each.numel() for each in prediction.depth)
    keep = held if held is not None and has_room(prediction.depth[0].device, size) else None
    for run in _runs_of_one_shape(prediction.depth):
        depth, confidence = (torch.stack([maps[j] for j in run]) for maps in (prediction.depth, prediction.confidence))
        known = depth.isfinite() & (depth > 0) & confidence.isfinite()
        for place, j in enumerate(run):
            if (unseen := in_window(inputs[j])) is not None:
                known[place] &= ~torch.from_numpy(unseen).to(known.device)
        there = [torch.where(known, maps, 0) for maps in (depth, confidence)]
        for maps in zip(*([*zip(stack, stack.cpu().numpy())] for stack in there)):
            if keep is not None:
                for tensor, array in maps:
                    keep.hold(array, tensor)
            (_, found), (_, sure) = maps
            yield found, sure


def _runs_of_one_shape(maps: Sequence[Tensor]) -> Iterator[list[int]]:
    """Views in order, grouped into those that can be stacked; one at a time on a CPU, where stacking
    has no advantage.
    """
    most = 1 if maps[0].device.type == "cpu" else TOGETHER
    run: list[int] = []
    for j, each in enumerate(maps):
        if run and (len(run) == most or each.shape != maps[run[0]].shape):
            yield run
            run = []
        run.append(j)
    yield run


def square_pixels(
    record: ImageRecord, shown: NetworkInput, K: np.ndarray, pose: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """K (3, 3) of the original picture with one focal length, unless its pixels are not square, and the corrected pose.

    Rounding to whole patches scales a picture along one axis by up to half a patch. The network attributes this to the
    scene: its lateral lengths along that axis are off by the ratio of the predicted focal length to the true one, and
    so are the lateral parts of the translation. Depth is not affected.
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
    """The views, with those of each 360° picture in one centre and with their known relative rotations. The first
    camera and those `known` beforehand do not change.
    """
    facings = [None if i in known else view.facing for i, view in enumerate(views)]
    if not any(facings):
        return list(views)
    before = np.stack([view.cam_from_world for view in views])
    poses = geometry.compose(geometry.rebase(tied(before, facings)), before[:1])
    return [replace(view, cam_from_world=pose) for view, pose in zip(views, poses, strict=True)]


def shown_colors(record: ImageRecord, item: NetworkInput) -> np.ndarray | None:
    """The whole photograph at the network's size; None if that was enlarged, cropped or painted over."""
    height, width = item.rgb.shape[:2]
    whole = item.border is None and item.full == (height, width)
    return item.rgb if whole and height <= record.height and width <= record.width else None
