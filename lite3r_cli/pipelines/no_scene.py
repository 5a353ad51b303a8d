"""Pixels that show no scene: masked, transparent, on a bar or on a plain frame. They are no keys of attention, their
depth is unknown, and refinement ignores them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..io.images import ImageSet
from ..networks.pictures import NetworkInput
from ..scene.fusion import sample_mask
from ..scene.posed_view import View
from ..world.undistort import Undistortion


def with_masks(images: ImageSet, kept: Sequence[int], inputs: Sequence[NetworkInput]) -> list[NetworkInput]:
    """The inputs of the images `kept`, with their masks and transparency."""
    return [_with_mask(item, images.read_mask(i)) for i, item in zip(kept, inputs, strict=True)]


def _with_mask(item: NetworkInput, mask: np.ndarray | None) -> NetworkInput:
    if mask is None or mask.all():
        return item
    top, left = item.corner
    height, width = item.rgb.shape[:2]
    return replace(item, masked=~sample_mask(mask, item.full)[top : top + height, left : left + width])


def in_window(item: NetworkInput) -> np.ndarray | None:
    """(h, w) bool, True = no scene, in the network's window; None if all pixels show the scene."""
    found = [part for part in (item.border, item.masked) if part is not None]
    return np.logical_or.reduce(found) if found else None


def shown_to_network(item: NetworkInput) -> np.ndarray:
    """(h, w, 3) uint8: the picture, with masked pixels in one colour."""
    return item.rgb if item.masked is None else plain_where(item.rgb, item.masked)


def plain_where(rgb: np.ndarray, masked: np.ndarray) -> np.ndarray:
    """The picture (H, W, 3) uint8 with its mean colour in the pixels `masked` (H, W) bool."""
    mean = rgb[~masked].mean(0) if not masked.all() else np.zeros(3)
    return np.where(masked[..., None], mean.round().astype(np.uint8), rgb)


def in_picture(item: NetworkInput) -> np.ndarray | None:
    """(H, W) bool, True = no scene, of the whole resized picture; None if all pixels show the scene."""
    unseen = in_window(item)
    if unseen is None:
        if item.rgb.shape[:2] == item.full:
            return None
        unseen = np.zeros(item.rgb.shape[:2], bool)
    return item.uncrop((~unseen).astype(np.uint8)) == 0


def scene_only(mask: np.ndarray | None, item: NetworkInput, size: tuple[int, int]) -> np.ndarray | None:
    """The mask of a picture of `size` (H, W), True = use, without the pixels that show no scene."""
    unseen = in_picture(item)
    if unseen is None:
        return mask
    scene = sample_mask(~unseen, size)
    return scene if mask is None else mask & scene


def without_unseen(view: View, item: NetworkInput) -> View:
    """Removes refined depth from pixels that show no scene."""
    unseen = in_picture(item)
    if unseen is None or view.depth is None or view.confidence is None:
        return view
    scene = sample_mask(~unseen, view.depth.shape)
    if view.lens is not None:
        scene = Undistortion(view.lens).mask(scene)
    nothing = np.float32(0)
    return replace(
        view, depth=np.where(scene, view.depth, nothing), confidence=np.where(scene, view.confidence, nothing)
    )


def border_warnings(inputs: Sequence[NetworkInput]) -> list[str]:
    """Warnings about plain frames."""
    count = sum(item.border is not None for item in inputs)
    if not count:
        return []
    return [f"{count} of {len(inputs)} images have a white or black frame: left out, it is no part of the scene"]
