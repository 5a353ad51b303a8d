"""Aligns two passes with common views: one similarity transform, fitted to their depth maps.

Each pixel that both passes know gives a pair of points. The transform is found by iteratively reweighted least squares
with a Cauchy loss on the distance relative to the depth (VGGT-Long uses Huber's, arXiv 2507.16443), with the
confidences of both as weights. The start is robust: the median ratio of the depths for the scale, and the rotation
between cameras that most pairs agree with. Then the cameras of the common views correct it (common_cameras.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..scene import geometry
from ..scene.geometry import Similarity
from ..scene.posed_view import View, known_depth
from .common_cameras import by_cameras

_PIXELS = 24_000  # maximum number of point pairs
_ROUNDS = 25
_NARROWEST = 0.003  # relative distance below which residuals are noise: the smallest width of the loss
_AGREES = 0.1  # relative distance of two points that agree
_LEAST = 30  # smallest number of pairs
GOOD, WEAK, BAD = "good", "weak", "bad"
_GOOD = (0.08, 0.5)  # largest median relative distance, smallest share of agreeing pairs
_USABLE = (0.25, 0.15)


@dataclass(frozen=True)
class Tie:
    """A measured edge: `similarity` maps points of the second pass into the world of the first."""

    similarity: Similarity
    residual: float  # median distance of the pairs, relative to their depth, after the fit to the depth maps
    agree: float  # share of the pairs within `_AGREES` after it
    pairs: int
    shared: int  # number of views
    turn: float  # degrees, median angle between the cameras of both passes
    verdict: str  # GOOD, WEAK or BAD

    def as_dict(self) -> dict[str, Any]:
        """For run.json."""
        numbers = {"residual": self.residual, "agree": self.agree, "scale": self.similarity.scale, "turn": self.turn}
        rounded = {name: round(float(value), 5) for name, value in numbers.items()}
        return {**rounded, "pairs": self.pairs, "views": self.shared, "verdict": self.verdict}


@dataclass(frozen=True)
class FitConfig:
    """Switches for the ablation of benchmarks/long_walk.py."""

    robust: bool = True  # False: one least-squares fit
    weighted: bool = True  # by confidence
    cameras: bool = True  # correct the fit by the cameras of the common views


def tie(first: Sequence[View], second: Sequence[View], config: FitConfig = FitConfig()) -> Tie | None:
    """The edge between two passes from their common views, in the same order, with the depth, confidence and camera of
    each pass. None with too few known pixels.
    """
    a, b, weight, depth = _pairs(first, second, config.weighted)
    if len(a) < _LEAST:
        return None
    found = _start(first, second, a, b, depth)
    if config.robust:
        found = _reweighted(found, a, b, weight, depth)
    else:
        found = weighted_similarity(b, a, weight)
    distance = np.linalg.norm(found.apply(b) - a, axis=1) / depth
    residual, agree = float(np.median(distance)), float((distance < _AGREES).mean())
    if config.cameras:
        found = _corrected(found, first, second, a, b, depth)
    turns = [geometry.rotation_angle(_turned(x, y) @ found.rotation.T) for x, y in zip(first, second)]
    verdict = next(
        (name for name, (most, least) in ((GOOD, _GOOD), (WEAK, _USABLE)) if residual <= most and agree >= least), BAD
    )
    return Tie(found, residual, agree, len(a), len(first), float(np.degrees(np.median(turns))), verdict)


def _corrected(found: Similarity, first, second, a: np.ndarray, b: np.ndarray, depth: np.ndarray) -> Similarity:
    """By the cameras, unless the points contradict them."""
    better = by_cameras(found, first, second, float(np.median(depth)))
    return better if float(np.median(np.linalg.norm(better.apply(b) - a, axis=1) / depth)) < _USABLE[0] else found


def inverse(s: Similarity) -> Similarity:
    """The inverse transform."""
    rotation = s.rotation.T
    return Similarity(1 / s.scale, rotation, -rotation @ s.translation / s.scale)


def chain(outer: Similarity, inner: Similarity) -> Similarity:
    """First `inner`, then `outer`."""
    return Similarity(
        outer.scale * inner.scale, outer.rotation @ inner.rotation, outer.apply(inner.translation[None])[0]
    )


def weighted_similarity(source: np.ndarray, target: np.ndarray, weight: np.ndarray) -> Similarity:
    """The least-squares similarity of `source` (N, 3) onto `target` (N, 3) with weights (N,) (Umeyama, PAMI 1991)."""
    weight = weight / weight.sum()
    mean, aim = weight @ source, weight @ target
    centred = source - mean
    covariance = (target - aim).T @ (centred * weight[:, None])
    u, singular, vt = np.linalg.svd(covariance)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = (u * sign) @ vt
    variance = float(weight @ (centred**2).sum(1))
    scale = float((singular * sign).sum() / variance) if variance > 0 else 1.0
    return Similarity(scale, rotation, aim - scale * rotation @ mean)


def same_focal(views: Sequence[View], focal: float) -> list[View]:
    """Views with the focal length `focal`, as a share of the width, and adapted depth."""
    return [refocused(view, focal * view.width / view.K[0, 0]) for view in views]


def refocused(view: View, factor: float) -> View:
    """The view with its focal length times `factor`, and adapted depth: lateral lengths do not change, and lengths
    along the ray are scaled by the factor, an ambiguity of the network.
    """
    K = view.K.copy()
    K[0, 0], K[1, 1] = K[0, 0] * factor, K[1, 1] * factor
    return replace(view, K=K, depth=None if view.depth is None else view.depth * np.float32(factor))


# --- inside -----------------------------------------------------------------------------------------------------------


def _pairs(first: Sequence[View], second: Sequence[View], weighted: bool) -> tuple[np.ndarray, ...]:
    """Points of equal pixels in both worlds (N, 3) twice, weights (N,), and their depth in the first world (N,)."""
    rows = []
    each = max(1, _PIXELS // max(len(first), 1))
    for x, y in zip(first, second, strict=True):
        z, other = known_depth(x), known_depth(y)
        step = max(1, int((z.size / each) ** 0.5))
        grid = (slice(step // 2, None, step), slice(step // 2, None, step))
        pixels = geometry.pixel_grid(*z.shape)[grid]
        both = (z[grid] > 0) & (other[grid] > 0)
        if x.depth is None or not both.any():
            continue
        scale = z.shape[1] / x.width, z.shape[0] / x.height
        p, q = (
            geometry.unproject_pixels(
                pixels[both], d[grid][both], geometry.scale_intrinsics(v.K, *scale), v.cam_from_world
            )
            for v, d in ((x, z), (y, other))
        )
        rows.append((p, q, _weights(x, y, grid, both) if weighted else np.ones(len(p)), z[grid][both].astype(float)))
    if not rows:
        return tuple(np.zeros((0, 3)) for _ in range(4))
    return tuple(np.concatenate(column) for column in zip(*rows))


def _weights(x: View, y: View, grid, both: np.ndarray) -> np.ndarray:
    """The smaller of both confidences, each relative to the median of its map, limited to a fifth … five."""
    relative = []
    for view in (x, y):
        confidence = np.ones(known_depth(view).shape) if view.confidence is None else view.confidence.astype(float)
        values = confidence[grid][both]
        relative.append(values / max(float(np.median(values)), 1e-9))
    return np.clip(np.minimum(*relative), 0.2, 5.0)


def _turned(x: View, y: View) -> np.ndarray:
    """The rotation (3, 3) from the second world to the first by one common camera."""
    return x.cam_from_world[:, :3].T @ y.cam_from_world[:, :3]


def _start(first, second, a: np.ndarray, b: np.ndarray, depth: np.ndarray) -> Similarity:
    """Each common camera gives a rotation, all depths together one scale; the candidate that most pairs agree with."""
    ratios = [float(np.median(z[both] / w[both])) for z, w, both in _depths(first, second) if both.any()]
    scale = float(np.median(ratios))
    some = slice(None, None, max(1, len(a) // 2000))
    best, least = Similarity(scale, np.eye(3), np.zeros(3)), np.inf
    for x, y in zip(first, second):
        turn = _turned(x, y)
        guess = Similarity(scale, turn, np.median(a[some] - scale * b[some] @ turn.T, axis=0))
        distance = float(np.percentile(np.linalg.norm(guess.apply(b[some]) - a[some], axis=1) / depth[some], 40))
        if distance < least:
            best, least = guess, distance
    return best


def _depths(first: Sequence[View], second: Sequence[View]):
    for x, y in zip(first, second):
        z, w = known_depth(x), known_depth(y)
        step = max(1, int((z.size / _PIXELS) ** 0.5))
        z, w = z[::step, ::step], w[::step, ::step]
        yield z, w, (z > 0) & (w > 0)


def _reweighted(found: Similarity, a: np.ndarray, b: np.ndarray, weight: np.ndarray, depth: np.ndarray) -> Similarity:
    """Iterations with a Cauchy loss, whose width is twice a low percentile of the distances."""
    for _ in range(_ROUNDS):
        distance = np.linalg.norm(found.apply(b) - a, axis=1) / depth
        width = max(2 * float(np.percentile(distance, 35)), _NARROWEST)
        now = weight / depth**2 / (1 + (distance / width) ** 2)
        before, found = found, weighted_similarity(b, a, now)
        if abs(found.scale / before.scale - 1) < 1e-6:
            break
    return found
