"""Image preparation of Depth-Anything-3's authors: images are resized twice; mixed sizes are cropped to one size."""

from __future__ import annotations

import cv2
import numpy as np

from lite3r_cli.networks.pictures import NetworkInput


def upper_bound(rgb: np.ndarray, resolution: int, multiple: int) -> NetworkInput:
    """`upper_bound_resize` of RGB (H, W, 3) uint8: longest side to `resolution`, then each side to the nearest
    `multiple`.
    """
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
