"""Photometric test of whether two views look alike where the network predicts the same surface.

Views without feature matches (dark, smooth, repetitive surfaces) may still be connected by their pixels: one is warped
into the other by the predicted depth and cameras, and windows are compared. A network also predicts a geometry between
unrelated pictures, but these look as different there as at any other offset. So the same comparison at an offset is the
reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import cv2
import numpy as np

from ..scene.consistency import correspondences
from ..scene.posed_view import View
from ..scene.surfaces import Surfaces, VoterMap

_SIDE = 260  # pixels of the longer side at which views are compared
_WINDOW = (15, 15)
_ASIDE = 24  # pixels of offset
_AGREE = 0.15  # relative depth difference up to which both views see the same surface
_LEAST_SEEN = 0.03  # share of the view that must be seen
_TEXTURE = 20.0  # grey levels squared, smallest variance of a window
_ALIKE, _CLEARLY = 0.3, 4.5  # correlation, and its distance from that at the offset in standard deviations


def looks_alike(view: View, grey: np.ndarray, other: View, other_grey: np.ndarray) -> bool:
    """Whether `view` and `other` look alike at corresponding pixels; `grey` (h, w) uint8 at the sizes of the depth
    maps.
    """
    (small, a), (small_other, b) = _reduced(view, grey), _reduced(other, other_grey)
    x, y, ratio = correspondences(Surfaces([voter_of(small), voter_of(small_other)]), 0, 1)
    seen = np.abs(ratio - 1) < _AGREE
    if seen.mean() < _LEAST_SEEN:
        return False
    here = _correlation(a, cv2.remap(b, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT), seen)
    if not here >= _ALIKE:
        return False
    steps = [(dx, dy) for dx, dy in product((-_ASIDE, 0, _ASIDE), repeat=2) if dx or dy]
    moved = (cv2.remap(b, x + dx, y + dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT) for dx, dy in steps)
    aside = np.array([_correlation(a, m, seen) for m in moved])
    aside = aside[np.isfinite(aside)]
    return bool(len(aside)) and bool(here - aside.mean() > _CLEARLY * max(float(aside.std()), 0.02))


def voter_of(view: View) -> VoterMap:
    """A predicted view with all pixels whose depth is known."""
    assert view.depth is not None  # every predicted view has depth
    return VoterMap(view, np.asarray(view.depth > 0))


def _reduced(view: View, grey: np.ndarray) -> tuple[View, np.ndarray]:
    """The view's subsampled depth, and its picture averaged to the same size."""
    assert view.depth is not None  # every predicted view has depth
    step = max(1, round(max(view.depth.shape) / _SIDE))
    depth = np.ascontiguousarray(view.depth[step // 2 :: step, step // 2 :: step])
    small = cv2.resize(grey, depth.shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float32)
    return replace(view, depth=depth), small


def _correlation(a: np.ndarray, b: np.ndarray, seen: np.ndarray) -> float:
    """The mean over windows of the correlation of `a` and `b` (h, w) among the pixels `seen`; NaN without any."""
    weight = seen.astype(np.float32)
    share = np.maximum(cv2.blur(weight, _WINDOW), 1e-6)

    def mean(values: np.ndarray) -> np.ndarray:
        return cv2.blur(values * weight, _WINDOW) / share

    mean_a, mean_b = mean(a), mean(b)
    variance_a, variance_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    usable = seen & (share > 0.6) & (variance_a > _TEXTURE) & (variance_b > _TEXTURE)
    if usable.sum() < 100:
        return float("nan")
    covariance = mean(a * b) - mean_a * mean_b
    return float((covariance[usable] / np.sqrt(variance_a[usable] * variance_b[usable])).mean())


def photometric_pairs(neighbours: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """The pairs i < j of views that see each other."""
    return sorted({(min(i, j), max(i, j)) for i, others in enumerate(neighbours) for j in others if i != j})
