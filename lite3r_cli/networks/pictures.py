"""How images are prepared for a network. `pipelines/preprocess.py` applies these facts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

Loader = Callable[[np.ndarray, int, int], "NetworkInput"]


@dataclass(frozen=True)
class NetworkInput:
    """The network's input from one image: a window of the resized image."""

    rgb: np.ndarray  # (h, w, 3) uint8
    full: tuple[int, int]  # size (h, w) of the whole resized image
    corner: tuple[int, int] = (0, 0)  # first row and column of the window
    border: np.ndarray | None = None  # (h, w) bool, a plain frame around the image that was painted over
    masked: np.ndarray | None = None  # (h, w) bool, masked or transparent pixels

    def crop(self, height: int, width: int) -> NetworkInput:
        """The central `height` × `width` pixels of the window."""
        top, left = (self.rgb.shape[0] - height) // 2, (self.rgb.shape[1] - width) // 2
        rgb = self.rgb[top : top + height, left : left + width]
        return replace(self, rgb=np.ascontiguousarray(rgb), corner=(self.corner[0] + top, self.corner[1] + left))

    def uncrop(self, values: np.ndarray) -> np.ndarray:
        """A map (h, w) of the window → a map of the whole resized image, 0 outside the window."""
        if values.shape == self.full:
            return values
        whole = np.zeros(self.full, values.dtype)
        top, left = self.corner
        whole[top : top + values.shape[0], left : left + values.shape[1]] = values
        return whole

    def uncrop_intrinsics(self, K: np.ndarray) -> np.ndarray:
        """K (3, 3) of the window → K of the whole resized image."""
        K = K.copy()
        K[:2, 2] += self.corner[::-1]
        return K


def crop_to_smallest(inputs: Sequence[NetworkInput]) -> list[NetworkInput]:
    """Crop each input to its centre, at the smallest height and width of the set, as some authors do."""
    height, width = (min(item.rgb.shape[axis] for item in inputs) for axis in (0, 1))
    return [item.crop(height, width) for item in inputs]


@dataclass(frozen=True)
class Preparation:
    """The size of a network's input images, and how its authors prepare them (`--preprocess native`)."""

    resolution: int = 518  # default longest side of its authors, pixels
    smallest: int | None = None  # smaller images are enlarged to this longest side; None: all to `resolution`
    native: Loader | None = None  # (image, longest side, multiple of both sides) → input; None: like `keep`
    native_set: Callable[[Sequence[NetworkInput]], list[NetworkInput]] | None = None  # applied to sets of mixed sizes

    def longest_side(self, height: int, width: int) -> int:
        """The default longest side of the network's input, for an image of `height` × `width` pixels."""
        return min(self.resolution, max(self.smallest or self.resolution, height, width))
