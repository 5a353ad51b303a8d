"""`cameras.json`: the cameras of a scene and where its depth maps are; one schema for outputs, samples and truth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from reprlib import repr as short
from typing import Any

import numpy as np

from ..errors import InputError
from ..scene.view import View
from .depth import read_depth_png
from .files import write_json
from .natural import natural_key

CONVENTION = (
    "OpenCV camera axes (+x right, +y down, +z forward); cam_from_world 3x4 [R|t]; K in pixels of the image (width x"
    " height), pixel centres at +0.5; depth: 16-bit PNG of z-depth, 0 = unknown, value / depth_scale = scene units"
)
ROTATION_TOLERANCE = 1e-3  # of R R^T against the identity


def write_cameras_json(
    path: Path,
    views: Sequence[View],
    depth_files: Sequence[str] | None = None,
    depth_scales: Sequence[float] | None = None,
) -> None:
    """Write `views` with, per view, the depth map's file (relative to `path`) and scale. Raises OutputError.

    `depth_width` and `depth_height` are written where a view's depth map has another size than its image.
    """
    images: dict[str, dict[str, Any]] = {}
    for index, view in enumerate(views):
        entry: dict[str, Any] = {
            "K": view.K.tolist(),
            "cam_from_world": view.cam_from_world.tolist(),
            "width": view.width,
            "height": view.height,
        }
        if depth_files is not None and depth_scales is not None:
            entry["depth"], entry["depth_scale"] = depth_files[index], float(depth_scales[index])
        if view.depth is not None and view.depth.shape != (view.height, view.width):
            entry["depth_height"], entry["depth_width"] = view.depth.shape
        images[view.name] = entry
    write_json(path, {"convention": CONVENTION, "images": images})


def read_cameras_json(path: Path, load_depth: bool = True) -> list[View]:
    """The views of `path` (a cameras.json or the folder that holds one) in natural order, with depth maps where given.

    `depth_scale` may stand at the top or with each image. `load_depth=False` leaves every depth map None.
    Raises InputError that names the file and the key for whatever is malformed.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "cameras.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON: {' '.join(str(error).split())}") from error
    images = document.get("images") if isinstance(document, dict) else None
    if not isinstance(images, dict) or not images:
        raise InputError(f"{path}: key `images` has to map at least one image name to its camera")
    default_scale = document.get("depth_scale")
    return [_view(path, name, images[name], default_scale, load_depth) for name in sorted(images, key=natural_key)]


def _view(path: Path, name: str, entry: Any, default_scale: Any, load_depth: bool) -> View:
    where = f"{path}: images[{name!r}]"
    if not isinstance(entry, dict):
        raise InputError(f"{where}: has to be an object with K, cam_from_world, width and height")
    width, height = _size(where, entry, "width"), _size(where, entry, "height")
    K = _matrix(where, entry, "K", (3, 3))
    if K[0, 0] <= 0 or K[1, 1] <= 0 or not np.array_equal([*K[1:, 0], *K[2, 1:]], [0, 0, 0, 1]):
        raise InputError(f"{where}: K has to be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] with positive focal lengths")
    pose = _matrix(where, entry, "cam_from_world", (3, 4))
    rotation = pose[:, :3]
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > ROTATION_TOLERANCE or np.linalg.det(rotation) < 0:
        raise InputError(f"{where}: cam_from_world does not start with a rotation (R R^T = I, det R = 1)")
    depth = _depth(path, where, entry, default_scale, (height, width)) if load_depth and "depth" in entry else None
    return View(name=name, width=width, height=height, K=K, cam_from_world=pose, depth=depth)


def _depth(path: Path, where: str, entry: dict, default_scale: Any, image_size: tuple[int, int]) -> np.ndarray | None:
    file, scale = entry["depth"], entry.get("depth_scale", default_scale)
    if file is None:
        return None
    if not isinstance(file, str) or not file or "\0" in file:
        raise InputError(f"{where}: depth has to be the name of a 16-bit PNG, relative to {path.name}")
    if not _is_number(scale) or not 0 < scale < float("inf"):
        raise InputError(f"{where}: depth_scale (here or at the top) has to be a positive number, not {short(scale)}")
    size = image_size
    if "depth_width" in entry or "depth_height" in entry:
        size = (_size(where, entry, "depth_height"), _size(where, entry, "depth_width"))
    depth = read_depth_png(path.parent / file, float(scale))
    if depth.shape != size:
        raise InputError(
            f"{where}: depth map {file} has {depth.shape[1]}x{depth.shape[0]} pixels, not {size[1]}x{size[0]};"
            " depth_width and depth_height state a size other than the image's"
        )
    return depth


def _size(where: str, entry: dict, key: str) -> int:
    value = entry.get(key)
    if not _is_number(value) or isinstance(value, float) or value < 1:
        raise InputError(f"{where}: {key} has to be a positive whole number of pixels, not {short(value)}")
    return value


def _matrix(where: str, entry: dict, key: str, shape: tuple[int, int]) -> np.ndarray:
    rows = entry.get(key)
    fits = isinstance(rows, list) and len(rows) == shape[0]
    fits = fits and all(isinstance(row, list) and len(row) == shape[1] and all(map(_is_number, row)) for row in rows)
    matrix = np.array(rows, dtype=np.float64) if fits else np.array(np.nan)
    if not np.isfinite(matrix).all():
        raise InputError(f"{where}: {key} has to be a {shape[0]}x{shape[1]} matrix of finite numbers")
    return matrix


def _is_number(value: Any) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    return whole or isinstance(value, float)
