"""Refined cameras into the frame of the predicted ones, where the cameras that could not be verified still stand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..scene import geometry
from ..scene.geometry import Similarity
from ..scene.sparse_points import SparseModel
from ..scene.view import View
from .matching import sample_depth


def align(views: Sequence[View], poses: np.ndarray, images: Sequence[int], sparse: SparseModel) -> Similarity:
    """The Sim(3) from the refined to the predicted world, robust to single bad cameras.

    `poses` (S, 3, 4) are refined for the views `images`. The rotation is the one nearest to
    the element-wise median over the cameras' rotations (by SVD), the scale the
    median ratio of predicted to refined depth of the sparse points (it needs no baseline), the translation the median
    over the camera centres.
    """
    predicted = np.stack([views[i].cam_from_world for i in images])
    refined = poses[list(images)]
    turns = np.swapaxes(predicted[:, :, :3], 1, 2) @ refined[:, :, :3]
    u, _, vt = np.linalg.svd(np.median(turns, axis=0))
    rotation = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
    scale = _depth_ratio(views, poses, images, sparse)
    moved = scale * geometry.camera_centres(refined) @ rotation.T
    translation = np.median(geometry.camera_centres(predicted) - moved, axis=0)
    return Similarity(scale, rotation, translation)


def _depth_ratio(views: Sequence[View], poses: np.ndarray, images: Sequence[int], sparse: SparseModel) -> float:
    ratios = []
    for i in images:
        point, pixel = sparse.of_view(i)
        z = geometry.transform(poses[i], sparse.points[point])[:, 2]
        depth = sample_depth(views[i], pixel, (views[i].width, views[i].height))
        ratios.append(depth[(depth > 0) & (z > 0)] / z[(depth > 0) & (z > 0)])
    pooled = np.concatenate(ratios)
    return float(np.median(pooled)) if len(pooled) else 1.0
