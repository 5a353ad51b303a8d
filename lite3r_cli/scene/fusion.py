"""Posed depth maps become one cloud: what is doubtful is dropped, what several views saw is averaged.

Dropped are, in this order: pixels without depth, masked pixels, the least confident pixels of the scene, pixels that
float between foreground and background at depth edges, pixels that other views contradict. What is left is moved to the
mean of the surfaces that agree on it, coloured from the full-resolution image, optionally merged in voxels, and cut to
the point budget.

All of it is vectorised over the pixels of a view, one view at a time: beyond the views themselves, memory holds a byte
a pixel and the points kept so far.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np

from ..config import FusionConfig
from . import geometry
from .consistency import VoterMap, adaptive_tolerance, best_neighbours, check_view
from .view import PointCloud, View

ReadImage = Callable[[int], np.ndarray]  # index → (H, W, 3) uint8
ReadMask = Callable[[int], np.ndarray | None]  # index → (H, W) bool, True = use
_PERCENTILE_SAMPLES = 4_000_000  # pixels that the confidence threshold is estimated from
_VOXEL_ROWS = 4_000_000  # voxel sums held before equal voxels are merged


@dataclass
class FusionStatistics:
    """What became of every pixel; the counts from `unknown` to `over_budget` and `points` add up to `pixels`."""

    pixels: int = 0
    unknown: int = 0  # no or non-finite depth
    masked: int = 0
    low_confidence: int = 0
    edge: int = 0  # flying pixels
    inconsistent: int = 0  # contradicted by every view that should see the point
    free_space: int = 0  # more views look through the point than see it
    merged: int = 0  # joined with another point in its voxel
    over_budget: int = 0
    points: int = 0
    confidence_threshold: float | None = None
    tolerance: float | None = None  # relative depth difference that counted as agreement

    def to_dict(self) -> dict[str, int | float | None]:
        """For run.json."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def fuse(
    views: Sequence[View],
    read_rgb: ReadImage,
    read_mask: ReadMask | None = None,
    config: FusionConfig = FusionConfig(),
    seed: int = 0,
) -> PointCloud:
    """The cloud of `fuse_with_statistics` alone."""
    return fuse_with_statistics(views, read_rgb, read_mask, config, seed)[0]


def fuse_with_statistics(
    views: Sequence[View],
    read_rgb: ReadImage,
    read_mask: ReadMask | None = None,
    config: FusionConfig = FusionConfig(),
    seed: int = 0,
    step: Callable[[], None] = lambda: None,
) -> tuple[PointCloud, FusionStatistics]:
    """Fuse posed depth maps into a cloud in their world frame, and say what was dropped and why.

    `read_rgb(i)` gives the image of view i at full resolution, `read_mask(i)` its mask (True = use) or None; both are
    called at most once a view. `step` is called after each view. Views without a depth map add nothing; the cloud may
    be empty.
    """
    views = [view if view.depth is not None else None for view in views]
    statistics = FusionStatistics(pixels=sum(view.depth.size for view in views if view is not None))
    alive = _usable_pixels(views, read_mask, config, statistics)
    voters = [VoterMap(view, mask) if view is not None else None for view, mask in zip(views, alive, strict=True)]
    neighbours = best_neighbours(voters, config.neighbours) if config.consistency else [[] for _ in views]
    if any(neighbours):
        statistics.tolerance = config.tolerance or adaptive_tolerance(voters, neighbours)
    sink = _VoxelSink(config.voxel) if config.voxel else _PointSink(config.max_points, seed)
    for i, view in enumerate(views):
        if view is not None:
            keep, points = _check(voters, i, neighbours[i], statistics, config.average)
            if keep.any():
                colors = sample_colors(read_rgb(i), keep)
                sink.add(points[keep], colors, _confidence(view)[keep])
        step()
    cloud = _within_budget(sink.result(statistics), config.max_points, seed, statistics)
    statistics.points = len(cloud)
    return cloud, statistics


# --- which pixels -----------------------------------------------------------------------------------------------------


def _confidence(view: View) -> np.ndarray:
    return np.ones(view.depth.shape, np.float32) if view.confidence is None else view.confidence


