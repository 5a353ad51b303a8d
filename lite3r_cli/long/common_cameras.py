"""Aligns two passes by the cameras of their common views, which bend less than their depth maps.

A fit to the points of two depth maps takes its rotation and scale from the far end of their overlap, where depth is
guessed from one picture. On a walk of 1,000 frames the rotation between the passes' cameras of the same views has half
the error of that fit. The scale of the depth maps is too small at the end of a pass and that of the cameras' distances
too large, by as much: their geometric mean has no bias (benchmarks/results/long-walk-small.json).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..scene import geometry
from ..scene.geometry import Similarity
from ..scene.posed_view import View

_SHARE = 0.5  # of the cameras' scale in the logarithm, the rest is the depth's
_BASELINE = 0.1  # of the depth: with a smaller distance between the cameras their scale counts less
_LONG = 0.3  # of the largest distance: shorter ones are noise
_APART = 0.4  # difference of both logarithms, beyond which the cameras are wrong
_ROUNDS, _SOFT = 10, 0.005  # of reweighting; radians, or depths, below which all cameras count equally


def by_cameras(found: Similarity, first: Sequence[View], second: Sequence[View], depth: float) -> Similarity:
    """`found`, which was fitted to depth maps, with the rotation and the translation of the cameras and half of their
    scale. `depth` is the typical one in the first world. With one view only, `found` itself.
    """
    if len(first) < 2:
        return found
    a, b = (geometry.camera_centres(np.stack([view.cam_from_world for view in views])) for views in (first, second))
    turns = np.stack([x.cam_from_world[:, :3].T @ y.cam_from_world[:, :3] for x, y in zip(first, second)])
    rotation = _middle_rotation(turns)
    scale = found.scale * _scale_change(found.scale, a, b, depth)
    return Similarity(scale, rotation, _middle(a - scale * b @ rotation.T, _SOFT * depth))


def _scale_change(scale: float, a: np.ndarray, b: np.ndarray, depth: float) -> float:
    """The factor of the depth's scale from the distances between camera centres (N, 3)."""
    i, j = np.triu_indices(len(a), 1)
    one, two = np.linalg.norm(a[i] - a[j], axis=1), np.linalg.norm(b[i] - b[j], axis=1)
    known = (one > _LONG * one.max()) & (two > _LONG * two.max()) & (one > 0) & (two > 0)
    if not known.any() or not depth > 0:
        return 1.0
    change = float(np.median(np.log(one[known] / two[known]))) - np.log(scale)
    if abs(change) > _APART:
        return 1.0
    return float(np.exp(_SHARE * min(1.0, float(one.max()) / (_BASELINE * depth)) * change))


def _middle_rotation(turns: np.ndarray) -> np.ndarray:
    """The L1 mean of rotations (N, 3, 3), which one wrong camera does not move (Hartley et al., CVPR 2011)."""
    away = geometry.rotation_angle(turns[:, None] @ turns[None].transpose(0, 1, 3, 2))
    middle = turns[int(away.sum(1).argmin())]
    for _ in range(_ROUNDS):
        weight = 1 / np.maximum(geometry.rotation_angle(turns @ middle.T), _SOFT)
        u, _, vt = np.linalg.svd(np.einsum("n,nij->ij", weight, turns))
        middle = u @ np.diag([1, 1, np.sign(np.linalg.det(u @ vt))]) @ vt
    return middle


def _middle(points: np.ndarray, soft: float) -> np.ndarray:
    """The geometric median of points (N, 3) (Weiszfeld)."""
    middle = np.median(points, axis=0)
    for _ in range(_ROUNDS):
        weight = 1 / np.maximum(np.linalg.norm(points - middle, axis=1), max(soft, 1e-12))
        middle = weight @ points / weight.sum()
    return middle
