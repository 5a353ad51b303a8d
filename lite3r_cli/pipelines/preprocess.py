"""Photograph → input of a network: with its aspect ratio kept, or as the network's authors prepare it.

`keep` (default) shows the network the whole picture, without a plain frame around it. `native` repeats the authors'
loaders, which stand with their networks. The way back is `NetworkInput.uncrop`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..io.resize import resize_for_network
from ..networks.pictures import NetworkInput, Preparation
from .border import find_border, paint_over


def fit(
    rgb: np.ndarray, preparation: Preparation, resolution: int | None, multiple: int, native: bool = False
) -> NetworkInput:
    """One picture (H, W, 3) uint8 for a network whose sides are multiples of `multiple`; `resolution`: the longest
    side, None for the network's own.
    """
    resolution = resolution or preparation.longest_side(*rgb.shape[:2])
    if native and preparation.native is not None:
        return preparation.native(rgb, resolution, multiple)
    resized = resize_for_network(rgb, resolution, multiple)
    border = find_border(resized)
    shown = resized if border is None else paint_over(resized, border)
    return NetworkInput(shown, resized.shape[:2], border=border)


def align(inputs: Sequence[NetworkInput], preparation: Preparation, native: bool) -> list[NetworkInput]:
    """What the authors do to a set of mixed sizes."""
    if not native or preparation.native_set is None:
        return list(inputs)
    return preparation.native_set(inputs)
