"""Brings refined and predicted cameras into one frame: the scale is that of the prediction, and unverified cameras keep
their pose relative to the verified cameras next to them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..scene import geometry
from ..scene.posed_view import View
from ..scene.sparse_points import SparseModel
from ..world.registration import place_beside
from .observations import sample_depth


def merge_poses(
    views: Sequence[View], refined: dict[int, np.ndarray], sparse: SparseModel
) -> tuple[np.ndarray, geometry.Similarity]:
    """Poses (S, 3, 4) of all views in the frame of the first one, and the similarity transform to it from the frame of
    `refined` (view -> cam_from_world) and `sparse`.

    The scale is the median ratio of predicted to refined depth of the sparse points: it needs no baseline.
    """
    images = sorted(refined)
    scale = depth_ratio(views, refined, sparse)
    poses = np.stack([view.cam_from_world for view in views])
    grown = geometry.Similarity(scale, np.eye(3), np.zeros(3))
    given = grown.apply_to_poses(np.stack([refined[i] for i in images]))
    others = [i for i in range(len(views)) if i not in refined]
    if others:
        beside = place_beside(poses, images, given, 1.0, others)
        poses[others] = beside
    poses[images] = given
    to_first = geometry.Similarity(scale, poses[0][:, :3], poses[0][:, 3])
    return geometry.rebase(poses), to_first


def depth_ratio(views: Sequence[View], refined: dict[int, np.ndarray], sparse: SparseModel) -> float:
    """The median ratio of predicted to refined depth over all observations; 1 where there is no depth."""
    ratios = []
    for i, pose in sorted(refined.items()):
        if views[i].depth is None:
            continue
        point, pixel = sparse.of_view(i)
        z = geometry.transform(pose, sparse.points[point])[:, 2]
        depth = sample_depth(views[i], pixel, (views[i].width, views[i].height))
        ratios.append(depth[(depth > 0) & (z > 0)] / z[(depth > 0) & (z > 0)])
    pooled = np.concatenate(ratios) if ratios else np.zeros(0)
    return float(np.median(pooled)) if len(pooled) else 1.0
