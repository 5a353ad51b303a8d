"""A GLB of the points and the camera frusta, for model viewers and browsers.

glTF axes: +x right, +y up, +z towards the viewer, so the world of the PLY file is turned half round its x axis. Each
camera is a node with the image's name; as glTF says of cameras, it looks along its own -z axis with +y up.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..scene.geometry import invert_pose
from ..scene.view import PointCloud, View
from .files import write_bytes
from .frusta import ACCENT, EDGES, frustum, frustum_depth

GLTF_AXES = np.array([1.0, -1.0, -1.0])  # of OpenCV's
THICKNESS = 0.02  # of a frustum's edges, relative to its depth


def write_glb(directory: Path, views: Sequence[View], cloud: PointCloud) -> list[Path]:
    """Write `directory`/scene.glb and return it. Raises OutputError."""
    import trimesh  # takes most of a second to import

    scene = trimesh.Scene(base_frame="world")
    if len(cloud):
        points = cloud.points * GLTF_AXES.astype(np.float32)
        alpha = np.full((len(cloud), 1), 255, dtype=np.uint8)
        colors = np.hstack([cloud.colors, alpha])
        scene.add_geometry(trimesh.PointCloud(points, colors=colors), node_name="points", geom_name="points")
    depth = frustum_depth(views, cloud)
    for index, view in enumerate(views):
        vertices, faces = _bars(frustum(view, depth) * GLTF_AXES, THICKNESS * depth)
        colors = np.tile(np.array([*ACCENT, 255], dtype=np.uint8), (len(vertices), 1))
        mesh = trimesh.Trimesh(vertices, faces, vertex_colors=colors, process=False)
        pose = np.eye(4)
        pose[:3] = GLTF_AXES[:, None] * invert_pose(view.cam_from_world) * [*GLTF_AXES, 1.0]
        scene.add_geometry(mesh, node_name=f"camera {view.name}", geom_name=f"frustum {index}", transform=pose)
    path = directory / "scene.glb"
    write_bytes(path, scene.export(file_type="glb"))
    return [path]


def _bars(corners: np.ndarray, thickness: float) -> tuple[np.ndarray, np.ndarray]:
    """A mesh of the eight edges of a frustum (5, 3), each a triangular bar: (48, 3) vertices, (64, 3) faces."""
    angles = 2 * np.pi * np.arange(3) / 3
    side = np.array([(0, 1, 2), (2, 1, 3)])
    quads = np.array([(k, (k + 1) % 3, k + 3, (k + 1) % 3 + 3) for k in range(3)])
    bar = np.vstack([quads[:, side].reshape(-1, 3), [(0, 2, 1), (3, 4, 5)]])
    vertices, faces = [], []
    for start, end in corners[EDGES]:
        along = (end - start) / np.linalg.norm(end - start)
        across = np.cross(along, np.eye(3)[np.argmin(np.abs(along))])
        across /= np.linalg.norm(across)
        ring = np.outer(np.cos(angles), across) + np.outer(np.sin(angles), np.cross(along, across))
        faces.append(bar + 6 * len(vertices))
        vertices.append(np.vstack([start + 0.5 * thickness * ring, end + 0.5 * thickness * ring]))
    return np.vstack(vertices), np.vstack(faces)
