"""Image preparation of MapAnything's authors (`fixed_mapping`): one of ten shapes, the same for all images of a set."""

from __future__ import annotations

import cv2
import numpy as np

from lite3r_cli.networks.pictures import NetworkInput

SQUARE = 518
SHAPES = {  # width / height → (width, height) at a resolution of 518
    1.0: (518, 518), 1.321: (518, 392), 1.542: (518, 336), 1.762: (518, 294), 2.056: (518, 252), 3.083: (518, 168),
    0.757: (392, 518), 0.649: (336, 518), 0.567: (294, 518), 0.486: (252, 518),
}  # fmt: skip


def fixed_shape(rgb: np.ndarray, resolution: int, multiple: int) -> NetworkInput:
    """RGB (H, W, 3) uint8 → input of the shape closest to the image's aspect ratio; the rest is cropped.

    The authors use Pillow's Lanczos and bicubic kernels; this uses OpenCV's area and cubic ones.
    """
    height, width = rgb.shape[:2]
    wide, tall = SHAPES[min(SHAPES, key=lambda aspect: abs(aspect - width / height))]
    wide, tall = (max(1, round(side * resolution / SQUARE / multiple)) * multiple for side in (wide, tall))
    scale = max(wide / width, tall / height) + 1e-8
    full_wide, full_tall = int(width * scale), int(height * scale)
    resized = cv2.resize(rgb, (full_wide, full_tall), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    left, top = (full_wide - wide) // 2, (full_tall - tall) // 2
    window = np.ascontiguousarray(resized[top : top + tall, left : left + wide])
    return NetworkInput(window, (full_tall, full_wide), (top, left))
