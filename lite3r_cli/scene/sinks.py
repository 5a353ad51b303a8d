"""Collects the points of many views in one cloud, within a budget or merged in voxels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .posed_view import PointCloud

if TYPE_CHECKING:
    from .fusion import FusionStatistics

_VOXEL_ROWS = 4_000_000  # voxel sums in memory before equal voxels are merged
_RANDOM_BITS = 40  # of a point's random number


@dataclass(frozen=True)
class Points:
    """Points of one view or of several."""

    world: Tensor  # (N, 3) float32
    colors: Tensor  # (N, 3) uint8
    confidence: Tensor  # (N,) float32
    view: int | Tensor  # (N,) int64 if they are of several views
    pixels: Tensor  # (N,) indices into the view's flattened map

    def some(self, keep: Tensor) -> Points:
        """The points with `keep` (N,) bool."""
        rows = keep.nonzero()[:, 0]
        world, colors, confidence, pixels = (
            column.index_select(0, rows) for column in (self.world, self.colors, self.confidence, self.pixels)
        )
        view = self.view if isinstance(self.view, int) else self.view.index_select(0, rows)
        return Points(world, colors, confidence, view, pixels)


def random_numbers(seed: int, view: int | Tensor, pixels: Tensor) -> Tensor:
    """Random integers (N,) int64 below 2^_RANDOM_BITS that depend only on the pixel: equal on every device, in any
    order.

    Two rounds of a 32-bit integer hash (multiply and xor-shift, as in MurmurHash3's finaliser). Only the low 32 bits of
    products are used, so the sign of int64 does not matter.
    """
    x = pixels ^ ((seed * 0x9E3779B1 + view * 0x85EBCA6B + 0x27D4EB2F) & 0xFFFFFFFF)
    parts = []
    for salt in (0x7FEB352D, 0x846CA68B):
        y = (x ^ (x >> 16)) * salt & 0xFFFFFFFF
        y = (y ^ (y >> 15)) * 0x2C1B3C6D & 0xFFFFFFFF
        y = (y ^ (y >> 12)) * 0x297A2D39 & 0xFFFFFFFF
        parts.append(y ^ (y >> 15))
        x = x + parts[-1] & 0xFFFFFFFF
    return parts[0] << (_RANDOM_BITS - 32) | parts[1] >> (64 - _RANDOM_BITS)


def kth_lowest(values: Tensor, k: int) -> Tensor:
    """The k-th lowest of values (N,), counted from 1. Sorting is faster than selection on a GPU."""
    return values.kthvalue(k).values if values.device.type == "cpu" else values.sort().values[k - 1]


class PointSink:
    """Collects points as they are. With a budget it keeps those with the lowest random numbers; `chosen` excludes
    pixels that cannot be among them before their points are computed.
    """

    def __init__(self, max_points: int | None, seed: int) -> None:
        self.max_points, self.seed = max_points, seed
        self._parts: list[Points] = []
        self._limit: int | None = None  # points with a larger random number will not be kept
        self._held = self.added = 0

    def _numbers(self, points: Points) -> Tensor:
        return random_numbers(self.seed, points.view, points.pixels)

    def chosen(self, view: int | Tensor, pixels: Tensor) -> Tensor | None:
        """The pixels (N,) of a view, or of the view of each, for which points are needed, as indices; None: all."""
        self.added += len(pixels)
        if self._limit is None:
            return None
        return (random_numbers(self.seed, view, pixels) <= self._limit).nonzero()[:, 0]

    def add(self, points: Points) -> None:
        """Add the points of one view or of several."""
        self._parts.append(points)
        self._held += len(points.pixels)
        if self.max_points is not None and self._held > 2 * self.max_points:
            self._prune(self.max_points)

    def _prune(self, budget: int) -> None:
        numbers = [self._numbers(points) for points in self._parts]
        self._limit = int(kth_lowest(torch.cat(numbers), budget))
        self._parts = [points.some(own <= self._limit) for points, own in zip(self._parts, numbers)]
        self._held = sum(len(points.pixels) for points in self._parts)

    def result(self, statistics: FusionStatistics) -> PointCloud:
        """The final cloud with at most `max_points` points (None: all); counts are added to `statistics`."""
        if not self._parts:
            return empty_cloud()
        if self.max_points is not None and self._held > self.max_points:
            self._prune(self.max_points)
        columns = zip(*((p.world, p.colors, p.confidence) for p in self._parts))
        cloud = PointCloud(*(torch.cat(column).cpu().numpy() for column in columns))
        if self.max_points is not None and len(cloud) > self.max_points:  # of equal random numbers the first are kept
            cloud = _rows(cloud, slice(self.max_points))
        statistics.over_budget += self.added - len(cloud)
        return cloud


def _rows(cloud: PointCloud, rows: slice | np.ndarray) -> PointCloud:
    return PointCloud(cloud.points[rows], cloud.colors[rows], cloud.confidence[rows])


class VoxelSink:
    """Confidence-weighted means of position and colour, and the mean confidence, per voxel."""

    def __init__(self, size: float, max_points: int | None, seed: int) -> None:
        self.size, self.max_points, self.seed = size, max_points, seed
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []  # keys (N,), sums (N, 8): 1, w, w·position, w·colour
        self._held = self.added = 0

    def chosen(self, view: int | Tensor, pixels: Tensor) -> None:
        """None: all pixels are used."""
        self.added += len(pixels)

    def add(self, points: Points) -> None:
        """Add the points of one view or of several."""
        world, colors, confidence = (t.cpu().numpy() for t in (points.world, points.colors, points.confidence))
        weight = np.maximum(confidence.astype(np.float64), 1e-12)[:, None]
        sums = np.hstack([np.ones_like(weight), weight, weight * world, weight * colors])
        self._parts.append(_sum_by_key(_voxel_keys(world, self.size), sums))
        self._held += len(self._parts[-1][0])
        if self._held > _VOXEL_ROWS:
            self._merge()

    def _merge(self) -> None:
        self._parts = [_sum_by_key(*(np.concatenate(column) for column in zip(*self._parts, strict=True)))]
        self._held = len(self._parts[0][0])

    def result(self, statistics: FusionStatistics) -> PointCloud:
        """The final cloud with at most `max_points` points (None: all); counts are added to `statistics`."""
        if not self._parts:
            return empty_cloud()
        self._merge()
        _, sums = self._parts[0]
        count, weight = sums[:, 0], sums[:, 1:2]
        points, colors = sums[:, 2:5] / weight, np.rint(sums[:, 5:8] / weight)
        statistics.merged += self.added - len(sums)
        cloud = PointCloud(
            points.astype(np.float32), colors.astype(np.uint8), (weight[:, 0] / count).astype(np.float32)
        )
        if self.max_points is None or len(cloud) <= self.max_points:
            return cloud
        statistics.over_budget += len(cloud) - self.max_points
        chosen = np.random.default_rng(self.seed).choice(len(cloud), self.max_points, replace=False)
        return _rows(cloud, np.sort(chosen))


def sink_for(voxel: float | None, max_points: int | None, seed: int) -> PointSink | VoxelSink:
    """The sink for voxels of a size, or for single points (None); with at most `max_points` points (None: all)."""
    return VoxelSink(voxel, max_points, seed) if voxel else PointSink(max_points, seed)


def _voxel_keys(points: np.ndarray, size: float) -> np.ndarray:
    """Voxel coordinates packed in 63 bits; only voxels exactly 2²¹ apart along an axis share a key."""
    cells = np.clip(np.floor(points.astype(np.float64) / size), -(2.0**62), 2.0**62).astype(np.int64) & (2**21 - 1)
    return cells[:, 0] | cells[:, 1] << 21 | cells[:, 2] << 42


def _sum_by_key(keys: np.ndarray, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    unique, inverse = np.unique(keys, return_inverse=True)
    columns = [np.bincount(inverse, weights=column, minlength=len(unique)) for column in sums.T]
    return unique, np.stack(columns, axis=1)


def empty_cloud() -> PointCloud:
    """A cloud without points."""
    return PointCloud(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8), np.zeros(0, np.float32))
