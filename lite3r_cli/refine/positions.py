"""Known camera positions (GPS) besides the matches in bundle adjustment.

A long strip that bends slightly from picture to picture fits its matches almost as well as a straight one. Matches are
accurate over a few pictures and weak over many; GPS is the opposite. Both are weighted by their standard deviations.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..scene import geometry
from ..scene.geometry import Similarity
from ..scene.priors import PositionPrior
from .adjustment import adjust, drop_weak_points
from .backend import require_pycolmap
from .bundle import Hypothesis, freedom, from_model
from .evidence import mean_support, pair_support
from .matching import Matches
from .refine_config import RefineConfig
from .rigs import frames_of

_LEAST = 4  # smallest number of agreeing positions: three fit any scene
_USUAL = 2.0  # usual error of a position in space, in standard deviations
_LOOSEST = 32.0  # factor of the standard deviations beyond which positions do not fit: a strip is never bent that much
_REWEIGHTINGS = 40
_ITERATIONS, _TOLERANCE = 100, 1e-7  # of an adjustment: straightening a strip changes its cost only slightly
_MOST = 0.6  # share of the positions that have to fit
_WRONG = 4.0  # standard deviations beyond which a position is not used
_UNKNOWN = 1e3  # metres: standard deviation of an unknown coordinate
_WORSE = 0.02  # decrease of the share of explained matches at which the positions are rejected


@dataclass(frozen=True)
class Tied:
    """The effect of the positions, for run.json."""

    used: int
    of: int
    left_out: list[int]  # views whose position disagrees with the others
    taken: bool
    why: str
    moved: float | None = None  # metres, median over the cameras, after the best similarity

    def as_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """With the names of the left-out pictures."""
        return {**vars(self), "left_out": [names[i] for i in self.left_out]}


def tie_to_positions(
    found: Hypothesis, matches: Matches, positions: Sequence[PositionPrior | None], config: RefineConfig
) -> tuple[Hypothesis, Tied]:
    """The hypothesis, adjusted again with `positions` (one per view, None if unknown) besides its matches, and in their
    frame. Unchanged if the positions do not fit a similarity transform, or if fewer matches would be explained.
    """
    known = _one_each(found, positions)
    if len(known) < _LEAST:
        return found, Tied(0, len(known), [], False, f"{len(known)} positions are too few")
    target = np.stack([positions[i].position for i in known])  # type: ignore[union-attr]
    sigma = np.stack([positions[i].sigma for i in known])  # type: ignore[union-attr]
    unknown = ~np.isfinite(target) | ~np.isfinite(sigma)
    sigma = np.where(unknown, _UNKNOWN, sigma)
    middle = np.where(unknown, 0.0, target).sum(axis=0) / np.maximum((~unknown).sum(axis=0), 1)
    target = np.where(unknown, middle, target)
    aligned = _align(_centres(found, known), target, sigma)
    if aligned is None:
        return found, Tied(0, len(known), [], False, "they do not fit the cameras, however the scene is turned")
    similarity, looseness = aligned
    target = np.where(unknown, similarity.apply(_centres(found, known)), target)
    model = deepcopy(found.model)
    moved = np.column_stack([similarity.scale * similarity.rotation, similarity.translation])
    model.transform(require_pycolmap().Sim3d(moved))
    while True:  # loosely first, so that the ends of a bent strip come close enough to count
        near = [(i + 1, target[k], looseness * sigma[k]) for k, i in enumerate(known)]
        adjust(model, 1.0, replace(freedom(model, found.lenses), positions=near), _ITERATIONS, _TOLERANCE)
        drop_weak_points(model, config.max_error, config.min_angle_deg)
        if looseness == 1:
            break
        looseness = max(looseness / 2, 1.0)
    last = from_model(model, found.lenses, found.path)
    used = np.linalg.norm((target - _centres(last, known)) / sigma, axis=1) < _WRONG
    left_out = [known[k] for k in np.flatnonzero(~used)]
    before, after = (
        mean_support(pair_support(each.poses, matches, each.lenses, config.max_error), matches, sorted(matches.pairs))
        for each in (found, last)
    )
    why = ""
    if used.sum() < max(_LEAST, _MOST * len(known)):
        why = "most of them do not fit the cameras that the matches allow"
    elif after < before - _WORSE:
        why = f"the matches would be explained less well: {after:.2f} instead of {before:.2f}"
    if why:
        return found, Tied(int(used.sum()), len(known), left_out, False, why)
    far = _moved(found, last, sorted(found.poses))
    return last, Tied(int(used.sum()), len(known), left_out, True, "they agree with the matches", far)


def _one_each(found: Hypothesis, positions: Sequence[PositionPrior | None]) -> list[int]:
    """The views with a pose and a position; of the views of a 360° picture only the first one."""
    having = [i for i in sorted(found.poses) if positions[i] is not None]
    return [members[0] for members in frames_of(found.lenses, having)]


def _centres(found: Hypothesis, views: Sequence[int]) -> np.ndarray:
    return geometry.camera_centres(np.stack([found.poses[i] for i in views]))


def _align(points: np.ndarray, target: np.ndarray, sigma: np.ndarray) -> tuple[Similarity, float] | None:
    """The similarity transform from `points` (N, 3) to most of `target`, and the factor by which their standard
    deviations must grow to fit: large if a strip is bent. None if they do not fit.

    Umeyama (1991), reweighted with the loss of Geman and McClure at a scale that shrinks with the median residual.
    """
    weight, found, residual = np.ones(len(points)), None, np.zeros(len(points))
    for _ in range(_REWEIGHTINGS):
        found = _umeyama(points, target, weight)
        if found is None:
            return None
        residual = np.linalg.norm((target - found.apply(points)) / sigma, axis=1)
        weight = 1 / (1 + (residual / max(2 * float(np.median(residual)), _USUAL)) ** 2) ** 2
    looseness = max(float(np.quantile(residual, _MOST)) / _USUAL, 1.0)
    return None if found is None or looseness > _LOOSEST else (found, looseness)


def _umeyama(points: np.ndarray, target: np.ndarray, weight: np.ndarray) -> Similarity | None:
    """The best similarity transform by weighted least squares. Points on a line do not determine the
    rotation about it.
    """
    share = weight / weight.sum()
    here, there = share @ points, share @ target
    a, b = points - here, target - there
    u, d, vt = np.linalg.svd((share[:, None] * b).T @ a)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    spread = float((share[:, None] * a**2).sum())
    scale = float((d * sign).sum()) / max(spread, 1e-30)
    rotation = u @ np.diag(sign) @ vt
    return None if spread == 0 or scale <= 0 else Similarity(scale, rotation, there - scale * rotation @ here)


def _moved(before: Hypothesis, after: Hypothesis, views: Sequence[int]) -> float:
    """Median distance in metres between the cameras of both, after the best similarity transform."""
    here, there = _centres(before, views), _centres(after, views)
    found = _umeyama(here, there, np.ones(len(views)))
    off = there - here if found is None else there - found.apply(here)
    return round(float(np.median(np.linalg.norm(off, axis=1))), 3)
