"""The camera path in the TUM RGB-D format, which evo and the TUM tools read."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import InputError
from ..scene.geometry import invert_pose, matrix_from_quaternion, quaternion_from_matrix
from .documents import read_text
from .files import write_bytes
from .scene_export import SceneExport

_MAX_LINES = 1_000_000


def write_tum(scene: SceneExport) -> list[Path]:
    """Write trajectory.txt: per view its index, centre and camera-to-world quaternion, w last.

    Raises OutputError.
    """
    views = scene.views
    lines = ["# index tx ty tz qx qy qz qw (world from camera, OpenCV axes, scene units)"]
    for index, view in enumerate(views):
        pose = invert_pose(view.cam_from_world)
        values = (*pose[:, 3], *quaternion_from_matrix(pose[:, :3]))
        lines.append(" ".join([str(index), *(f"{value:.9f}" for value in values)]))
    path = scene.directory / "trajectory.txt"
    write_bytes(path, ("\n".join(lines) + "\n").encode("ascii"))
    return [path]


def read_tum(path: Path) -> list[tuple[str, np.ndarray]]:
    """The (first column, cam_from_world (3, 4)) of every line of a trajectory.

    The first column is a time, an index or an image name. Raises InputError for a file that is not a trajectory.
    """
    lines = read_text(path).splitlines()
    rows = [(number, line.replace(",", " ").split()) for number, line in enumerate(lines[:_MAX_LINES], 1)]
    rows = [(number, row) for number, row in rows if row and not row[0].startswith("#")]
    if not rows:
        raise InputError(f"{path}: holds no pose; a line of a TUM trajectory is: time tx ty tz qx qy qz qw")
    return [(row[0], _pose(f"{path}: line {number}", row)) for number, row in rows]


def _pose(where: str, row: list[str]) -> np.ndarray:
    try:
        values = np.array([float(value) for value in row[1:]])
    except ValueError:
        values = np.zeros(0)
    norm = np.linalg.norm(values[3:]) if values.shape == (7,) else 0.0
    if not np.isfinite(values).all() or not 0.9 < norm < 1.1:
        raise InputError(f"{where}: has to be: time tx ty tz qx qy qz qw, with a unit quaternion")
    rotation = matrix_from_quaternion(values[3:])
    return invert_pose(np.concatenate([rotation, values[:3, None]], axis=1))
