"""Photograph → input of a network: with its aspect ratio kept, or as the network's authors prepare it.

`keep` (default) shows the network the whole picture, without a plain frame around it. `native` repeats the authors'
loaders, which stand with their networks. The way back is `NetworkInput.uncrop`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..io.resize import network_size, resize_for_network
from ..networks.pictures import NetworkInput, Preparation
from .border import find_border, paint_over

ENOUGH = 2  # times the network's size: a JPEG reduced to that gives the same input but for one grey level


def pixels_needed(
    size: tuple[int, int], preparation: Preparation, resolution: int | None, multiple: int, native: bool
) -> tuple[int, int] | None:
    """How many pixels (height, width) `fit` needs of a photograph of this size; None for all."""
    if native and preparation.native is not None:
        return None
    h, w = network_size(*size[::-1], resolution or preparation.longest_side(*size), multiple)
    return ENOUGH * h, ENOUGH * w


def fit(
    rgb: np.ndarray,
    preparation: Preparation,
    resolution: int | None,
    multiple: int,
    native: bool = False,
    size: tuple[int, int] | None = None,
) -> NetworkInput:
    """One picture (H, W, 3) uint8 for a network whose sides are multiples of `multiple`; `resolution`: the longest
    side, None for the network's own. `size` is the photograph's (height, width) where `rgb` is a reduced one.
    """
    size = size or (rgb.shape[0], rgb.shape[1])
    resolution = resolution or preparation.longest_side(*size)
    if native and preparation.native is not None:
        return preparation.native(rgb, resolution, multiple)
    resized = resize_for_network(rgb, resolution, multiple, size)
    border = find_border(resized)
    shown = resized if border is None else paint_over(resized, border)
    return NetworkInput(shown, resized.shape[:2], border=border)


def align(inputs: Sequence[NetworkInput], preparation: Preparation, native: bool) -> list[NetworkInput]:
    """What the authors do to a set of mixed sizes."""
    if not native or preparation.native_set is None:
        return list(inputs)
    return preparation.native_set(inputs)
