"""Georeferencing: a robust similarity transform from the frame of the scene into a metric one, by points known in both.

Hypotheses come from three points, or from two points and the direction of gravity if that is known, because tracks on a
line do not determine the rotation about it. The best one, by a truncated sum of squares, is refined by iteratively
reweighted least squares in the seven parameters; gravity is one more observation.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ..scene.geometry import Similarity

_TRIALS = 500
_CAP = 9.0  # squared residual, in standard deviations, of a wrong point
_ROUNDS = 30
_OUTLIER = 4.0  # standard deviations beyond which a point is named and not used
_UP_SIGMA = np.radians(0.5)  # of the direction of gravity from edges and gimbals
_LEAST = 3  # smallest number of agreeing points
_FREE = 7  # parameters of a similarity
_LEAST_REACH = 2.0  # smallest ratio of the positions' spread to their errors
_STILL = "the positions do not differ by more than their errors, or stand on a line with no up to see"
_STRETCH = 0.1  # ratio of the spreads across and along a line below which points count as collinear


@dataclass(frozen=True)
class Fit:
    """A similarity transform and the residual of each point."""

    similarity: Similarity
    residuals: np.ndarray  # (N, 3) metres, the known position minus the mapped one
    used: np.ndarray  # (N,) bool
    noise: float  # standard deviation of the residuals, in units of the given sigmas


class NotEnough(ValueError):
    """The points do not determine a similarity transform; the text gives the reason."""


def fit_similarity(
    points: np.ndarray, known: np.ndarray, sigma: np.ndarray, up: np.ndarray | None = None, seed: int = 0
) -> Fit:
    """The Sim(3) from `points` (N, 3) to `known` (N, 3) with standard deviations `sigma` (N, 3), infinite for an
    unknown coordinate. `up` is the up direction in the frame of the points, which becomes +z.

    Raises NotEnough.
    """
    if len(points) < 2 or (len(points) < _LEAST and up is None):
        raise NotEnough(f"{len(points)} positions are too few")
    best = _search(points, known, sigma, up, seed)
    if best is None:
        raise NotEnough(_STILL)
    inside = _squares(best, points, known, sigma) < _CAP
    for noise in (1.0, None, None):
        best = _refine(best, points, known, sigma, inside, up)
        squares = _squares(best, points, known, sigma)
        noise = noise or _noise(squares[inside], sigma[inside])
        inside = squares < (_OUTLIER * noise) ** 2
        if inside.sum() < min(_LEAST, len(points)):
            raise NotEnough("fewer than three positions agree with the cameras")
    best = _refine(best, points, known, sigma, inside, up)
    noise = _noise(_squares(best, points, known, sigma)[inside], sigma[inside])
    reach = best.scale * float(np.linalg.norm(np.std(points[inside], axis=0)))
    if reach < _LEAST_REACH * noise * float(np.median(np.linalg.norm(sigma[inside, :2], axis=1))):
        raise NotEnough(_STILL)
    return Fit(best, known - best.apply(points), inside, noise)


def _squares(similarity: Similarity, points: np.ndarray, known: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """(N,) squared residuals in standard deviations."""
    residual = np.where(np.isfinite(sigma), known - similarity.apply(points), 0.0)
    return ((residual / sigma) ** 2).sum(axis=-1)


def _noise(squares: np.ndarray, sigma: np.ndarray) -> float:
    """Robust standard deviation of the residuals in units of sigma; at least 5 %, because positions may be far better
    than stated. A similarity fitted to few points lies closer to them than the true one: `_FREE` degrees of freedom.
    """
    axes = np.isfinite(sigma).sum(axis=1)
    count = int(axes.sum())
    shrunk = count / max(count - _FREE, 1)
    return float(np.clip(np.sqrt(shrunk * np.median(squares / np.maximum(axes, 1)) / 0.6), 0.05, 3.0))


def _search(
    points: np.ndarray, known: np.ndarray, sigma: np.ndarray, up: np.ndarray | None, seed: int
) -> Similarity | None:
    rng = np.random.default_rng(seed)
    flat = np.where(np.isfinite(sigma), known, 0.0)
    best, least = None, np.inf
    for trial in range(_TRIALS):
        pair = up is not None and (trial % 2 == 0 or len(points) < _LEAST)
        chosen = rng.permutation(len(points))[: 2 if pair else 3]
        hypothesis = _from_pair(points[chosen], flat[chosen], up) if pair else _from_three(points[chosen], flat[chosen])
        if hypothesis is None or _moves_too_little(hypothesis, points, sigma):
            continue
        score = float(np.minimum(_squares(hypothesis, points, known, sigma), _CAP).sum())
        if score < least - 1e-9:
            best, least = hypothesis, score
    return best


def _moves_too_little(similarity: Similarity, points: np.ndarray, sigma: np.ndarray) -> bool:
    """Whether the cameras would move less than the errors of their positions: constant positions would fit a scale of
    zero.
    """
    spread = similarity.scale * float(np.linalg.norm(np.std(points, axis=0)))
    return spread < float(np.median(sigma[:, 0]))


def _from_three(points: np.ndarray, known: np.ndarray) -> Similarity | None:
    """Umeyama (1991); None for three points on a line."""
    a, b = points - points.mean(axis=0), known - known.mean(axis=0)
    spread = np.linalg.svd(a, compute_uv=False)
    if spread[1] < _STRETCH * spread[0] or not np.linalg.norm(b):
        return None
    u, d, vt = np.linalg.svd(b.T @ a)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = u @ np.diag(sign) @ vt
    scale = float((d * sign).sum() / (a**2).sum())
    return (
        None if scale <= 0 else Similarity(scale, rotation, known.mean(axis=0) - scale * rotation @ points.mean(axis=0))
    )


def _from_pair(points: np.ndarray, known: np.ndarray, up: np.ndarray | None) -> Similarity | None:
    """From gravity and two points with a horizontal distance."""
    assert up is not None
    axis = np.cross(up, [0.0, 0.0, 1.0])
    length = float(np.linalg.norm(axis))
    angle = float(np.arctan2(length, up[2]))
    turn = axis / length * angle if length > 1e-9 else np.array([0.0 if up[2] > 0 else np.pi, 0.0, 0.0])
    upright = cv2.Rodrigues(turn)[0]
    a, b = (points[1] - points[0]) @ upright.T, known[1] - known[0]
    here, there = float(np.hypot(*a[:2])), float(np.hypot(*b[:2]))
    if here < _STRETCH * float(np.linalg.norm(a)) or there == 0 or here == 0:
        return None
    heading = np.arctan2(b[1], b[0]) - np.arctan2(a[1], a[0])
    rotation = np.asarray(cv2.Rodrigues(np.array([0.0, 0.0, heading]))[0] @ upright, np.float64)
    scale = there / here
    return Similarity(scale, rotation, known.mean(axis=0) - scale * rotation @ points.mean(axis=0))


def _refine(
    start: Similarity,
    points: np.ndarray,
    known: np.ndarray,
    sigma: np.ndarray,
    inside: np.ndarray,
    up: np.ndarray | None,
) -> Similarity:
    """Gauss-Newton over log scale, rotation and translation, with Cauchy weights."""
    weight = 1 / sigma[inside]  # (n, 3), 0 for unknown coordinates
    target = np.where(weight > 0, known[inside], 0.0)
    middle = points[inside].mean(axis=0)
    scale, rotation = start.scale, start.rotation
    centre = start.apply(middle)
    offsets = points[inside] - middle
    for _ in range(_ROUNDS):
        moved = scale * offsets @ rotation.T
        residual = (target - moved - centre) * weight
        calm = 1 / (1 + (residual**2).sum(axis=1) / _CAP)
        jacobian = np.zeros((len(moved), 3, 7))
        jacobian[:, :, 0] = moved
        jacobian[:, :, 1:4] = -_cross(moved)
        jacobian[:, :, 4:] = np.eye(3)
        jacobian *= weight[..., None]
        rows, values = jacobian.reshape(-1, 7), residual.ravel()
        share = np.repeat(calm, 3)
        normal, right = (rows * share[:, None]).T @ rows, rows.T @ (share * values)
        if up is not None:
            ahead = rotation @ up
            tilt = np.concatenate([np.zeros((3, 1)), -_cross(ahead[None])[0], np.zeros((3, 3))], axis=1) / _UP_SIGMA
            normal += tilt.T @ tilt
            right += tilt.T @ (([0.0, 0.0, 1.0] - ahead) / _UP_SIGMA)
        step = np.linalg.lstsq(normal + 1e-12 * np.trace(normal) * np.eye(7), right, rcond=None)[0]
        scale *= float(np.exp(np.clip(step[0], -0.5, 0.5)))
        rotation = cv2.Rodrigues(step[1:4])[0] @ rotation
        centre = centre + step[4:]
        if np.abs(step[:4]).max() < 1e-10:
            break
    return Similarity(scale, rotation, centre - scale * rotation @ middle)


def _cross(vectors: np.ndarray) -> np.ndarray:
    """(N, 3, 3) matrices of the cross products with vectors (N, 3)."""
    x, y, z = vectors.T
    zero = np.zeros_like(x)
    return np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=-1).reshape(-1, 3, 3)
