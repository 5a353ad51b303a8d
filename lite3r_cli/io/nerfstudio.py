"""`transforms.json` for nerfstudio and instant-ngp: camera-to-world matrices in OpenGL axes (y up, -z ahead)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..scene import geometry
from ..scene.geometry import invert_pose
from ..scene.view import PointCloud, View
from .files import write_json
from .ply import write_ply
from .scene_export import SceneExport

POINTS = "sparse_pc.ply"
NGP_BOX = 4  # side of instant-ngp's box, in its units; a power of two
NGP_SIDE = 3.0  # side of the scene in it
OPENGL_AXES = np.array([1.0, -1.0, -1.0])  # of OpenCV's


def write_nerfstudio(scene: SceneExport) -> list[Path]:
    """Write transforms.json and the points that training starts from, and return both files.

    Only the cameras' axes are OpenGL: the world frame stays that of the PLY file. All paths are relative to the folder.
    For instant-ngp, `scale`, `offset` and `aabb_scale` put the points into its box, and `up` says that -y is up.
    Raises OutputError.
    """
    frames = []
    for view in scene.views:
        K = view.K
        pose = np.eye(4)
        pose[:3] = invert_pose(view.cam_from_world)
        pose[:3, :3] *= OPENGL_AXES
        frames.append(
            {
                "file_path": scene.picture(view),
                **({"mask_path": scene.masks[view.name]} if view.name in scene.masks else {}),
                **_depth(scene, view),
                "fl_x": float(K[0, 0]),
                "fl_y": float(K[1, 1]),
                "cx": float(K[0, 2]),
                "cy": float(K[1, 2]),
                "w": view.width,
                "h": view.height,
                "transform_matrix": pose.tolist(),
            }
        )
    write_ply(scene.directory / POINTS, _start(scene))
    document = {"camera_model": "PINHOLE", "ply_file_path": POINTS, **_box(scene), "frames": frames}
    write_json(scene.directory / "transforms.json", document)
    return [scene.directory / "transforms.json", scene.directory / POINTS]


def _depth(scene: SceneExport, view: View) -> dict[str, object]:
    """`depth_file_path`, and what a stored value has to be multiplied with to be depth in scene units."""
    if view.name not in scene.depths:
        return {}
    path, scale = scene.depths[view.name]
    return {"depth_file_path": path, "depth_unit_scale_factor": 1 / scale}


def _start(scene: SceneExport) -> PointCloud:
    """The points that a splat starts from: every one becomes a Gaussian, so that a whole cloud is too many."""
    sparse = scene.sparse
    if sparse is None or len(sparse) == 0:
        return scene.cloud
    views = np.bincount(sparse.point, minlength=len(sparse)).astype(np.float32)
    return PointCloud(sparse.points.astype(np.float32), sparse.colors, views)


def _box(scene: SceneExport) -> dict[str, object]:
    """instant-ngp's keys: its box has side `aabb_scale` around (0.5, 0.5, 0.5) in a world turned, scaled and moved."""
    centres = geometry.camera_centres(np.stack([view.cam_from_world for view in scene.views]))
    points = scene.cloud.points if len(scene.cloud) else centres
    low, high = np.percentile(np.concatenate([points, np.repeat(centres, 2, 0)]), (2, 98), axis=0)
    low, high = np.minimum(low, centres.min(0)), np.maximum(high, centres.max(0))
    side = float((high - low).max()) or 1.0
    scale = NGP_SIDE / side
    middle = (low + high) / 2
    # its loader turns the axes (x, y, z) into (y, z, x) after scale and offset
    offset = 0.5 - scale * middle
    return {"aabb_scale": NGP_BOX, "scale": scale, "offset": offset.tolist(), "up": [0.0, -1.0, 0.0]}
