"""Photograph → input of a network: with its aspect ratio kept, or as the network's authors
prepare it, and the way back.

`keep` (default) shows the network the whole picture, without a plain frame around it. `native` repeats the authors'
loaders: VGGT fixes the width and crops what is then too tall; Depth-Anything-3 resizes twice and crops a set of mixed
sizes to the smallest height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from ..io.resize import resize_for_network
from .border import find_border, paint_over

DEFAULT_RESOLUTION = {"da3": 504}  # what the authors use by default
FALLBACK_RESOLUTION = 518
KEPT_SMALL_FROM = {"mini": 224}  # shortest longest side that was trained on: smaller pictures are enlarged to it


@dataclass(frozen=True)
class NetworkInput:
    """What the network sees of a picture: a window into the resized picture."""

    rgb: np.ndarray  # (h, w, 3) uint8
    full: tuple[int, int]  # size (h, w) of the whole resized picture
    corner: tuple[int, int] = (0, 0)  # the window's first row and column
    border: np.ndarray | None = None  # (h, w) bool, a plain frame that was painted over

    def crop(self, height: int, width: int) -> NetworkInput:
        """The middle `height` × `width` of the window."""
        top, left = (self.rgb.shape[0] - height) // 2, (self.rgb.shape[1] - width) // 2
        rgb = self.rgb[top : top + height, left : left + width]
        return replace(self, rgb=np.ascontiguousarray(rgb), corner=(self.corner[0] + top, self.corner[1] + left))

    def uncrop(self, values: np.ndarray) -> np.ndarray:
        """A map (h, w) of the window as one of the whole picture; 0 where the network saw nothing."""
        if values.shape == self.full:
            return values
        whole = np.zeros(self.full, values.dtype)
        top, left = self.corner
        whole[top : top + values.shape[0], left : left + values.shape[1]] = values
        return whole

    def uncrop_intrinsics(self, K: np.ndarray) -> np.ndarray:
        """K of the window → K of the whole resized picture."""
        K = K.copy()
        K[:2, 2] += self.corner[::-1]
        return K


def family_of(model: str) -> str:
    """The kind of network, from the name of a model."""
    return model.split("-")[0]


def resolution_of(model: str) -> int:
    """The longest side that the authors of a model use by default."""
    return DEFAULT_RESOLUTION.get(family_of(model), FALLBACK_RESOLUTION)


def longest_side(height: int, width: int, model: str) -> int:
    """The default longest side for a picture of `height` × `width` pixels inside a network.

    `mini`, trained at many sizes, sees a picture below its default resolution at the picture's own size: enlarged it
    costs more, and is better on some scenes and worse on others (`benchmarks/picture_size.py`). The other models see
    every picture at the authors' resolution, as they were trained.
    """
    default = resolution_of(model)
    smallest = KEPT_SMALL_FROM.get(family_of(model), default)
    return min(default, max(smallest, height, width))


def fit(rgb: np.ndarray, model: str, resolution: int | None, multiple: int, native: bool) -> NetworkInput:
    """One picture (H, W, 3) uint8 for a network whose sides are multiples of `multiple`; `resolution`: the longest
    side, None for `longest_side`.
    """
    resolution = resolution or longest_side(*rgb.shape[:2], model)
    prepare = _NATIVE.get(family_of(model)) if native else None
    if prepare is not None:
        return prepare(rgb, resolution, multiple)
    resized = resize_for_network(rgb, resolution, multiple)
    border = find_border(resized)
    shown = resized if border is None else paint_over(resized, border)
    return NetworkInput(shown, resized.shape[:2], border=border)


def align(inputs: Sequence[NetworkInput], model: str, native: bool) -> list[NetworkInput]:
    """What the authors do to a set of mixed sizes. VGGT's pad with white; here each size is packed as it is instead."""
    if not native or family_of(model) != "da3":
        return list(inputs)
    height, width = (min(item.rgb.shape[axis] for item in inputs) for axis in (0, 1))
    return [item.crop(height, width) for item in inputs]


def _fixed_width(rgb: np.ndarray, resolution: int, multiple: int) -> NetworkInput:
    """VGGT's `crop` mode: the width becomes `resolution`; of a taller picture the middle rows remain."""
    height, width = rgb.shape[:2]
    side = resolution // multiple * multiple
    tall = max(1, round(height * (side / width) / multiple)) * multiple
    resized = _bicubic(rgb, tall, side)
    whole = NetworkInput(resized, (tall, side))
    return whole.crop(side, side) if tall > side else whole


def _bicubic(rgb: np.ndarray, height: int, width: int) -> np.ndarray:
    """Antialiased bicubic with Pillow's kernel."""
    planes = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)[None]
    resized = F.interpolate(planes, (height, width), mode="bicubic", antialias=True)
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


def _upper_bound(rgb: np.ndarray, resolution: int, multiple: int) -> NetworkInput:
    """Depth-Anything-3's `upper_bound_resize`: first to the longest side, then each side to the nearest multiple."""
    height, width = rgb.shape[:2]
    scale = resolution / max(height, width)
    if scale != 1:
        rgb = _resize(rgb, max(1, round(height * scale)), max(1, round(width * scale)), enlarge=scale > 1)
    height, width = rgb.shape[:2]
    tall, wide = (max(1, (side + multiple // 2) // multiple) * multiple for side in (height, width))
    if (tall, wide) != (height, width):
        rgb = _resize(rgb, tall, wide, enlarge=tall > height or wide > width)
    return NetworkInput(rgb, (tall, wide))


def _resize(rgb: np.ndarray, height: int, width: int, enlarge: bool) -> np.ndarray:
    return cv2.resize(rgb, (width, height), interpolation=cv2.INTER_CUBIC if enlarge else cv2.INTER_AREA)


_NATIVE: dict[str, Callable[[np.ndarray, int, int], NetworkInput]] = {"vggt": _fixed_width, "da3": _upper_bound}
