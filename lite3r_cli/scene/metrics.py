"""Errors of predicted cameras, depth maps and clouds: pure functions of arrays, angles in degrees.

Predictions have their own world frame and scale; every measure is independent of both, or has the scale as an argument.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from . import geometry

DELTA = 1.25
UNDEFINED_DIRECTION = 90.0  # degrees: the mean error of a random direction, used for a prediction without a baseline
_KD_TREE: dict[str, bool | int | float | str] = {
    "algorithm": 4,
    "leaf_max_size": 10,
}  # FLANN's exact KDTreeSingleIndex
_EXACT: dict[str, bool | int | float | str] = {"checks": -1, "eps": 0.0}


class PairErrors(NamedTuple):
    """Errors of the relative poses of P pairs of views, degrees."""

    rotation: np.ndarray  # (P,) 0..180
    translation: np.ndarray  # (P,) 0..180, NaN where the true baseline is too short to have a direction

    @property
    def larger(self) -> np.ndarray:
        """(P,) the larger of both; only the rotation if there is no direction."""
        result: np.ndarray = np.fmax(self.rotation, self.translation)
        return result


def pair_errors(predicted: np.ndarray, truth: np.ndarray, min_baseline: float) -> PairErrors:
    """Errors of all pairs i < j of the poses `cam_from_world` (S, 3, 4), S(S − 1)/2 of them, row by row.

    Rotation: the angle between the predicted and the true rotation from camera j to camera i. Translation: the angle
    between the predicted and the true direction of camera j seen from camera i, with its sign: 180° when opposite. It
    is judged only where the true baseline exceeds `min_baseline` (units of `truth`).
    """
    first, second = np.triu_indices(len(truth), k=1)
    i_from_j = geometry.relative_pose(predicted[second], predicted[first])
    true_i_from_j = geometry.relative_pose(truth[second], truth[first])
    difference = i_from_j[:, :, :3] @ np.swapaxes(true_i_from_j[:, :, :3], 1, 2)
    t, true_t = i_from_j[:, :, 3], true_i_from_j[:, :, 3]
    translation = np.degrees(geometry.vector_angle(t, true_t))
    translation[np.linalg.norm(t, axis=1) == 0] = UNDEFINED_DIRECTION
    translation[np.linalg.norm(true_t, axis=1) <= min_baseline] = np.nan
    return PairErrors(np.degrees(geometry.rotation_angle(difference)), translation)


def auc(errors: np.ndarray, threshold: int) -> float:
    """Mean over the integer thresholds 1, 2, …, `threshold` (degrees) of the share of `errors` (P,) below; 0..1."""
    errors = np.sort(np.asarray(errors, np.float64))
    if not len(errors):
        raise ValueError("auc needs at least one error")
    below = np.searchsorted(errors, np.arange(1, threshold + 1), side="left")
    return float(below.mean() / len(errors))


def focal_error(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Per view the relative error of the focal lengths of K (S, 3, 3), in per cent, the mean over both axes: (S,)."""
    focal, true_focal = (np.stack([K[:, 0, 0], K[:, 1, 1]], axis=1) for K in (predicted, truth))
    result: np.ndarray = 100 * np.abs(focal / true_focal - 1).mean(axis=1)
    return result


def resample_depth(depth: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A depth map (h, w) at the pixel centres of a map of `shape` with the same field of view; 0 stays unknown.

    Bilinear among the known pixels; where the nearest pixel is unknown the result is, too.
    """
    known = np.isfinite(depth) & (depth > 0)
    height, width = shape
    if depth.shape == tuple(shape):
        return np.where(known, depth, 0).astype(np.float32)
    values = np.where(known, depth, 0).astype(np.float32)
    weight = cv2.resize(known.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    mixed = cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR)
    near = cv2.resize(known.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT) > 0
    result: np.ndarray = np.divide(mixed, weight, out=np.zeros(shape, np.float32), where=near & (weight > 0))
    return result


def depth_scale(predicted: np.ndarray, truth: np.ndarray) -> float:
    """The median of truth / prediction over the pixels (N,) where both are known; 1 if there is none."""
    both = (predicted > 0) & (truth > 0)
    return float(np.median(truth[both] / predicted[both])) if both.any() else 1.0


def depth_errors(predicted: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """AbsRel = mean |p − t| / t and δ = share of max(p / t, t / p) < 1.25 over all pixels (N,) with truth t > 0.

    A pixel without a prediction (0) has an error of 100 %. Both are NaN without truth.
    """
    known = truth > 0
    p, t = predicted[known].astype(np.float64), truth[known].astype(np.float64)
    if not len(t):
        return float("nan"), float("nan")
    within = (p < DELTA * t) & (t < DELTA * p)
    return float(np.mean(np.abs(p - t) / t)), float(within.mean())


def accuracy_completeness(cloud: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Mean distance from a point of `cloud` (N, 3) to the nearest one of `truth` (M, 3), and the other way round.

    Accuracy and completeness as in Aanæs et al. (IJCV 2016), in the clouds' unit, without a bound on the distance.
    Exact nearest neighbours (k-d tree). NaN for both if a cloud is empty.
    """
    if not len(cloud) or not len(truth):
        return float("nan"), float("nan")
    return _mean_nearest(cloud, truth), _mean_nearest(truth, cloud)


def _mean_nearest(queries: np.ndarray, points: np.ndarray) -> float:
    points, queries = (np.ascontiguousarray(x, np.float32) for x in (points, queries))
    _, squared = cv2.flann.Index(points, _KD_TREE).knnSearch(queries, 1, params=_EXACT)
    return float(np.sqrt(squared.astype(np.float64)).mean())