def _usable_pixels(
    views: Sequence[View | None], read_mask: ReadMask | None, config: FusionConfig, statistics: FusionStatistics
) -> list[np.ndarray | None]:
    """Per view the pixels (h, w) bool that have depth, are not masked, confident enough, and not flying."""
    alive: list[np.ndarray | None] = []
    for i, view in enumerate(views):
        if view is None:
            alive.append(None)
            continue
        known = np.isfinite(view.depth) & (view.depth > 0) & np.isfinite(_confidence(view))
        mask = read_mask(i) if read_mask is not None else None
        used = known if mask is None else known & sample_mask(mask, known.shape)
        statistics.unknown += int((~known).sum())
        statistics.masked += int(known.sum() - used.sum())
        alive.append(used)
    threshold = _confidence_threshold(views, alive, config.confidence_percentile)
    statistics.confidence_threshold = threshold
    for view, mask in zip(views, alive, strict=True):
        if view is None:
            continue
        for reason, doubtful in (
            ("low_confidence", _confidence(view) < threshold if threshold is not None else None),
            ("edge", flying_pixels(view, config.max_incidence_deg) if config.edge_filter else None),
        ):
            if doubtful is not None:
                setattr(statistics, reason, getattr(statistics, reason) + int((mask & doubtful).sum()))
                mask &= ~doubtful
    return alive


