"""What a network is shown of a picture, and what its authors show it: facts that `pipelines/preprocess.py` acts on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

Loader = Callable[[np.ndarray, int, int], "NetworkInput"]


@dataclass(frozen=True)
class NetworkInput:
    """What the network sees of a picture: a window into the resized picture."""

    rgb: np.ndarray  # (h, w, 3) uint8
    full: tuple[int, int]  # size (h, w) of the whole resized picture
    corner: tuple[int, int] = (0, 0)  # the window's first row and column
    border: np.ndarray | None = None  # (h, w) bool, a plain frame that was painted over
    masked: np.ndarray | None = None  # (h, w) bool, masked or transparent pixels

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


def crop_to_smallest(inputs: Sequence[NetworkInput]) -> list[NetworkInput]:
    """Some authors crop sets of mixed sizes: the middle of each input, at the smallest height and width of the set."""
    height, width = (min(item.rgb.shape[axis] for item in inputs) for axis in (0, 1))
    return [item.crop(height, width) for item in inputs]


@dataclass(frozen=True)
class Preparation:
    """At which size a network sees pictures, and how its authors load them (`--preprocess native`)."""

    resolution: int = 518  # the longest side that its authors use by default, pixels
    smallest: int | None = None  # smaller pictures are enlarged to this longest side; None: all to `resolution`
    native: Loader | None = None  # (picture, longest side, multiple of both sides) → input; None: as `keep` does
    native_set: Callable[[Sequence[NetworkInput]], list[NetworkInput]] | None = None  # what happens to a mixed set

    def longest_side(self, height: int, width: int) -> int:
        """The default longest side for a picture of `height` × `width` pixels inside the network."""
        return min(self.resolution, max(self.smallest or self.resolution, height, width))
