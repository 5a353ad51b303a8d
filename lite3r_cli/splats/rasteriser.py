"""Rasterise ellipses to an image, front to back and differentiable: with Triton on a GPU, else in plain torch.

    pixel = Σ w c,   w = α T,   T = Π over ellipses in front of (1 − α),   α = min(o exp(−σ), LIMIT)

o is the opacity, c the values of an ellipse, and σ half the squared distance to its centre in standard deviations.
Ellipses with α < FAINTEST are skipped, and nothing is added once T ≤ OPAQUE.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .shapes import FAINTEST

TILE = 16  # side in pixels; all pixels of a tile share one sorted list of ellipses
LIMIT = 0.99  # upper limit of α, because the backward pass divides by 1 − α
OPAQUE = 1e-4  # transmittance at which a pixel counts as opaque
OUTPUTS = 5  # red, green, blue, Σ w depth, Σ w


@dataclass(frozen=True)
class Bins:
    """Which ellipses each tile draws: `order[starts[t] : starts[t + 1]]`, nearest first."""

    order: torch.Tensor  # (P,) int32
    starts: torch.Tensor  # (tiles + 1,) int32
    across: int  # tiles in a row


@torch.no_grad()
def bin_ellipses(boxes: torch.Tensor, depth: torch.Tensor, width: int, height: int) -> Bins:
    """The bins of ellipses with boxes (N, 4), x0 y0 x1 y1 in pixels, and depth (N,)."""
    across, down = -(-width // TILE), -(-height // TILE)
    low = (boxes[:, :2] / TILE).floor().long().clamp(min=0)
    high = (boxes[:, 2:] / TILE).floor().long() + 1
    high = torch.minimum(high, high.new_tensor([across, down]))
    size = (high - low).clamp(min=0)
    visible = (size[:, 0] * size[:, 1] > 0).nonzero()[:, 0]
    visible = visible[torch.argsort(depth[visible])]
    low, size = low[visible], size[visible]
    counts = size[:, 0] * size[:, 1]
    which = torch.repeat_interleave(torch.arange(len(visible), device=boxes.device), counts)
    within = torch.arange(len(which), device=boxes.device) - (counts.cumsum(0) - counts)[which]
    tile = (low[which, 1] + within // size[which, 0]) * across + low[which, 0] + within % size[which, 0]
    tile, place = torch.sort(tile.int(), stable=True)
    edges = torch.arange(across * down + 1, device=boxes.device, dtype=torch.int32)
    return Bins(visible[which[place]].int(), torch.searchsorted(tile, edges).int(), across)


def rasterise(rows: torch.Tensor, boxes: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """Draw ellipses `rows` (N, CHANNELS) with `boxes` (N, 4), see `shapes.ellipses`, → (height, width, OUTPUTS).
    Differentiable in `rows`.
    """
    bins = bin_ellipses(boxes, rows.detach()[:, 9], width, height)
    if rows.device.type == "cuda":
        from .raster_kernels import Rasterised

        return Rasterised.apply(rows, bins, width, height)
    return rasterise_torch(rows, bins, width, height)


def rasterise_torch(rows: torch.Tensor, bins: Bins, width: int, height: int) -> torch.Tensor:
    """`rasterise` in plain torch, tile by tile: the twin of the kernels, much slower."""
    lines = []
    for top in range(0, height, TILE):
        tiles = []
        for left in range(0, width, TILE):
            tile = top // TILE * bins.across + left // TILE
            mine = rows[bins.order[bins.starts[tile] : bins.starts[tile + 1]].long()]
            tiles.append(_tile(mine, left, top, min(TILE, width - left), min(TILE, height - top)))
        lines.append(torch.cat(tiles, 1))
    return torch.cat(lines, 0)


def _tile(mine: torch.Tensor, left: int, top: int, width: int, height: int) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    x, y = left + x.reshape(-1).to(mine) + 0.5, top + y.reshape(-1).to(mine) + 0.5  # (pixels,)
    dx, dy = mine[:, 0, None] - x, mine[:, 1, None] - y  # (ellipses, pixels)
    a, b, c, opacity = (mine[:, k, None] for k in range(2, 6))
    alpha = opacity * torch.exp(-(0.5 * (a * dx**2 + c * dy**2) + b * dx * dy))
    alpha = torch.where(alpha >= FAINTEST, alpha.clamp(max=LIMIT), torch.zeros_like(alpha))
    left_over = torch.cumprod(1 - alpha, 0)
    before = torch.cat([torch.ones_like(left_over[:1]), left_over[:-1]]) if len(mine) else left_over
    weight = torch.where(before > OPAQUE, alpha * before, torch.zeros_like(alpha))
    values = torch.cat([mine[:, 6:10], torch.ones_like(mine[:, :1])], 1)
    return (weight.T @ values).view(height, width, OUTPUTS)
