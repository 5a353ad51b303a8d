"""Photograph → input of a network: in its aspect ratio, or as the network's authors prepare it.

`keep` (default) uses the whole picture without a plain frame around it. `native` reproduces the authors' loaders, which
are in the folders of their networks. `NetworkInput.uncrop` is the inverse.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..io.resize import network_size, resize_for_network
from ..networks.pictures import NetworkInput, Preparation
from .border import find_border, paint_over

ENOUGH = 2  # times the network's size: a JPEG decoded at this scale gives the same input up to one grey level


def pixels_needed(
    size: tuple[int, int], preparation: Preparation, resolution: int | None, multiple: int, native: bool
) -> tuple[int, int] | None:
    """Number of pixels (height, width) of a photograph of this size that `fit` needs; None for all."""
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
    """One picture (H, W, 3) uint8 for a network whose sides are multiples of `multiple`. `resolution` is the longest
    side, None for the network's default; `size` is the (height, width) of the photograph if `rgb` is a reduced one.
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
    """Crop a set of mixed sizes as the authors do."""
    if not native or preparation.native_set is None:
        return list(inputs)
    return preparation.native_set(inputs)
