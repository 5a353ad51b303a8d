"""Sparse points with what the images saw of them: the answer of bundle adjustment, and what COLMAP's files hold."""

from __future__ import annotations

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

    def __len__(self) -> int:
        return len(self.points)

    def of_view(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """The points (M,) that view i sees, and where (M, 2)."""
        mine = self.image == i
        return self.point[mine], self.pixel[mine]

    def moved(self, similarity: Similarity) -> SparseModel:
        """The same in another world frame."""
        return replace(self, points=similarity.apply(self.points))
