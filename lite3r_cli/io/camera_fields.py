"""The fields of a camera out of a file: types, ranges, and what has to hold between them; one table for all formats."""

from __future__ import annotations

from reprlib import repr as short
from typing import Any

import numpy as np

from ..errors import InputError
from ..scene.view import View

ROTATION_TOLERANCE = 1e-3  # of R R^T against the identity
MAX_SIDE = 1 << 20  # pixels
LARGEST = 1e12  # of any number: beyond it single precision is lost, and the file is not of cameras
PINHOLE = ("SIMPLE_PINHOLE", "PINHOLE")
# Models that are a pinhole where all of their further parameters are 0.
DISTORTED = ("SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV", "SIMPLE_DIVISION", "DIVISION")


def is_number(value: Any) -> bool:
    """A finite number of a size that cameras have; True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST


def number(where: str, entry: dict[str, Any], key: str, default: float | None = None) -> float:
    """A finite number. Raises InputError."""
    value = entry.get(key, default)
    if not is_number(value):
        raise InputError(f"{where}: {key} has to be a finite number, not {short(value)}")
    return float(value)


def side(where: str, entry: dict[str, Any], key: str) -> int:
    """Pixels of a side: a whole number from 1. Raises InputError."""
    value = entry.get(key)
    if not is_number(value) or value != int(value) or not 1 <= value <= MAX_SIDE:
        raise InputError(f"{where}: {key} has to be a whole number of pixels from 1 to {MAX_SIDE}, not {short(value)}")
    return int(value)


def matrix(where: str, entry: dict[str, Any], key: str, *shapes: tuple[int, int]) -> np.ndarray:
    """A list of rows, of one of the `shapes`. Raises InputError."""
    rows = entry.get(key)
    for height, width in shapes:
        if isinstance(rows, list) and len(rows) == height:
            if all(isinstance(row, list) and len(row) == width and all(map(is_number, row)) for row in rows):
                return np.array(rows, dtype=np.float64)
    sizes = " or ".join(f"{height}x{width}" for height, width in shapes)
    raise InputError(f"{where}: {key} has to be a {sizes} matrix of finite numbers")


def require_rotation(where: str, rotation: np.ndarray, what: str) -> None:
    """Raises InputError unless (3, 3) `rotation` is orthonormal and right-handed."""
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > ROTATION_TOLERANCE:
        raise InputError(f"{where}: {what} does not start with a rotation (R R^T = I, det R = 1)")
    if np.linalg.det(rotation) < 0:
        raise InputError(f"{where}: {what} is mirrored (det R = -1): a left-handed frame; turn one axis round")


def require_pinhole(where: str, model: str, distortion: Any) -> None:
    """Raises InputError for a camera that is no pinhole, by the name of its model.

    `distortion` are the parameters behind focal lengths and principal point.
    """
    bent = model not in PINHOLE + DISTORTED
    if bent or any(value != 0 for value in distortion):
        why = "is not a pinhole" if bent else "has lens distortion"
        fix = "undistort the images and their cameras first (colmap image_undistorter, ns-process-data)"
        raise InputError(f"{where}: a {model} camera {why}; {fix}")


def camera(where: str, name: str, size: tuple[int, int], K: np.ndarray, cam_from_world: np.ndarray) -> View:
    """A view of checked values. Raises InputError for what does not go together."""
    width, height = size
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise InputError(f"{where}: a picture of {width}x{height} pixels does not exist")
    if not (np.isfinite(K).all() and np.isfinite(cam_from_world).all() and np.abs(cam_from_world).max() <= LARGEST):
        raise InputError(f"{where}: has numbers that are not finite")
    if not (0 < K[0, 0] <= LARGEST and 0 < K[1, 1] <= LARGEST):
        raise InputError(f"{where}: a focal length is not positive")
    if not name or "\0" in name:
        raise InputError(f"{where}: has no file name of a picture")
    require_rotation(where, cam_from_world[:, :3], "its pose")
    return View(name, width, height, K, cam_from_world)
