"""Checks of the fields of a camera in a file: types, ranges and relations; shared by all formats."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from reprlib import repr as short
from typing import Any, TypeGuard

import numpy as np

from ..errors import InputError
from ..scene.distortion import MODELS, DistortedCamera
from ..scene.posed_view import View
from .codecs.header import LARGEST_ASPECT
from .names import can_be_a_path

ROTATION_TOLERANCE = 1e-3  # largest deviation of R R^T from the identity
MAX_SIDE = 1 << 20  # pixels
SMALLEST = 1e-12  # smallest value of a positive field
SHORTEST_FOCAL, LONGEST_FOCAL = 0.1, 100.0  # in longer sides of the image
LARGEST = 1e12  # of any number: larger ones lose single precision and do not occur in camera files


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a finite number of plausible size; booleans are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST


def number(where: str, entry: dict[str, Any], key: str, default: float | None = None) -> float:
    """A finite number. Raises InputError."""
    value = entry.get(key, default)
    if not is_number(value):
        raise InputError(f"{where}: {key} has to be a finite number, {_found(entry, key)}")
    return float(value)


def side(where: str, entry: dict[str, Any], key: str) -> int:
    """The length of a side in pixels, a whole number from 1. Raises InputError."""
    value = entry.get(key)
    if not is_number(value) or value != int(value) or not 1 <= value <= MAX_SIDE:
        found = _found(entry, key)
        raise InputError(f"{where}: {key} has to be a whole number of pixels from 1 to {MAX_SIDE}, {found}")
    return int(value)


def matrix(where: str, entry: dict[str, Any], key: str, *shapes: tuple[int, int]) -> np.ndarray:
    """A matrix as a list of rows, with one of the `shapes`. Raises InputError."""
    rows = entry.get(key)
    for height, width in shapes:
        if isinstance(rows, list) and len(rows) == height:
            if all(isinstance(row, list) and len(row) == width and all(map(is_number, row)) for row in rows):
                return np.array(rows, dtype=np.float64)
    sizes = " or ".join(f"{height}x{width}" for height, width in shapes)
    missing = "" if key in entry else ", and is missing"
    raise InputError(f"{where}: {key} has to be a {sizes} matrix of finite numbers{missing}")


def _found(entry: dict[str, Any], key: str) -> str:
    return f"not {short(entry[key])}" if key in entry else "and is missing"


def require_rotation(where: str, rotation: np.ndarray, what: str) -> None:
    """Raises InputError unless (3, 3) `rotation` is orthonormal and right-handed."""
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > ROTATION_TOLERANCE:
        raise InputError(f"{where}: {what} does not start with a rotation (R R^T = I, det R = 1)")
    if np.linalg.det(rotation) < 0:
        raise InputError(f"{where}: {what} is mirrored (det R = -1): a left-handed frame; turn one axis round")


def require_size(where: str, size: tuple[int, int]) -> None:
    """Raises InputError for an impossible image size (width, height)."""
    if not all(1 <= side <= MAX_SIDE for side in size):
        raise InputError(f"{where}: an image of {size[0]}x{size[1]} pixels does not exist")


def lens(
    where: str, model: str, params: Sequence[float], size: tuple[int, int]
) -> tuple[np.ndarray, DistortedCamera | None]:
    """K (3, 3), and the camera itself if it has distortion; K is then that without the distortion.

    Raises InputError for an unknown camera model, or wrong parameters.
    """
    if model == "EQUIRECTANGULAR":
        raise InputError(f"{where}: an {model} image has no focal length; give 360° images without --cameras")
    if model not in MODELS:
        raise InputError(f"{where}: a {model} camera is not known; known are {', '.join(MODELS)}")
    if len(params) != MODELS[model].count:
        raise InputError(f"{where}: a {model} camera has {MODELS[model].count} parameters, not {len(params)}")
    if not all(map(is_number, params)):
        raise InputError(f"{where}: has numbers that are not finite")
    found = DistortedCamera(model, tuple(map(float, params)), *size)
    (fx, fy), (cx, cy) = found.focal, found.centre
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
    require_plausible(where, K, size)
    return K, found if found.distorted else None


def require_plausible(where: str, K: np.ndarray, size: tuple[int, int]) -> None:
    """Raises InputError for an implausible K (3, 3) of images of `size` (width, height).

    Like COLMAP, this requires a principal point inside the image and a plausible focal length. Typical errors are a K
    for another size, in other units, or with swapped entries.
    """
    width, height = size
    (fx, fy), (cx, cy), longer = (K[0, 0], K[1, 1]), K[:2, 2], max(size)
    advice = f"K has to be in pixels of the image of {width}x{height}"
    if not (fx > 0 and fy > 0):
        raise InputError(f"{where}: a focal length is not positive; {advice}")
    for focal in (fx, fy):
        if not SHORTEST_FOCAL * longer <= focal <= LONGEST_FOCAL * longer:
            sides = f"{SHORTEST_FOCAL:g} to {LONGEST_FOCAL:g} times the longer side"
            raise InputError(f"{where}: no lens has a focal length of {focal:.6g} pixels ({sides}); {advice}")
    if not 1 / LARGEST_ASPECT <= fx / fy <= LARGEST_ASPECT:
        raise InputError(f"{where}: focal lengths {fx:.6g} and {fy:.6g} are of no camera's pixels; {advice}")
    if not (0 < cx < width and 0 < cy < height):
        raise InputError(f"{where}: the principal point ({cx:.6g}, {cy:.6g}) is outside the image; {advice}")


def camera(
    where: str,
    name: str,
    size: tuple[int, int],
    K: np.ndarray,
    cam_from_world: np.ndarray,
    lens: DistortedCamera | None = None,
) -> View:
    """A view of checked values. Raises InputError for inconsistent ones."""
    require_size(where, size)
    width, height = size
    if not (np.isfinite(K).all() and np.isfinite(cam_from_world).all() and np.abs(cam_from_world).max() <= LARGEST):
        raise InputError(f"{where}: has numbers that are not finite")
    require_plausible(where, K, size)
    if PurePosixPath(name).name in ("", "..") or not can_be_a_path(name):
        raise InputError(f"{where}: has no file name of an image")
    require_rotation(where, cam_from_world[:, :3], "its pose")
    return View(name, width, height, K, cam_from_world, lens=lens)
