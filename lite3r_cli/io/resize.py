"""Resizes images to the network: the aspect ratio is kept, and both sides are multiples of the patch size."""

from __future__ import annotations

import cv2
import numpy as np

from ..errors import UsageError

ROUNDING = 0.02  # relative difference of two aspect ratios that count as equal


def network_size(width: int, height: int, longest: int, multiple: int = 14) -> tuple[int, int]:
    """(h, w) for an image of `width` × `height` pixels: 1024×683 at 518 gives (350, 518).

    The longer side becomes the largest multiple of `multiple` up to `longest`, the other one the multiple closest to
    the true aspect ratio, at least one. Raises UsageError if `longest` is below `multiple`.
    """
    if longest < multiple:
        raise UsageError(f"a resolution of {longest} pixels is below one patch: use at least {multiple}")
    if width < 1 or height < 1:
        raise ValueError(f"an image of {width}×{height} pixels has no size")
    long_side = longest // multiple * multiple
    ratio = min(width, height) / max(width, height)
    short_side = max(multiple, int(long_side * ratio / multiple + 0.5) * multiple)
    return (short_side, long_side) if width >= height else (long_side, short_side)


def is_resized(size: tuple[int, int], original: tuple[int, int], rounded: float = 1.0) -> bool:
    """Whether an image of `size` (width, height) can be the `original` one, resized: the aspect ratios differ by at
    most `ROUNDING`, or one side by at most `rounded` pixels.
    """
    (w, h), (width, height) = size, original
    apart = min(abs(h - w * height / width), abs(w - h * width / height))
    return abs(w * height / (h * width) - 1) <= ROUNDING or apart <= rounded


def resize_for_network(
    rgb: np.ndarray, longest: int, multiple: int = 14, size: tuple[int, int] | None = None
) -> np.ndarray:
    """(H, W, 3) uint8 → (h, w, 3) uint8 of `network_size`, antialiased; `size`: the photograph's (height, width) if
    `rgb` is a reduced one.

    Downscaling averages areas, upscaling is cubic. The factors of the two axes may differ by the rounding of the short
    side, so intrinsics scale by w / W and h / H separately (pixel centres at +0.5: no shift).
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"expected (H, W, 3) uint8, got {rgb.shape} {rgb.dtype}")
    height, width = rgb.shape[:2]
    tall, wide = size or (height, width)
    h, w = network_size(wide, tall, longest, multiple)
    if (h, w) == (height, width):
        return rgb.copy()
    shrinks = h <= height and w <= width
    return cv2.resize(rgb, (w, h), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
