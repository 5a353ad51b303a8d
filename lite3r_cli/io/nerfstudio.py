"""`transforms.json` for nerfstudio and instant-ngp: camera-to-world matrices in OpenGL axes (y up, -z ahead)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..scene.geometry import invert_pose
from ..scene.view import PointCloud, View
from .files import write_json
from .ply import write_ply

POINTS = "sparse_pc.ply"
OPENGL_AXES = np.array([1.0, -1.0, -1.0])  # of OpenCV's


def write_nerfstudio(
    directory: Path, views: Sequence[View], cloud: PointCloud, references: Mapping[str, str] | None = None
) -> list[Path]:
    """Write transforms.json and the points it starts from into `directory` and return both files.

    `references` maps the name of a view to what `file_path` says, relative to the folder or absolute; the default is
    images/NAME. Only the cameras' axes are OpenGL: the world frame stays that of the PLY file. Raises OutputError.
    """
    frames = []
    for view in views:
        K = view.K
        pose = np.eye(4)
        pose[:3] = invert_pose(view.cam_from_world)
        pose[:3, :3] *= OPENGL_AXES
        frames.append(
            {
                "file_path": references[view.name] if references is not None else f"images/{view.name}",
                "fl_x": float(K[0, 0]),
                "fl_y": float(K[1, 1]),
                "cx": float(K[0, 2]),
                "cy": float(K[1, 2]),
                "w": view.width,
                "h": view.height,
                "transform_matrix": pose.tolist(),
            }
        )
    write_ply(directory / POINTS, cloud)
    write_json(directory / "transforms.json", {"camera_model": "PINHOLE", "ply_file_path": POINTS, "frames": frames})
    return [directory / "transforms.json", directory / POINTS]
