"""How the authors of π³ load a picture: a limit on its area, both sides multiples of the patch size."""

from __future__ import annotations

import cv2
import numpy as np

from lite3r_cli.networks.pictures import NetworkInput

LIMIT, AT = 255_000, 574  # pixels of their pictures, and the longest side of a 4:3 picture under that limit


def by_area(rgb: np.ndarray, resolution: int, multiple: int) -> NetworkInput:
    """(H, W, 3) uint8 → about 255,000 pixels at a `resolution` of 574, in proportion to its square at others.

    Their kernel is Pillow's Lanczos; a picture of another shape than the first keeps its own shape here.
    """
    height, width = rgb.shape[:2]
    limit = LIMIT * (resolution / AT) ** 2
    scale = (limit / (width * height)) ** 0.5
    wide, tall = scale * width, scale * height
    columns, rows = round(wide / multiple), round(tall / multiple)
    while columns * rows * multiple**2 > limit:
        if columns / max(rows, 1) > wide / tall:
            columns -= 1
        else:
            rows -= 1
    size = (multiple * max(1, columns), multiple * max(1, rows))
    shrinks = size[0] < width
    resized = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LANCZOS4)
    return NetworkInput(resized, size[::-1])
