"""Reads camera paths: cameras.json, transforms.json, COLMAP, nerfstudio's camera paths, TUM trajectories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..scene.geometry import invert_pose
from ..scene.posed_view import View
from . import camera_fields as fields
from .documents import read_json
from .foreign_cameras import read_known_cameras
from .names import printable
from .nerfstudio import OPENGL_AXES
from .tum import read_tum

TRAJECTORIES = (".txt", ".tum", ".csv")
MOST_CAMERAS = 100_000  # an hour of video; a smooth path through more takes minutes


def read_flight(path: Path, views: Sequence[View]) -> list[View]:
    """The cameras of a path in order, in the frame of the scene. Poses without a lens (TUM) get the median lens of
    `views`. Raises InputError for a malformed file, and for one without cameras.
    """
    if is_trajectory(path):
        usual, poses = usual_lens(views), read_tum(path)
        _require_few(path, len(poses))
        found = [replace(usual, cam_from_world=pose) for _, pose in poses]
    else:
        document = read_json(path)
        if isinstance(document, dict) and isinstance(document.get("camera_path"), list):
            _require_few(path, len(document["camera_path"]))
            found = [_of_nerfstudio(f"{printable(path)}: camera {i}", document, entry)
                     for i, entry in enumerate(document["camera_path"])]  # fmt: skip
        else:
            found = read_known_cameras(path)
    if not found:
        raise InputError(f"{printable(path)}: holds no camera")
    _require_few(path, len(found))
    return found


def _require_few(path: Path, count: int) -> None:
    if count > MOST_CAMERAS:
        raise InputError(
            f"{printable(path)}: holds {count:,} cameras, and a path at most {MOST_CAMERAS:,}: leave some out"
        )


def is_trajectory(path: Path) -> bool:
    """Whether a file has poses without a lens, by its name."""
    return path.is_file() and path.suffix.lower() in TRAJECTORIES


def usual_lens(views: Sequence[View]) -> View:
    """A camera with the size of the first view and the median focal length of all."""
    first = views[0]
    focal = float(np.median([view.K[0, 0] / view.width for view in views])) * first.width
    K = np.array([[focal, 0, first.width / 2], [0, focal, first.height / 2], [0, 0, 1]])
    return View("flight", first.width, first.height, K, first.cam_from_world)


def _of_nerfstudio(where: str, document: dict[str, Any], entry: Any) -> View:
    """An entry of `camera_path`: a row-major 4×4 matrix with OpenGL axes, and the vertical field of view in degrees."""
    if not isinstance(entry, dict):
        raise InputError(f"{where}: is no object")
    values = entry.get("camera_to_world")
    if isinstance(values, list) and len(values) == 16:
        entry = entry | {"camera_to_world": [values[i : i + 4] for i in range(0, 16, 4)]}
    pose = fields.matrix(where, entry, "camera_to_world", (4, 4), (3, 4))[:3].copy()
    fields.require_rotation(where, pose[:, :3], "camera_to_world")
    pose[:, :3] *= OPENGL_AXES
    height = fields.side(where, document, "render_height")
    width = fields.side(where, document, "render_width")
    fov = fields.number(where, entry, "fov")
    if not 1 <= fov <= 170:
        raise InputError(f"{where}: `fov` is {fov:g}; it has to lie between 1 and 170 degrees")
    focal = height / 2 / np.tan(np.radians(fov) / 2)
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return View("flight", width, height, K, invert_pose(pose))
