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


class Correlation:
    """Scores inverse-depth maps of a picture against its neighbours on windows of 2 · half + 1 pixels a side.

    Each pixel of a window is warped with its own inverse depth, so windows follow the surface.
    """

    def __init__(self, picture: Picture, neighbours: Sequence[Picture], half: int) -> None:
        self.picture, self.neighbours, self.half = picture, neighbours, half
        self.projections = [Projection(picture, other) for other in neighbours]
        grey = picture.grey[None]
        self.mean = window_mean(grey, half)
        self.variance = (window_mean(grey * grey, half) - self.mean * self.mean).clamp_min_(0)

    def volume(self, inverse: Tensor) -> Tensor:
        """Scores (D, h, w) in 0..1 of inverse depths (D, h, w), or (D,) for planes that face the camera."""
        if inverse.dim() == 1:
            inverse = inverse[:, None, None].expand(-1, *self.picture.grey.shape)
        return torch.cat([self.score(part) for part in inverse.split(_AT_ONCE)])

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
        variance = (window_mean(there * there, self.half) - mean * mean).clamp_min_(0)
        product = window_mean(there * self.picture.grey, self.half) - mean * self.mean
        value = product * torch.rsqrt((self.variance + _NOISE) * (variance + _NOISE))
        if self.picture.scene is not None:
            value = value * self.picture.scene
        return torch.where(seen, value.clamp_(0, 1), 0.0)


def window_mean(values: Tensor, half: int) -> Tensor:
    """Means (B, h, w) over windows of 2 · half + 1 pixels a side; the border is repeated outwards."""
    height, width = values.shape[-2:]
    side = 2 * half + 1
    padded = F.pad(values[:, None], (half,) * 4, mode="replicate")[:, 0]
    rows = padded[:, :height].clone()
    for i in range(1, side):
        rows += padded[:, i : i + height]
    total = rows[:, :, :width].clone()
    for i in range(1, side):
        total += rows[:, :, i : i + width]
    return total.mul_(1 / side**2)


def _largest(values: Sequence[Tensor], count: int) -> list[Tensor]:
    """The `count` largest values of the tensors, elementwise, in descending order; several times faster than topk."""
    values = list(values)
    count = min(count, len(values))
    for place in range(count):
        for i in range(len(values) - 1, place, -1):
            values[i - 1], values[i] = torch.maximum(values[i - 1], values[i]), torch.minimum(values[i - 1], values[i])
    return values[:count]
