"""Tracks from depth maps: which views see a fused point, and at which pixel.

Structure from motion gets tracks from matched features. For a fused cloud the depth maps give them: a view sees a point
if the point's depth equals that of its map. Users of COLMAP models need tracks: the viewer draws points with three or
more views, multi-view stereo selects neighbours by shared points, and splat trainers use their depth.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from . import geometry
from .posed_view import PointCloud, View
from .sparse_points import SparseModel

CANDIDATES = 4  # candidate points for each one that is kept
TOLERANCE = (0.01, 0.1)  # smallest and largest relative depth deviation at which a view sees a point
SPREADS = 3.0  # the tolerance in medians of the deviation
SAME_SURFACE = 0.3  # larger deviations are another surface and are ignored in the fit


def tracks_from_depth(views: Sequence[View], cloud: PointCloud, most: int) -> SparseModel:
    """At most `most` evenly spread points of the cloud, those with many views first, with their observations.

    Points that only one view sees are left out. The error of a point is the mean distance in pixels by which the depth
    of an observation would move it in the picture of another view.
    """
    kept = np.arange(min(len(cloud), CANDIDATES * most)) * len(cloud) // max(min(len(cloud), CANDIDATES * most), 1)
    points = cloud.points[kept].astype(np.float64)
    seen = [_seen_by(view, points) for view in views]
    ratios = [ratio[inside] for _, ratio, inside in seen]
    tolerance = _tolerance(np.concatenate(ratios)) if ratios else TOLERANCE[0]
    sees = np.array([inside & (np.abs(ratio - 1) < tolerance) for _, ratio, inside in seen]).reshape(len(views), -1)
    chosen = _spread(points, sees.sum(0), most)
    sees = sees[:, chosen]
    image, point = np.nonzero(sees)
    pixel = np.concatenate([np.zeros((0, 2)), *(pixels[chosen[own]] for (pixels, _, _), own in zip(seen, sees))])
    ratio = np.array([r[chosen] for _, r, _ in seen]).reshape(len(views), -1)[image, point]
    errors = _errors(views, points[chosen], image, point, ratio)
    confidence = cloud.confidence[kept][chosen]
    return SparseModel(points[chosen], cloud.colors[kept][chosen], errors, image, point, pixel, confidence)


def depth_tolerance(views: Sequence[View], points: np.ndarray) -> float:
    """Relative depth deviation up to which a view sees one of the points (N, 3): a few times the usual one."""
    ratios = [ratio[inside] for _, ratio, inside in (_seen_by(view, points) for view in views)]
    return _tolerance(np.concatenate(ratios)) if ratios else TOLERANCE[0]


def joined(first: SparseModel, second: SparseModel) -> SparseModel:
    """The points of two models of the same views, those of `first` first; points without a confidence
    get the highest.
    """
    image = np.concatenate([first.image, second.image])
    order = np.argsort(image, kind="stable")
    return SparseModel(
        np.concatenate([first.points, second.points]),
        np.concatenate([first.colors, second.colors]),
        np.concatenate([first.errors, second.errors]),
        image[order],
        np.concatenate([first.point, second.point + len(first)])[order],
        np.concatenate([first.pixel, second.pixel])[order],
        np.concatenate([_confidence(first, second), _confidence(second, first)]),
    )


def _confidence(model: SparseModel, other: SparseModel) -> np.ndarray:
    if model.confidence is not None:
        return model.confidence
    most = 1.0 if other.confidence is None else other.confidence.max(initial=1.0)
    return np.full(len(model), most, np.float32)


def _seen_by(view: View, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixel (N, 2) of each point in the original image, its depth over that of the view's map (N,), and whether the map
    has a depth there (N,) bool.
    """
    camera = points @ view.cam_from_world[:, :3].T + view.cam_from_world[:, 3]
    z = camera[:, 2]
    ahead = z > 0
    pixel = (camera @ view.K.T)[:, :2] / np.where(ahead, z, 1.0)[:, None]
    inside = ahead & (pixel >= 0).all(1) & (pixel < (view.width, view.height)).all(1)
    if view.depth is None:
        return pixel, np.zeros(len(points)), np.zeros(len(points), bool)
    height, width = view.depth.shape
    column = np.clip(pixel[:, 0] * (width / view.width), 0, width - 1).astype(np.int64)
    row = np.clip(pixel[:, 1] * (height / view.height), 0, height - 1).astype(np.int64)
    depth = np.where(inside, view.depth[np.where(inside, row, 0), np.where(inside, column, 0)], 0)
    inside &= depth > 0
    return pixel, np.where(inside, z / np.where(inside, depth, 1), 0), inside


def _tolerance(ratio: np.ndarray) -> float:
    """A few times the usual deviation of depth and cameras."""
    deviation = np.abs(ratio - 1)
    deviation = deviation[deviation < SAME_SURFACE]
    return float(np.clip(SPREADS * np.median(deviation), *TOLERANCE)) if len(deviation) else TOLERANCE[0]


def _spread(points: np.ndarray, count: np.ndarray, most: int) -> np.ndarray:
    """Ascending indices of at most `most` points with at least two views: in each cell of a grid the one with the most
    views.
    """
    usable = np.flatnonzero(count >= 2)
    if len(usable) <= most:
        return usable
    low, high = np.percentile(points[usable], (2, 98), axis=0)
    finest, coarsest = 0.0, float(np.max(high - low)) or 1.0
    best = usable[:most]
    for _ in range(16):  # search the cell size that leaves about the wanted number of points
        cell = (finest + coarsest) / 2
        picked = _one_a_cell(points[usable], count[usable], cell)
        if len(picked) > most:
            finest = cell
        else:
            coarsest, best = cell, usable[picked]
            if len(picked) > 0.95 * most:
                break
    return np.sort(best)


def _one_a_cell(points: np.ndarray, count: np.ndarray, cell: float) -> np.ndarray:
    keys = np.floor(points / cell).astype(np.int64)
    order = np.lexsort((np.arange(len(points)), -count, keys[:, 2], keys[:, 1], keys[:, 0]))
    first = np.ones(len(points), bool)
    first[1:] = (keys[order][1:] != keys[order][:-1]).any(1)
    return order[first]


def _errors(
    views: Sequence[View], points: np.ndarray, image: np.ndarray, point: np.ndarray, ratio: np.ndarray
) -> np.ndarray:
    """(N,) pixels, see `tracks_from_depth`. Each observation is projected into the next view of its point's track."""
    if len(image) == 0:
        return np.zeros(len(points))
    order = np.lexsort((image, point))
    image, point, ratio = image[order], point[order], ratio[order]
    length = np.bincount(point, minlength=len(points))
    start = np.concatenate([[0], np.cumsum(length)[:-1]])
    place = np.arange(len(image)) - start[point]
    other = image[start[point] + (place + 1) % length[point]]
    centres = geometry.camera_centres(np.stack([view.cam_from_world for view in views]))[image]
    moved = centres + (points[point] - centres) / ratio[:, None]  # the point at this view's own depth
    shift = np.zeros(len(image))
    for j, view in enumerate(views):
        mine = np.flatnonzero(other == j)
        a, b = (_project(view, x[mine]) for x in (points[point], moved))
        shift[mine] = np.linalg.norm(a - b, axis=1)
    return np.bincount(point, shift, minlength=len(points)) / np.maximum(length, 1)


def _project(view: View, points: np.ndarray) -> np.ndarray:
    camera = points @ view.cam_from_world[:, :3].T + view.cam_from_world[:, 3]
    result: np.ndarray = (camera @ view.K.T)[:, :2] / np.maximum(camera[:, 2:], 1e-9)
    return result