def _confidence_threshold(
    views: Sequence[View | None], alive: Sequence[np.ndarray | None], percentile: float
) -> float | None:
    """The percentile over the usable pixels of the whole scene, None for "keep all"; pixels equal to it are kept."""
    total = sum(int(mask.sum()) for mask in alive if mask is not None)
    if percentile == 0 or total == 0:
        return None
    stride = -(-total // _PERCENTILE_SAMPLES)
    pairs = zip(views, alive, strict=True)
    sample = np.concatenate([_confidence(view)[mask][::stride] for view, mask in pairs if view is not None])
    return float(np.percentile(sample, percentile, method="lower")) if len(sample) else None


def flying_pixels(view: View, max_incidence_deg: float) -> np.ndarray:
    """(h, w) bool: depth jumps on both sides of the pixel, along a row, a column or a diagonal.

    A jump is a step to the next pixel that, read as a surface, would be seen more than `max_incidence_deg` off its
    normal: |Δz| / min z > tan(incidence) · angle between the pixels. Smeared edges jump on both sides; the pixels on
    either side of a clean edge, and at both ends of a smeared one, have a side that does not, and stay. Unknown
    neighbours and the border do not count.
    """
    height, width = view.depth.shape
    K = geometry.scale_intrinsics(view.K, width / view.width, height / view.height)
    steepest = np.tan(np.radians(max_incidence_deg))
    depth = np.where(np.isfinite(view.depth) & (view.depth > 0), view.depth, np.nan).astype(np.float32)
    flying = np.zeros(depth.shape, bool)
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        # `here` and `there` are the same pixels and their neighbours one step on
        here = (slice(0, height - dy), slice(max(-dx, 0), width - max(dx, 0)))
        there = (slice(dy, height), slice(max(dx, 0), width - max(-dx, 0)))
        z, next_z = depth[here], depth[there]
        limit = np.float32(steepest * np.hypot(dx / K[0, 0], dy / K[1, 1]))
        jump = np.abs(next_z - z) > limit * np.fmin(z, next_z)  # False beside an unknown pixel …
        known = ~np.isnan(next_z - z)
        forward, backward = np.ones((2, height, width), bool)  # … which must not speak for the pixel either
        forward[here], backward[there] = jump | ~known, jump | ~known
        judged = np.zeros((height, width), bool)
        judged[here] |= known
        judged[there] |= known
        flying |= forward & backward & judged
    return flying


def _check(
    voters: Sequence[VoterMap | None],
    i: int,
    neighbours: Sequence[int],
    statistics: FusionStatistics,
    average: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """The pixels of view i that stay (h, w) bool and the world points (h, w, 3) float32 of all its pixels."""
    keep = voters[i].alive
    if not neighbours or not keep.any():
        return keep, voters[i].world_points()
    verdict = check_view(voters[i], [voters[j] for j in neighbours], statistics.tolerance, average)
    free_space = keep & verdict.seen_through
    inconsistent = keep & verdict.contradicted & ~free_space
    statistics.free_space += int(free_space.sum())
    statistics.inconsistent += int(inconsistent.sum())
    return keep & ~free_space & ~inconsistent, voters[i].world_points(verdict.shift)


# --- colours and masks from images of another size --------------------------------------------------------------------


def sample_mask(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A mask (H, W) at the pixel centres of a map of `shape` (h, w) that covers the same field of view: (h, w) bool."""
    rows, columns = (
        np.minimum(((np.arange(n) + 0.5) * size / n).astype(np.int64), size - 1)
        for n, size in zip(shape, mask.shape, strict=True)
    )
    return mask[rows[:, None], columns].astype(bool)


def sample_colors(rgb: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Colours (N, 3) uint8 of a map's pixels where `keep` (h, w), from an image (H, W, 3) of the same field of view.

    Bilinear at the pixel's centre: x = (column + 0.5) · W / w − 0.5 counts from the centre of the image's first pixel.
    """
    weights, corners = [], []
    for index, n, size in zip(np.nonzero(keep), keep.shape, rgb.shape[:2], strict=True):
        x = np.clip((index + 0.5) * (size / n) - 0.5, 0, size - 1)
        low = np.minimum(x.astype(np.int64), max(size - 2, 0))
        weights.append((x - low).astype(np.float32)[:, None])
        corners.append((low, np.minimum(low + 1, size - 1)))
    (wy, wx), ((top, bottom), (left, right)) = weights, corners
    upper = rgb[top, left] * (1 - wx) + rgb[top, right] * wx
    lower = rgb[bottom, left] * (1 - wx) + rgb[bottom, right] * wx
    return np.rint(upper * (1 - wy) + lower * wy).astype(np.uint8)


# --- collecting -------------------------------------------------------------------------------------------------------


class _PointSink:
    """Collects points as they are; drops those that cannot survive the budget early, so that memory stays bounded."""

    def __init__(self, max_points: int | None, seed: int) -> None:
        self.max_points, self.rng = max_points, np.random.default_rng(seed)
        self.parts: list[tuple[np.ndarray, ...]] = []
        self.held = self.added = 0

    def add(self, points: np.ndarray, colors: np.ndarray, confidence: np.ndarray) -> None:
        self.parts.append((points, colors, confidence.astype(np.float32), self.rng.random(len(points))))
        self.held += len(points)
        self.added += len(points)
        if self.max_points is not None and self.held > 2 * self.max_points:
            self._prune()

    def _prune(self) -> None:
        columns = [np.concatenate(column) for column in zip(*self.parts, strict=True)]
        if self.max_points is not None and self.held > self.max_points:
            chosen = np.sort(np.argpartition(columns[3], self.max_points)[: self.max_points])
            columns = [column[chosen] for column in columns]
        self.parts, self.held = [tuple(columns)], len(columns[0])

    def result(self, statistics: FusionStatistics) -> PointCloud:
        if not self.parts:
            return _empty_cloud()
        self._prune()
        points, colors, confidence, _ = self.parts[0]
        statistics.over_budget += self.added - len(points)
        return PointCloud(points, colors, confidence)


class _VoxelSink:
    """Confidence-weighted means of position and colour, and the mean confidence, per voxel."""

    def __init__(self, size: float) -> None:
        self.size = size
        self.parts: list[tuple[np.ndarray, np.ndarray]] = []  # keys (N,), sums (N, 8): 1, w, w·position, w·colour
        self.held = self.added = 0

    def add(self, points: np.ndarray, colors: np.ndarray, confidence: np.ndarray) -> None:
        weight = np.maximum(confidence.astype(np.float64), 1e-12)[:, None]
        sums = np.hstack([np.ones_like(weight), weight, weight * points, weight * colors])
        self.parts.append(_sum_by_key(_voxel_keys(points, self.size), sums))
        self.held += len(self.parts[-1][0])
        self.added += len(points)
        if self.held > _VOXEL_ROWS:
            self._merge()

    def _merge(self) -> None:
        self.parts = [_sum_by_key(*(np.concatenate(column) for column in zip(*self.parts, strict=True)))]
        self.held = len(self.parts[0][0])

    def result(self, statistics: FusionStatistics) -> PointCloud:
        if not self.parts:
            return _empty_cloud()
        self._merge()
        _, sums = self.parts[0]
        count, weight = sums[:, 0], sums[:, 1:2]
        points, colors = sums[:, 2:5] / weight, np.rint(sums[:, 5:8] / weight)
        statistics.merged += self.added - len(sums)
        return PointCloud(points.astype(np.float32), colors.astype(np.uint8), (weight[:, 0] / count).astype(np.float32))


def _voxel_keys(points: np.ndarray, size: float) -> np.ndarray:
    """Voxel coordinates packed in 63 bits; only voxels exactly 2²¹ apart along an axis share a key."""
    cells = np.clip(np.floor(points.astype(np.float64) / size), -(2.0**62), 2.0**62).astype(np.int64) & (2**21 - 1)
    return cells[:, 0] | cells[:, 1] << 21 | cells[:, 2] << 42


def _sum_by_key(keys: np.ndarray, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    unique, inverse = np.unique(keys, return_inverse=True)
    columns = [np.bincount(inverse, weights=column, minlength=len(unique)) for column in sums.T]
    return unique, np.stack(columns, axis=1)


def _within_budget(cloud: PointCloud, max_points: int | None, seed: int, statistics: FusionStatistics) -> PointCloud:
    if max_points is None or len(cloud) <= max_points:
        return cloud
    chosen = np.sort(np.random.default_rng(seed).choice(len(cloud), max_points, replace=False))
    statistics.over_budget += len(cloud) - max_points
    return PointCloud(cloud.points[chosen], cloud.colors[chosen], cloud.confidence[chosen])


def _empty_cloud() -> PointCloud:
    return PointCloud(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8), np.zeros(0, np.float32))
