"""Image preparation of VGGT-Ω's authors (mode `balanced`): about the same number of patches for every aspect ratio."""

from __future__ import annotations

import cv2
import numpy as np

from lite3r_cli.networks.pictures import NetworkInput

WIDEST = 2.0  # largest ratio of the longer to the shorter side; the rest is cropped
SQUARE, AT = 512, 592  # side of a square image, and the longest side of a 4:3 image with as many patches


def balanced(rgb: np.ndarray, resolution: int, multiple: int) -> NetworkInput:
    """RGB (H, W, 3) uint8 → input of about (512 · `resolution` / 592)² pixels with the image's aspect ratio.

    Differences to the authors' code: OpenCV's kernels instead of Pillow's bicubic, and no white padding in sets of
    mixed sizes.
    """
    height, width = rgb.shape[:2]
    tall, wide = min(height, max(1, round(WIDEST * width))), min(width, max(1, round(WIDEST * height)))
    top, left = (height - tall) // 2, (width - wide) // 2
    aspect = tall / wide
    patches = (SQUARE * resolution / AT / multiple) ** 2
    columns = (patches / aspect) ** 0.5
    rows = max(1, round(patches / columns))
    columns = max(1, round(columns))
    size = (columns * multiple, rows * multiple)
    window = np.ascontiguousarray(rgb[top : top + tall, left : left + wide])
    shrinks = size[0] < wide
    resized = cv2.resize(window, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    full = (round(height * size[1] / tall), round(width * size[0] / wide))
    corner = (round(top * size[1] / tall), round(left * size[0] / wide))
    return NetworkInput(resized, full, corner)
