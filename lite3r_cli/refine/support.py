"""Comparison of the inverse-depth maps of several pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .warp import Picture, Projection, inside, sample

Maps = Mapping[int, Tensor]  # view -> inverse depth (h, w)


def votes(i: int, maps: Maps, pictures: Mapping[int, Picture], others: Sequence[int], tolerance: float) -> Tensor:
    """How many of the `others` (h, w) confirm the surface of view i to a relative `tolerance`."""
    count = torch.zeros_like(maps[i])
    for j in others:
        x, y, ratio = Projection(pictures[i], pictures[j])(maps[i])
        there = sample(maps[j], x, y, "nearest")
        difference = ratio * there / maps[i].clamp_min(1e-12) - 1
        count += inside(pictures[j], x, y) * (difference.abs() < tolerance)
    scene = pictures[i].scene
    return count if scene is None else count * scene


def seen_from(
    i: int, maps: Maps, trusted: Maps, pictures: Mapping[int, Picture], others: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Trusted points of the `others` that project into view i: row, column (M,) int64 and inverse depth (M,)."""
    height, width = pictures[i].grey.shape
    found = []
    for j in others:
        x, y, ratio = Projection(pictures[j], pictures[i])(maps[j])
        ok = (inside(pictures[i], x, y) > 0) & trusted[j]
        row, column = ((y[ok] + 1) * (height / 2)).long(), ((x[ok] + 1) * (width / 2)).long()
        found.append((row.clamp(0, height - 1), column.clamp(0, width - 1), maps[j][ok] / ratio[ok]))
    if not found:
        nothing = torch.zeros(0, dtype=torch.int64)
        return nothing, nothing, torch.zeros(0)
    rows, columns, inverse = zip(*found, strict=True)
    return torch.cat(rows), torch.cat(columns), torch.cat(inverse)
