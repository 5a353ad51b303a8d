"""Aligns the network's depth with the sparse points: a robust curve in log depth, then a smooth correction field."""

from __future__ import annotations

import cv2
import numpy as np

from ..scene import geometry
from ..scene.posed_view import View, known_depth
from ..scene.sparse_points import SparseModel
from .observations import sample_depth

_MIN_POINTS = 8  # with fewer points only the scale of the scene is used
_CURVE_POINTS = 30  # from this number on the curve has slopes in log depth and image position
_RIDGE = 3.0  # weight of the prior for zero slopes, in observations
_FIELD_SIDE = 48  # cells of the field along the longer side
_FIELD_SIGMAS = (12.0, 6.0, 3.0, 1.5)  # cells, coarse to fine
_FIELD_PRIOR = 0.02  # weight of the prior for zero correction, in observations per cell


def align_depth(view: View, sparse: SparseModel, i: int) -> np.ndarray | None:
    """The depth map (h, w) float32 of view i, aligned with the sparse points that it sees; 0 stays 0. None: too few
    points.

    log z = log d + a + b · log d + c · u + e · v (iteratively reweighted, Cauchy), plus the smoothed residual.
    """
    depth = known_depth(view)
    point, pixel = sparse.of_view(i)
    z = geometry.transform(view.cam_from_world, sparse.points[point])[:, 2] if len(point) else np.zeros(0)
    d = sample_depth(view, pixel, (view.width, view.height)) if len(point) else np.zeros(0)
    good = (z > 0) & (d > 0)
    if good.sum() < _MIN_POINTS:
        return None
    uv = pixel[good] / [view.width, view.height] - 0.5
    ratio = np.log(z[good] / d[good])
    logd = np.log(d[good])
    centre = float(np.median(logd))
    rows = _basis(logd - centre, uv[:, 0], uv[:, 1])
    rows = rows if good.sum() >= _CURVE_POINTS else rows[:, :1]
    solution = _robust_fit(rows, ratio)
    height, width = depth.shape
    v, u = np.meshgrid((np.arange(height) + 0.5) / height - 0.5, (np.arange(width) + 0.5) / width - 0.5, indexing="ij")
    known = depth > 0
    log_map = np.where(known, np.log(np.where(known, depth, 1)) - centre, 0)
    log_map = np.clip(log_map, (logd - centre).min(), (logd - centre).max())  # no extrapolation
    correction = _basis(log_map, u, v)[..., : rows.shape[1]] @ solution
    correction += _field(uv, ratio - rows @ solution, (height, width))
    return np.where(known, depth * np.exp(correction), 0).astype(np.float32)


def _basis(logd: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.stack([np.ones_like(logd), logd, u, v], axis=-1)


def _robust_fit(rows: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Coefficients (C,) of rows (N, C); all except the first have a prior at zero."""
    solution = np.zeros(rows.shape[1])
    solution[0] = np.median(target)
    prior = np.diag([1e-9] + [_RIDGE] * (rows.shape[1] - 1))
    for _ in range(10):
        residual = target - rows @ solution
        scale = max(1.5 * float(np.median(np.abs(residual))), 1e-4)
        weight = 1 / (1 + (residual / scale) ** 2)
        weighted = rows * weight[:, None]
        solution = np.linalg.solve(rows.T @ weighted + prior, weighted.T @ target)
    return solution


def _field(uv: np.ndarray, residual: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Residuals (N,) at uv (N, 2) in −0.5..0.5, averaged by normalised convolution: (h, w) float64.

    Coarse to fine: each scale fits the residuals of the previous one. A point that its neighbours do not support loses
    weight from scale to scale. A point that only contradicts the network keeps its weight if its neighbours agree.
    """
    size = np.maximum(np.round(np.array(shape) * _FIELD_SIDE / max(shape)), 1).astype(int)
    cell = tuple(np.clip(((uv[:, ::-1] + 0.5) * size).astype(int), 0, size - 1).T)
    field, vote = np.zeros(size), np.ones(len(uv))
    for sigma in _FIELD_SIGMAS:
        total, weight = np.zeros(size), np.zeros(size)
        np.add.at(total, cell, vote * (residual - field[cell]))
        np.add.at(weight, cell, vote)
        total, weight = (cv2.GaussianBlur(a, (0, 0), sigma, borderType=cv2.BORDER_REFLECT) for a in (total, weight))
        field += total / (weight + _FIELD_PRIOR)
        left = np.abs(residual - field[cell])
        vote = 1 / (1 + (left / max(2 * float(np.median(left)), 1e-3)) ** 2)
    return cv2.resize(field, shape[::-1], interpolation=cv2.INTER_LINEAR)
