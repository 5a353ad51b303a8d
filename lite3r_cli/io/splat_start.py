"""`points3D.ply`: initial points of Gaussian splatting, with normals, for graphdeco's reader."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from plyfile import PlyData, PlyElement

from ..scene.geometry import scale_intrinsics
from ..scene.posed_view import View, known_depth
from ..scene.sparse_points import SparseModel
from .files import write_bytes

VERTEX = np.dtype(
    [(name, "<f4") for name in ("x", "y", "z", "nx", "ny", "nz")] + [(name, "u1") for name in ("red", "green", "blue")]
)


def write_start(path: Path, points: np.ndarray, normals: np.ndarray, colors: np.ndarray) -> None:
    """Write points (N, 3), unit normals (N, 3), 0 if unknown, and colours (N, 3) uint8. Raises OutputError."""
    vertices = np.empty(len(points), VERTEX)
    for names, values in ((("x", "y", "z"), points), (("nx", "ny", "nz"), normals), (("red", "green", "blue"), colors)):
        for axis, name in enumerate(names):
            vertices[name] = values[:, axis]
    stream = io.BytesIO()
    PlyData([PlyElement.describe(vertices, "vertex")], byte_order="<").write(stream)
    write_bytes(path, stream.getbuffer())


def point_normals(views: Sequence[View], points: np.ndarray, sparse: SparseModel | None) -> np.ndarray:
    """(N, 3) unit normals in the world, towards the cameras, from the depth map of the first view that sees a point; 0
    without one.
    """
    normals = np.zeros((len(points), 3))
    if sparse is None or len(sparse.image) == 0:
        return normals
    _, first = np.unique(sparse.point, return_index=True)
    for i, view in enumerate(views):
        mine = first[sparse.image[first] == i]
        if len(mine) and view.depth is not None:
            normals[sparse.point[mine]] = _normals_at(view, sparse.pixel[mine])
    return normals


def _normals_at(view: View, pixel: np.ndarray) -> np.ndarray:
    """(M, 3) world normals of the depth map at pixels (M, 2) of the original image, from neighbours
    two pixels apart.
    """
    depth = known_depth(view)
    height, width = depth.shape
    K = scale_intrinsics(view.K, width / view.width, height / view.height)
    column = np.clip(pixel[:, 0] * (width / view.width), 1, width - 2).astype(np.int64)
    row = np.clip(pixel[:, 1] * (height / view.height), 1, height - 2).astype(np.int64)
    inverse = np.linalg.inv(K)

    def place(dy: int, dx: int) -> np.ndarray:
        rays = np.stack([column + dx + 0.5, row + dy + 0.5, np.ones(len(row))], axis=1) @ inverse.T
        return rays * depth[row + dy, column + dx][:, None]

    corners = [place(0, 1), place(0, -1), place(1, 0), place(-1, 0)]
    normal = np.cross(corners[2] - corners[3], corners[0] - corners[1])  # towards the camera: y runs down
    known = np.all([c[:, 2] > 0 for c in corners], axis=0)
    length = np.linalg.norm(normal, axis=1)
    known &= length > 0
    normal = np.where(known[:, None], normal / np.where(known, length, 1)[:, None], 0)
    return normal @ view.cam_from_world[:, :3]
