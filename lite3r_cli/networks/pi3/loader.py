"""Image preparation of π³'s authors: a limit on the area, both sides multiples of the patch size."""

from __future__ import annotations

import cv2
import numpy as np

from lite3r_cli.networks.pictures import NetworkInput

LIMIT, AT = 255_000, 574  # upper limit of pixels, and the longest side of a 4:3 image at this limit


def by_area(rgb: np.ndarray, resolution: int, multiple: int) -> NetworkInput:
    """RGB (H, W, 3) uint8 → input of about 255,000 · (`resolution` / 574)² pixels.

    Differences to the authors' code: OpenCV's kernels instead of Pillow's Lanczos, and each image keeps its own aspect
    ratio.
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
