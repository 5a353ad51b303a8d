"""Cameras that are known beforehand, from whatever wrote them: our cameras.json, a COLMAP model, transforms.json."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ..errors import BackendError, InputError, UsageError
from ..scene.geometry import invert_pose
from ..scene.view import View
from .cameras import read_cameras_json
from .nerfstudio import OPENGL_AXES

_COLMAP_FOLDERS = (".", "sparse/0", "sparse")
_DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
_PINHOLE = {"SIMPLE_PINHOLE", "PINHOLE"}


def read_known_cameras(path: Path) -> list[View]:
    """The views at `path`, without depth: a cameras.json or transforms.json, a folder that holds one of them or a
    COLMAP model (also in sparse/0 or sparse). Names are file names without folders.

    Raises UsageError for a path that is nothing of the kind, InputError for what is malformed or not a pinhole camera,
    BackendError for a COLMAP model without pycolmap.
    """
    path = Path(path)
    if path.is_dir():
        for name in ("cameras.json", "transforms.json"):
            if (path / name).is_file():
                return read_known_cameras(path / name)
        for folder in _COLMAP_FOLDERS:
            if any((path / folder / f"images.{suffix}").is_file() for suffix in ("bin", "txt")):
                return _checked(path, _read_colmap(path / folder))
        raise UsageError(f"{path}: holds no cameras.json, no transforms.json and no COLMAP model (images.bin or .txt)")
    if not path.is_file():
        raise UsageError(f"{path}: no such file; --cameras takes a cameras.json, a transforms.json or a COLMAP folder")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {' '.join(str(error).split())}") from error
    if isinstance(document, dict) and "frames" in document:
        return _checked(path, _from_nerfstudio(path, document))
    return read_cameras_json(path, load_depth=False)


def _checked(path: Path, views: list[View]) -> list[View]:
    names = [view.name for view in views]
    if not names:
        raise InputError(f"{path}: holds no camera")
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise InputError(f"{path}: has two cameras for {double}: file names have to be unique")
    return views


# --- nerfstudio -------------------------------------------------------------------------------------------------------


def _from_nerfstudio(path: Path, document: dict[str, Any]) -> list[View]:
    frames = document["frames"]
    if not isinstance(frames, list):
        raise InputError(f"{path}: frames has to be a list")
    return [_frame(f"{path}: frames[{i}]", {**document, **frame}) for i, frame in enumerate(frames)]


def _frame(where: str, entry: dict[str, Any]) -> View:
    """One frame; what holds for all frames may stand at the top."""
    try:
        numbers = {key: float(entry[key]) for key in ("fl_x", "cx", "cy", "w", "h")}
        focal_y = float(entry.get("fl_y", numbers["fl_x"]))
        world_from_cam = np.array(entry["transform_matrix"], dtype=np.float64)[:3].reshape(3, 4)
        name = PurePosixPath(str(entry["file_path"])).name
        distortion = [float(entry.get(key, 0)) for key in _DISTORTION]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{where}: needs file_path, transform_matrix, fl_x, cx, cy, w, h as numbers ({error})"
        ) from error
    if any(distortion):
        raise InputError(f"{where}: has lens distortion; undistort the images and their cameras first")
    K = np.array([[numbers["fl_x"], 0, numbers["cx"]], [0, focal_y, numbers["cy"]], [0, 0, 1]])
    if not (np.isfinite(world_from_cam).all() and np.isfinite(K).all() and numbers["fl_x"] > 0 and focal_y > 0):
        raise InputError(f"{where}: has numbers that are not finite or a focal length that is not positive")
    world_from_cam = world_from_cam.copy()
    world_from_cam[:, :3] *= OPENGL_AXES
    if np.abs(world_from_cam[:, :3] @ world_from_cam[:, :3].T - np.eye(3)).max() > 1e-3:
        raise InputError(f"{where}: transform_matrix does not start with a rotation")
    return View(name, int(numbers["w"]), int(numbers["h"]), K, invert_pose(world_from_cam))


# --- COLMAP -----------------------------------------------------------------------------------------------------------


def _read_colmap(folder: Path) -> list[View]:
    if find_spec("pycolmap") is None:
        raise BackendError(f"{folder}: reading a COLMAP model needs pycolmap: pip install 'lite3r[colmap]'")
    import pycolmap

    try:
        model = pycolmap.Reconstruction(folder)
    except (ValueError, RuntimeError, IndexError) as error:
        raise InputError(f"{folder}: not a COLMAP model: {' '.join(str(error).split())}") from error
    views = []
    for image in model.images.values():
        camera = image.camera
        if camera.model.name not in _PINHOLE:
            raise InputError(
                f"{folder}: {image.name} has a {camera.model.name} camera; undistort first (colmap image_undistorter)"
            )
        if image.has_pose:
            K, pose = camera.calibration_matrix(), image.cam_from_world().matrix()
            views.append(View(PurePosixPath(image.name).name, camera.width, camera.height, K, pose))
    return views
