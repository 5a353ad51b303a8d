"""Known cameras in any supported format: our cameras.json, a COLMAP model, transforms.json."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from reprlib import repr as short
from typing import Any

import numpy as np

from ..errors import InputError, UsageError
from ..scene.distortion import DistortedCamera
from ..scene.geometry import invert_pose
from ..scene.posed_view import View
from . import camera_fields as fields
from .cameras_json import read_cameras_json
from .colmap_model import read_colmap_model
from .documents import parsed_json, read_text, require_file
from .names import printable
from .nerfstudio import OPENGL_AXES

_TAKES = "--cameras takes a cameras.json, a transforms.json, a COLMAP folder or a trajectory of TUM (.txt)"
_COLMAP_FOLDERS = (".", "sparse/0", "sparse", "colmap/sparse/0")
_KEYS = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")  # distortion keys in the order of OpenCV and FULL_OPENCV
# Camera models of transforms.json: COLMAP's, with the keys of their parameters. A camera with k3 is FULL_OPENCV.
_MODELS: dict[str, tuple[str, ...]] = {
    "SIMPLE_PINHOLE": (), "PINHOLE": (), "SIMPLE_RADIAL": ("k1",), "RADIAL": ("k1", "k2"), "OPENCV": _KEYS[:4],
    "FULL_OPENCV": _KEYS, "OPENCV_FISHEYE": ("k1", "k2", "k3", "k4"), "SIMPLE_RADIAL_FISHEYE": ("k1",),
    "RADIAL_FISHEYE": ("k1", "k2"), "SIMPLE_FISHEYE": (), "FISHEYE": (),
}  # fmt: skip


def read_known_cameras(path: Path) -> list[View]:
    """The views at `path` without depth: a cameras.json, a transforms.json, a folder that has one of them, or a COLMAP
    model (also in sparse/0 or sparse). Names are file names, with folders if they would be ambiguous.

    `lens` is a camera with distortion; K is then that without the distortion. Raises UsageError for any other path,
    InputError for malformed content.
    """
    path = Path(path)
    if path.is_dir():
        for name in ("cameras.json", "transforms.json"):
            if (path / name).is_file():
                return read_known_cameras(path / name)
        for folder in _COLMAP_FOLDERS:
            if any((path / folder / f"images.{suffix}").is_file() for suffix in ("bin", "txt")):
                return _checked(path, read_colmap_model(path / folder))
        raise UsageError(
            f"{printable(path)}: holds no cameras.json, no transforms.json and no COLMAP model (images.bin or .txt)"
        )
    require_file(path, _TAKES)
    text = read_text(path)
    if not text.lstrip().startswith(("{", "[")):
        raise InputError(f"{printable(path)}: holds no cameras in a form that is known here; {_TAKES}")
    document = parsed_json(path, text)
    if not isinstance(document, dict) or not ("frames" in document or "images" in document):
        raise InputError(
            f"{printable(path)}: has neither `images` (cameras.json) nor `frames` (transforms.json); {_TAKES}"
        )
    if "frames" in document:
        return _checked(path, _from_nerfstudio(path, document))
    return read_cameras_json(path, load_depth=False)


def _checked(path: Path, views: list[View]) -> list[View]:
    """Names without redundant folders. Raises InputError without cameras, or for equal names."""
    if not views:
        raise InputError(f"{printable(path)}: holds no camera")
    names = _short_names([_portable(view.name) for view in views])
    double = next((name for name, count in Counter(names).items() if count > 1), None)
    if double is not None:
        raise InputError(f"{printable(path)}: has two cameras for {double[:80]}: each image needs a name of its own")
    return [replace(view, name=name) for view, name in zip(views, names, strict=True)]


def _portable(name: str) -> str:
    """A Windows path with slashes. A backslash after a slash is part of a Linux file name."""
    is_windows = "\\" in name and ("/" not in name or PureWindowsPath(name).drive)
    return PureWindowsPath(name).as_posix() if is_windows else name


def _short_names(names: Sequence[str]) -> list[str]:
    """File names if they differ, else names without their common folders."""
    paths = [PurePosixPath(name) for name in names]
    last = [path.name or name for path, name in zip(paths, names, strict=True)]
    if len(set(last)) == len(names):
        return last
    parts = [[part for part in path.parts if part not in (".", "..", "/")] for path in paths]
    common = 0
    while all(len(p) > common + 1 for p in parts) and len({p[common] for p in parts}) == 1:
        common += 1
    return ["/".join(p[common:]) or name for p, name in zip(parts, names, strict=True)]


# --- nerfstudio and instant-ngp ---------------------------------------------------------------------------------------


def _from_nerfstudio(path: Path, document: dict[str, Any]) -> list[View]:
    frames = document["frames"]
    if not isinstance(frames, list):
        raise InputError(f"{printable(path)}: frames has to be a list")
    common = {key: value for key, value in document.items() if key != "frames"}
    views = []
    for i, frame in enumerate(frames):
        where = f"{printable(path)}: frames[{i}]"
        if not isinstance(frame, dict):
            raise InputError(f"{where}: has to be an object with file_path and transform_matrix")
        views.append(_frame(where, {**common, **frame}))
    return views


def _frame(where: str, entry: dict[str, Any]) -> View:
    """One frame; common values may be at the top level."""
    file = entry.get("file_path")
    if not isinstance(file, str) or not file or "\0" in file:
        raise InputError(f"{where}: file_path has to be the name of an image")
    model = entry.get("camera_model", "OPENCV")
    if not isinstance(model, str):
        raise InputError(f"{where}: camera_model has to be the name of one, e.g. PINHOLE")
    fisheye = entry.get("is_fisheye", False)
    if not isinstance(fisheye, bool):
        raise InputError(f"{where}: is_fisheye has to be true or false, not {short(fisheye)}")
    if fisheye:
        model = "OPENCV_FISHEYE"
    missing = [key for key in ("w", "h") if key not in entry]
    if missing:
        raise InputError(
            f"{where}: has no {' and no '.join(missing)}: w and h have to be the images' width and height in pixels;"
            " add them, also where camera_angle_x stands alone, as in NeRF's files of Blender"
        )
    width, height = fields.side(where, entry, "w"), fields.side(where, entry, "h")
    focal_x = _focal(where, entry, "fl_x", "camera_angle_x", width)
    focal_y = _focal(where, entry, "fl_y", "camera_angle_y", height, focal_x)
    centre = fields.number(where, entry, "cx", width / 2), fields.number(where, entry, "cy", height / 2)
    K, lens = _lens(where, entry, model, (focal_x, focal_y, *centre), (width, height))
    world_from_cam = fields.matrix(where, entry, "transform_matrix", (4, 4), (3, 4))
    if len(world_from_cam) == 4 and not np.array_equal(world_from_cam[3], (0, 0, 0, 1)):
        raise InputError(f"{where}: transform_matrix has to end in the row 0 0 0 1")
    world_from_cam = world_from_cam[:3].copy()
    fields.require_rotation(where, world_from_cam[:, :3], "transform_matrix")
    world_from_cam[:, :3] *= OPENGL_AXES
    return fields.camera(where, printable(file), (width, height), K, invert_pose(world_from_cam), lens)


def _lens(
    where: str, entry: dict[str, Any], model: str, pinhole: tuple[float, ...], size: tuple[int, int]
) -> tuple[np.ndarray, DistortedCamera | None]:
    """K and lens, see `camera_fields.lens`; all models have two focal lengths in these files."""
    values = {key: fields.number(where, entry, key, 0) for key in _KEYS}
    if model not in _MODELS:
        return fields.lens(where, printable(model)[:40], pinhole, size)  # lists the supported models
    fisheye = model.endswith("FISHEYE")
    if model == "OPENCV" and values["k3"]:
        model = "FULL_OPENCV"
    unused = [key for key, value in values.items() if value and key not in _MODELS[model]]
    if unused:
        raise InputError(f"{where}: a {model} camera has no {', '.join(unused)}; camera_model has to fit them")
    if fisheye:
        return fields.lens(where, "OPENCV_FISHEYE", (*pinhole, *(values[f"k{i}"] for i in (1, 2, 3, 4))), size)
    if any(values[key] for key in _KEYS[4:]):
        return fields.lens(where, "FULL_OPENCV", (*pinhole, *values.values()), size)
    return fields.lens(where, "OPENCV", (*pinhole, *(values[key] for key in _KEYS[:4])), size)


def _focal(where: str, entry: dict[str, Any], key: str, angle: str, pixels: int, default: float | None = None) -> float:
    """A focal length in pixels, or from the angle of view (radians) of instant-ngp."""
    if key not in entry and angle in entry:
        view = fields.number(where, entry, angle)
        if not 0 < view < math.pi:
            raise InputError(
                f"{where}: {angle} has to be an angle in radians between 0 and {math.pi:.4g}, not {view:g}"
            )
        return pixels / 2 / math.tan(view / 2)
    return fields.number(where, entry, key, default)
