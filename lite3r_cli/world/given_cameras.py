"""Replaces predicted cameras by known ones, and adapts everything else.

Only focal lengths: the rays get the known field of view; depth and poses do not change. (Scaling depth with the focal
length, and aligning the depth maps again with the new rays, were tried on 13 scenes: neither is better.) Poses: frame
and scale are those of the known ones; unknown cameras are placed relative to their neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..scene.consistency import agreement, best_neighbours
from ..scene.frame import move_views, translation
from ..scene.posed_view import View, known_depth
from ..scene.priors import CameraPriors
from ..scene.sparse_points import SparseModel
from ..scene.surfaces import VoterMap
from .registration import place_beside, similarity_from_cameras, tells_scale

_NEIGHBOURS = 4  # views that each depth map is compared with
_SPAN, _STEPS = 0.5, 31  # of log scale around the ratio of the baselines, which a small network misses by up to 30 %
_SAMPLES = 3000  # compared pixels per view


@dataclass(frozen=True)
class Placed:
    """Views with known cameras, and the scale of their depth."""

    views: list[View]
    scale: float  # from predicted to known units; 1 without known poses
    known: list[int]  # views with known poses


def with_known_focal(views: Sequence[View], priors: CameraPriors) -> list[View]:
    """The views with the known focal lengths and principal points."""
    return [
        view if prior is None else replace(view, K=prior.intrinsics(view.width, view.height))
        for view, prior in zip(views, priors.focal, strict=True)
    ]


def place(views: Sequence[View], priors: CameraPriors) -> Placed:
    """The views with known focal lengths, and in the frame of the known poses if there are any.

    Known cameras do not change, including K. The depth maps are multiplied by one factor: the one at which they agree
    best between views with the known poses, searched around the ratio of the baselines. If the known poses tell no
    scale, that of the network stays.
    """
    views = with_known_focal(views, priors)
    known = priors.known_poses
    if not known:
        return Placed(views, 1.0, [])
    predicted = np.stack([view.cam_from_world for view in views])
    given = priors.given_poses()
    similarity = similarity_from_cameras(predicted[known], given)
    poses = np.empty_like(predicted)
    poses[known] = given
    unknown = [i for i in range(len(views)) if priors.poses[i] is None]
    if unknown:
        poses[unknown] = place_beside(predicted, known, given, similarity.scale, unknown)
    placed = [
        replace(view, cam_from_world=pose, depth=_scaled(view.depth, similarity.scale))
        for view, pose in zip(views, poses, strict=True)
    ]
    factor = depth_factor([placed[i] for i in known]) if tells_scale(priors) else 1.0
    if unknown and factor != 1.0:  # unknown cameras are at the network's scale, which the factor corrects
        poses[unknown] = place_beside(predicted, known, given, similarity.scale * factor, unknown)
    placed = [
        replace(view, cam_from_world=pose, depth=_scaled(view.depth, factor))
        for view, pose in zip(placed, poses, strict=True)
    ]
    return Placed(placed, similarity.scale * factor, known)


def back_into_given(
    views: Sequence[View], sparse: SparseModel | None, priors: CameraPriors, origin: np.ndarray | None
) -> tuple[list[View], SparseModel | None]:
    """Refined views and points in the frame of the known cameras, which get exactly their known values.

    `origin` was subtracted before the refinement. If only some cameras are known, the refinement moved all of them: the
    similarity transform from their refined to their known poses is applied to everything. Fixed focal lengths, which
    the refinement kept as a mean over both axes, also get their known values.
    """
    known = priors.known_poses
    views = [
        replace(view, K=prior.intrinsics(view.width, view.height)) if prior is not None and prior.fixed else view
        for view, prior in zip(views, priors.focal, strict=True)
    ]
    if not known:
        return views, sparse
    if len(known) == len(views):
        similarity = translation(origin)
    else:
        moved = np.stack([views[i].cam_from_world for i in known])
        similarity = similarity_from_cameras(moved, priors.given_poses())
    result = move_views(views, similarity)
    for i in known:
        result[i] = replace(result[i], cam_from_world=np.asarray(priors.poses[i], np.float64))
    return result, None if sparse is None else sparse.moved(similarity)


def _scaled(depth: np.ndarray | None, factor: float) -> np.ndarray | None:
    return None if depth is None else depth * np.float32(factor)


def depth_factor(views: Sequence[View]) -> float:
    """The common factor on the depth maps at which they agree best between views; poses are correct and fixed.

    Agreement is the mean of 1 / (1 + (log ratio / 5 %)²) over the pixels that another view sees; the best of `_STEPS`
    factors, refined by a parabola. 1 if no view sees another.
    """
    voters = [VoterMap(view, known_depth(view) > 0) for view in views]
    neighbours = best_neighbours(voters, _NEIGHBOURS)
    if not any(neighbours):
        return 1.0
    logs = np.linspace(-_SPAN, _SPAN, _STEPS)
    score = np.array([agreement(views, neighbours, float(np.exp(x)), _SAMPLES) for x in logs])
    k = int(np.argmax(score))
    if k in (0, len(logs) - 1):
        return 1.0  # no optimum near the scale of the baselines: these maps do not determine it
    below, here, above = score[k - 1 : k + 2]
    curvature = below - 2 * here + above
    offset = 0.5 * (below - above) / curvature if curvature < 0 else 0.0
    return float(np.exp(logs[k] + offset * (logs[1] - logs[0])))
