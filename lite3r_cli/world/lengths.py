"""Metric scale of a scene from one known length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..scene import geometry
from ..scene.posed_view import View

_SAMPLES = 4000  # pixels per view
_NEAR = 2.0  # times the median distance from the cameras: farther points tell nothing about the ground below
_BINS = 60  # of height, between the lowest points and the cameras
_LEAST_POINTS = 200  # number of points below the cameras
_LEVEL = 0.15  # share of them at the height of the ground; three bins of a wall have 0.05
_SURE = 50.0  # per cent of a view's pixels, the more confident ones


def camera_distance(views: Sequence[View], first: int, second: int) -> float:
    """The distance between two cameras in scene units."""
    a, b = geometry.camera_centres(np.stack([views[first].cam_from_world, views[second].cam_from_world]))
    return float(np.linalg.norm(a - b))


def pixel_distance(view: View, first: tuple[float, float], second: tuple[float, float]) -> float | None:
    """The distance between the points at two pixels (x, y) of the picture; None if one has no depth."""
    points = [point_at(view, pixel) for pixel in (first, second)]
    if points[0] is None or points[1] is None:
        return None
    return float(np.linalg.norm(points[0] - points[1]))


def point_at(view: View, pixel: tuple[float, float]) -> np.ndarray | None:
    """The world point (3,) at a pixel of the picture, by the median depth around it; None without depth."""
    assert view.depth is not None  # every predicted view has depth
    height, width = view.depth.shape
    column, row = int(pixel[0] * width / view.width), int(pixel[1] * height / view.height)
    if not (0 <= pixel[0] < view.width and 0 <= pixel[1] < view.height):
        return None
    around = view.depth[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
    known = around[around > 0]
    if len(known) < min(5, around.size):
        return None
    depth = np.array([float(np.median(known))])
    return geometry.unproject_pixels(np.array([pixel]), depth, view.K, view.cam_from_world)[0]


def camera_height(views: Sequence[View], up: np.ndarray) -> float | None:
    """The median height of the cameras above the ground in scene units; None without a level surface below.

    The ground is the height of most points among those below the cameras.
    """
    centres = geometry.camera_centres(np.stack([view.cam_from_world for view in views]))
    points = np.concatenate([_sample(view) for view in views]) - np.median(centres, axis=0)
    apart = np.linalg.norm(points, axis=1)
    heights = points[apart <= _NEAR * np.median(apart)] @ up if len(points) else np.zeros(0)
    below = heights[heights < 0]
    if len(below) < _LEAST_POINTS:
        return None
    low = float(np.percentile(below, 1))
    counts, edges = np.histogram(below, _BINS, (low, 0.0))
    peak = int(np.argmax(np.convolve(counts, [1, 2, 1], "same")))
    around = below[(below >= edges[max(0, peak - 1)]) & (below <= edges[min(_BINS, peak + 2)])]
    return -float(np.median(around)) if len(around) > _LEVEL * len(below) else None


def _sample(view: View) -> np.ndarray:
    """The more confident half of a view's points, evenly thinned (M, 3)."""
    assert view.depth is not None  # every predicted view has depth
    seen = view.depth > 0
    if view.confidence is not None and seen.any():
        seen = seen & (view.confidence >= np.percentile(view.confidence[seen], _SURE))
    rows, columns = np.nonzero(seen)
    step = max(1, len(rows) // _SAMPLES)
    rows, columns = rows[::step], columns[::step]
    K = geometry.scale_intrinsics(view.K, view.depth.shape[1] / view.width, view.depth.shape[0] / view.height)
    pixels = np.stack([columns + 0.5, rows + 0.5], axis=-1)
    return geometry.unproject_pixels(pixels, view.depth[rows, columns], K, view.cam_from_world)
