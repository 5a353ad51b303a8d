"""A large cloud in parts and levels of detail, which are selected by the position of the viewer.

Level k of a part has one point in each voxel of `voxel · 2^k`. Each part uses the finest level whose voxels appear
larger than a common angle; this angle is the smallest one that respects the number of points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .posed_view import PointCloud

PARTS = 12  # along the longest side
LEVELS = 8
ANGLES = 2.0 ** np.arange(-13, 2, 0.5)  # radians to try


@dataclass(frozen=True)
class Part:
    """A cube of the cloud: `levels[k]` are indices of its points, the finest first."""

    centre: np.ndarray  # (3,)
    radius: float
    levels: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class VoxelPyramid:
    """`voxel`: side of the finest level's voxels, in scene units."""

    cloud: PointCloud
    voxel: float
    parts: tuple[Part, ...]

    def seen_from(self, place: np.ndarray, most: int) -> np.ndarray:
        """Indices (M,) of at most `most` points, or of the coarsest levels of all parts, for a viewer
        at `place` (3,).
        """
        distance = np.array([max(float(np.linalg.norm(p.centre - place)) - p.radius, 0.0) for p in self.parts])
        counts = np.array([[len(level) for level in part.levels] for part in self.parts]).reshape(-1, LEVELS)
        for angle in ANGLES:
            chosen = np.clip(np.ceil(np.log2(np.maximum(distance * angle / self.voxel, 1e-9))), 0, LEVELS - 1)
            chosen = chosen.astype(np.int64)
            if counts[np.arange(len(counts)), chosen].sum() <= most:
                break
        parts = [part.levels[k] for part, k in zip(self.parts, chosen)]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def build_pyramid(cloud: PointCloud) -> VoxelPyramid:
    """The pyramid of a cloud; its finest voxels hold about one point each, so that hardly any is lost."""
    count = len(cloud)
    if count == 0:
        return VoxelPyramid(cloud, 1.0, ())
    low, high = np.percentile(cloud.points, [1, 99], axis=0)  # outliers would make the voxels large
    size = float((high - low).max()) or 1.0
    voxel = size / max(2.0, 4.0 * count**0.5)
    places = np.clip(np.floor((cloud.points - low) / voxel), -(2**20), 2**20 - 1).astype(np.int64) + 2**20
    which = np.clip(np.floor((cloud.points - low) / size * PARTS), -1, PARTS).astype(np.int64) + 1
    part = (which[:, 0] * (PARTS + 2) + which[:, 1]) * (PARTS + 2) + which[:, 2]
    kept = np.argsort(part, kind="stable")
    levels = []
    for _ in range(LEVELS):
        levels.append(kept)
        places >>= 1
        keys = (places[kept, 0] << 42) | (places[kept, 1] << 21) | places[kept, 2]
        order = np.lexsort((keys, part[kept]))  # stable: the first point of a voxel is kept
        sorted_keys, sorted_parts = keys[order], part[kept][order]
        new = np.r_[True, (np.diff(sorted_keys) != 0) | (np.diff(sorted_parts) != 0)]
        kept = kept[np.sort(order[new])]
    numbers = np.unique(part)
    edges = [
        (np.searchsorted(part[level], numbers), np.searchsorted(part[level], numbers, "right")) for level in levels
    ]
    parts = []
    for k in range(len(numbers)):
        mine = tuple(level[begin[k] : end[k]] for level, (begin, end) in zip(levels, edges))
        points = cloud.points[mine[0]]
        centre = (points.min(axis=0) + points.max(axis=0)) / 2
        parts.append(Part(centre, float(np.linalg.norm(points - centre, axis=1).max()), mine))
    return VoxelPyramid(cloud, voxel, tuple(parts))
