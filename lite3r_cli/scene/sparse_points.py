"""Sparse points with their observations: the result of bundle adjustment, and the content of COLMAP's files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .geometry import Similarity


@dataclass(frozen=True)
class SparseModel:
    """N points of S views; observation o says that view `image[o]` saw point `point[o]` at `pixel[o]`."""

    points: np.ndarray  # (N, 3) float64, world
    colors: np.ndarray  # (N, 3) uint8, RGB
    errors: np.ndarray  # (N,) float64, mean reprojection error, pixels
    image: np.ndarray  # (O,) int64, index of the view, ascending
    point: np.ndarray  # (O,) int64, index of the point
    pixel: np.ndarray  # (O, 2) float64 in the original image, pixel centres at +0.5
    confidence: np.ndarray | None = None  # (N,) float32, larger is better, where the points come from a cloud

    def __len__(self) -> int:
        return len(self.points)

    def of_view(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """The points (M,) that view i sees, and their pixels (M, 2)."""
        mine = self.image == i
        return self.point[mine], self.pixel[mine]

    def only(self, kept: Sequence[int]) -> SparseModel:
        """The observations of the views `kept`, renumbered, without points that none of them saw."""
        number = np.full(max(int(self.image.max(initial=-1)), *kept, 0) + 1, -1)
        number[list(kept)] = np.arange(len(kept))
        mine = number[self.image] >= 0
        image, point, pixel = number[self.image[mine]], self.point[mine], self.pixel[mine]
        order = np.argsort(image, kind="stable")
        seen = np.unique(point)
        place = np.zeros(len(self), np.int64)
        place[seen] = np.arange(len(seen))
        confidence = None if self.confidence is None else self.confidence[seen]
        parts = self.points[seen], self.colors[seen], self.errors[seen]
        return SparseModel(*parts, image[order], place[point[order]], pixel[order], confidence)

    def moved(self, similarity: Similarity) -> SparseModel:
        """The model in another world frame."""
        return replace(self, points=similarity.apply(self.points))
