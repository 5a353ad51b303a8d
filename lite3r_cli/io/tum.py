"""The camera path in the TUM RGB-D format, which evo and the TUM tools read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..scene.geometry import invert_pose, quaternion_from_matrix
from ..scene.view import View
from .files import write_bytes


def write_tum(directory: Path, views: Sequence[View]) -> list[Path]:
    """Write `directory`/trajectory.txt: per view its index, centre and camera-to-world quaternion, w last.

    Raises OutputError.
    """
    lines = ["# index tx ty tz qx qy qz qw (world from camera, OpenCV axes, scene units)"]
    for index, view in enumerate(views):
        pose = invert_pose(view.cam_from_world)
        values = (*pose[:, 3], *quaternion_from_matrix(pose[:, :3]))
        lines.append(" ".join([str(index), *(f"{value:.9f}" for value in values)]))
    path = directory / "trajectory.txt"
    write_bytes(path, ("\n".join(lines) + "\n").encode("ascii"))
    return [path]
