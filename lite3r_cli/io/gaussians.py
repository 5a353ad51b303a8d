"""`splats.ply`: 3D Gaussians for viewers, and as the start of a training.

The format is that of Kerbl et al. 2023, "3D Gaussian Splatting for Real-Time Radiance Field Rendering", with spherical
harmonics of degree 0: logarithms of the three standard deviations, the logit of opacity, a quaternion with w first. A
Gaussian is a disc on the surface: as wide as the distance to its neighbours, thin along the normal, with an opacity
that grows with the confidence of its point.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from plyfile import PlyData, PlyElement

from ..scene.posed_view import PointCloud
from ..scene.sparse_points import SparseModel
from .files import write_bytes
from .scene_export import SceneExport
from .splat_start import point_normals

SH0 = 0.28209479177387814  # the constant spherical harmonic, 1 / (2 √π)
NEIGHBOURS = 3  # as in the original's start
WIDTH = 0.8  # standard deviation on the surface, in distances to the neighbours: closed surfaces, sharp edges
THICKNESS = 0.2  # of that, along the normal
WIDEST = 3.0  # medians of the distance: limits the size of isolated points
OPACITY = (0.6, 0.98)  # for the least and the most confident point
MOST_POINTS = 200_000  # of a cloud without tracks
NAMES = [
    *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"),
    *("scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
]


def write_gaussians(scene: SceneExport) -> list[Path]:
    """Write splats.ply in the frame of the cameras and return it. Raises OutputError."""
    sparse = scene.sparse
    cloud = _thinned(scene.cloud) if sparse is None else _as_cloud(sparse)
    normals = point_normals(scene.views, cloud.points, sparse)
    path = scene.directory / "splats.ply"
    write_splats(path, gaussians(cloud, normals), np.zeros((len(cloud), 0)))
    return [path]


def write_splats(path: Path, columns: np.ndarray, harmonics: np.ndarray) -> None:
    """Write columns NAMES (N, 17) and the harmonics above the constant one (N, 3 K), colour by colour.

    Raises OutputError.
    """
    rest = [f"f_rest_{k}" for k in range(harmonics.shape[1])]
    place = NAMES.index("opacity")
    vertices = np.zeros(len(columns), [(name, "<f4") for name in (*NAMES[:place], *rest, *NAMES[place:])])
    for name, column in zip((*NAMES, *rest), (*columns.T, *harmonics.T)):
        vertices[name] = column
    header = PlyData([PlyElement.describe(vertices, "vertex")], byte_order="<").header
    write_bytes(path, f"{header}\n".encode("ascii"), vertices.view(np.uint8).data)


def gaussians(cloud: PointCloud, normals: np.ndarray) -> np.ndarray:
    """(N, 17) columns NAMES with one Gaussian per point; `normals` (N, 3) are 0 if unknown, which gives a ball."""
    count = len(cloud)
    width = WIDTH * neighbour_distance(cloud.points)
    known = np.linalg.norm(normals, axis=1) > 0.5
    scales = np.repeat(np.log(width)[:, None], 3, axis=1)
    scales[known, 2] += np.log(THICKNESS)
    low, high = OPACITY
    rank = np.argsort(np.argsort(cloud.confidence, kind="stable"), kind="stable") / max(count - 1, 1)
    opacity = low + (high - low) * rank
    return np.column_stack(
        [
            cloud.points,
            normals,
            (cloud.colors / 255 - 0.5) / SH0,
            np.log(opacity / (1 - opacity)),
            scales,
            towards(normals),
        ]
    )


def neighbour_distance(points: np.ndarray) -> np.ndarray:
    """(N,) mean distance to the nearest `NEIGHBOURS` other points, limited for isolated points."""
    count = len(points)
    if count < 2:
        return np.ones(count)
    middle = points.astype(np.float64).mean(axis=0)
    local = np.ascontiguousarray(points - middle, np.float32)
    flann: Any = cv2  # missing in its type stubs
    index = flann.flann_Index(local, {"algorithm": 4, "leaf_max_size": 10})  # 4: one k-d tree, exact
    _, squared = index.knnSearch(local, min(NEIGHBOURS + 1, count), params={"checks": -1})
    distance = np.sqrt(np.maximum(squared[:, 1:], 0).astype(np.float64)).mean(axis=1)
    typical = float(np.median(distance[distance > 0])) if (distance > 0).any() else 1.0
    return np.clip(distance, typical / 20, WIDEST * typical)


def towards(normals: np.ndarray) -> np.ndarray:
    """(N, 4) quaternions, w first, that rotate the z axis to the unit normals (N, 3); identity for normals of 0."""
    w = 1 + normals[:, 2]
    quaternions = np.column_stack([w, -normals[:, 1], normals[:, 0], np.zeros(len(normals))])
    quaternions[w < 1e-6] = 0, 1, 0, 0  # half a turn about x
    return quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)


def _thinned(cloud: PointCloud) -> PointCloud:
    count = min(len(cloud), MOST_POINTS)
    kept = np.arange(count) * len(cloud) // max(count, 1)
    return PointCloud(cloud.points[kept], cloud.colors[kept], cloud.confidence[kept])


def _as_cloud(sparse: SparseModel) -> PointCloud:
    """The points of a model as a cloud; a missing confidence is the number of views that see a point."""
    confidence = sparse.confidence
    if confidence is None:
        confidence = np.bincount(sparse.point, minlength=len(sparse))
    return PointCloud(sparse.points, sparse.colors, confidence.astype(np.float32))
