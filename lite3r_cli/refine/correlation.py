"""Similarity of windows around a pixel in several pictures: normalised cross-correlation along surfaces."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .warp import Picture, Projection, inside, sample

_NOISE = 5e-6  # variance of grey values (0..1) below which a window counts as blank: that of 8-bit rounding
_WITNESSES = 3  # number of best neighbours that count
_HIDDEN = 0.7  # a neighbour counts if its score is at least this share of the best: otherwise the point may be occluded
_AT_ONCE = 8  # hypotheses per batch
_CACHED = 100_000  # pixels of a batch that stay in the cache of a core


class Correlation:
    """Scores inverse-depth maps of a picture against its neighbours on windows of 2 · half + 1 pixels a side.

    Each pixel of a window is warped with its own inverse depth, so windows follow the surface.
    """

    def __init__(self, picture: Picture, neighbours: Sequence[Picture], half: int) -> None:
        self.picture, self.neighbours, self.half = picture, neighbours, half
        self.projections = [Projection(picture, other) for other in neighbours]
        grey = picture.grey[None]
        self.mean = window_mean(grey, half)
        variance = (window_mean(grey * grey, half) - self.mean * self.mean).clamp_min_(0)
        self.contrast = torch.rsqrt(variance + _NOISE)
        self.at_once = _AT_ONCE if grey.is_cuda else min(_AT_ONCE, max(1, _CACHED // grey.numel()))

    def volume(self, inverse: Tensor) -> Tensor:
        """Scores (D, h, w) in 0..1 of inverse depths (D, h, w), or (D,) for planes that face the camera."""
        if inverse.dim() == 1:
            inverse = inverse[:, None, None].expand(-1, *self.picture.grey.shape)
        return torch.cat([self.score(part) for part in inverse.split(self.at_once)])

    def score(self, inverse: Tensor) -> Tensor:
        """Scores (B, h, w) of inverse depths (B, h, w): a mean over the best neighbours, 0 if no neighbour sees the
        point.
        """
        found = [self._pair(inverse, other, to) for other, to in zip(self.neighbours, self.projections, strict=True)]
        best = _largest(found, _WITNESSES)
        floor = _HIDDEN * best[0]
        return sum((torch.maximum(other, floor) for other in best[1:]), best[0]) / len(best)

    def _pair(self, inverse: Tensor, other: Picture, to: Projection) -> Tensor:
        """The correlation (B, h, w) with one neighbour, 0 where it is negative or unseen."""
        x, y, _ = to(inverse)
        seen = inside(other, x, y)
        there = sample(other.grey, x, y)
        mean = window_mean(there, self.half)
        variance = window_mean(there * there, self.half).addcmul_(mean, mean, value=-1).clamp_min_(0)
        product = window_mean(there.mul_(self.picture.grey), self.half).addcmul_(mean, self.mean, value=-1)
        value = product.mul_(self.contrast).mul_(variance.add_(_NOISE).rsqrt_()).clamp_(0, 1)
        if self.picture.scene is not None:
            value *= self.picture.scene
        return value.mul_(seen)


def window_mean(values: Tensor, half: int) -> Tensor:
    """Means (B, h, w) over windows of 2 · half + 1 pixels a side; the border is repeated outwards."""
    side = 2 * half + 1
    padded = F.pad(values[:, None], (half,) * 4, mode="replicate")[:, 0]
    return _sums(_sums(padded, 1, side), 2, side).mul_(1 / side**2)


def _sums(values: Tensor, dim: int, side: int) -> Tensor:
    """Sums of `side` neighbours along a dimension, which is shorter by side − 1 afterwards. Sums of 1, 2, 4 … of them
    are added, according to the binary digits of `side`, which is odd.
    """
    left = values.shape[dim] - side + 1
    total, runs, length = values.narrow(dim, 0, left), values, 1
    while 2 * length < side:
        size = runs.shape[dim] - length
        runs = runs.narrow(dim, 0, size) + runs.narrow(dim, length, size)
        length *= 2
        if side & length:
            total = total + runs.narrow(dim, side & (length - 1), left)
    return total


def _largest(values: Sequence[Tensor], count: int) -> list[Tensor]:
    """The `count` largest values of the tensors, elementwise, in descending order; several times faster than topk."""
    values = list(values)
    count = min(count, len(values))
    for place in range(count):
        for i in range(len(values) - 1, place, -1):
            values[i - 1], values[i] = torch.maximum(values[i - 1], values[i]), torch.minimum(values[i - 1], values[i])
    return values[:count]
