"""How VGGT-Ω's authors load a picture (mode `balanced`): about as many patches whatever its shape."""

from __future__ import annotations

import cv2
import numpy as np

from lite3r_cli.networks.pictures import NetworkInput

WIDEST = 2.0  # longer side over shorter side; the rest is cropped
SQUARE, AT = 512, 592  # side of a square picture, and the longest side of a 4:3 picture with as many patches


def balanced(rgb: np.ndarray, resolution: int, multiple: int) -> NetworkInput:
    """(H, W, 3) uint8 → 512² pixels in the picture's shape at a `resolution` of 592, in proportion at others.

    Their kernel is Pillow's bicubic; sets of mixed sizes, which they pad with white, stay as they are.
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
