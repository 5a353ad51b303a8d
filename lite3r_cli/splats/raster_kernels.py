"""The rasteriser's Triton kernels. A program draws one tile; the backward pass goes front to back again.

g is the gradient of a pixel, and D = Σ g c for an ellipse with values c. The sum over the ellipses behind ellipse i is
the total minus the sum up to i, so that no intermediate state is stored:

    dα = T D − (Σ_all w D − Σ_{≤ i} w D) / (1 − α),   dσ = −α dα,   do = exp(−σ) dα,   dc = w g

The other symbols are those of `rasteriser.py`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .rasteriser import LIMIT, OPAQUE, OUTPUTS, TILE, Bins
from .shapes import CHANNELS, FAINTEST

AT_ONCE = 32  # ellipses between two checks whether the tile is opaque
WARPS = 4  # of a program of `draw`; the sums of `draw_gradient` are cheapest within one warp


@triton.jit
def draw(
    rows, order, starts, out, width, height, across,
    TILE: tl.constexpr, CHANNELS: tl.constexpr, OUTPUTS: tl.constexpr, AT_ONCE: tl.constexpr,
    FAINTEST: tl.constexpr, LIMIT: tl.constexpr, OPAQUE: tl.constexpr,
):  # fmt: skip
    """Draw the ellipses `rows` into `out` (height, width, OUTPUTS); one program per tile."""
    tile = tl.program_id(0)
    offs = tl.arange(0, TILE * TILE)
    column, line = (tile % across) * TILE + offs % TILE, (tile // across) * TILE + offs // TILE
    inside = (column < width) & (line < height)
    x, y = column.to(tl.float32) + 0.5, line.to(tl.float32) + 0.5
    left_over = tl.where(inside, 1.0, 0.0)
    red, green, blue = tl.zeros_like(x), tl.zeros_like(x), tl.zeros_like(x)
    depth, cover = tl.zeros_like(x), tl.zeros_like(x)
    start, end = tl.load(starts + tile), tl.load(starts + tile + 1)
    while start < end:
        stop = tl.minimum(start + AT_ONCE, end)
        for k in range(start, stop):
            row = rows + tl.load(order + k) * CHANNELS
            dx, dy = tl.load(row) - x, tl.load(row + 1) - y
            a, b, c = tl.load(row + 2), tl.load(row + 3), tl.load(row + 4)
            alpha = tl.load(row + 5) * tl.exp(-(0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy))
            alpha = tl.where((alpha >= FAINTEST) & (left_over > OPAQUE), tl.minimum(alpha, LIMIT), 0.0)
            weight = alpha * left_over
            red += weight * tl.load(row + 6)
            green += weight * tl.load(row + 7)
            blue += weight * tl.load(row + 8)
            depth += weight * tl.load(row + 9)
            cover += weight
            left_over *= 1 - alpha
        start = tl.where(tl.max(left_over, 0) > OPAQUE, stop, end)
    out += (line * width + column) * OUTPUTS
    tl.store(out, red, inside)
    tl.store(out + 1, green, inside)
    tl.store(out + 2, blue, inside)
    tl.store(out + 3, depth, inside)
    tl.store(out + 4, cover, inside)


@triton.jit
def draw_gradient(
    rows, order, starts, out, gradient, result, width, height, across,
    TILE: tl.constexpr, CHANNELS: tl.constexpr, OUTPUTS: tl.constexpr, AT_ONCE: tl.constexpr,
    FAINTEST: tl.constexpr, LIMIT: tl.constexpr, OPAQUE: tl.constexpr,
):  # fmt: skip
    """Add the gradient of `rows` to `result` (N, CHANNELS), zero before, from `gradient`, that of `out`."""
    tile = tl.program_id(0)
    offs = tl.arange(0, TILE * TILE)
    column, line = (tile % across) * TILE + offs % TILE, (tile // across) * TILE + offs // TILE
    inside = (column < width) & (line < height)
    x, y = column.to(tl.float32) + 0.5, line.to(tl.float32) + 0.5
    left_over = tl.where(inside, 1.0, 0.0)
    pixel = (line * width + column) * OUTPUTS
    g_red = tl.load(gradient + pixel, inside, 0.0)
    g_green = tl.load(gradient + pixel + 1, inside, 0.0)
    g_blue = tl.load(gradient + pixel + 2, inside, 0.0)
    g_depth = tl.load(gradient + pixel + 3, inside, 0.0)
    g_cover = tl.load(gradient + pixel + 4, inside, 0.0)
    behind = g_red * tl.load(out + pixel, inside, 0.0) + g_green * tl.load(out + pixel + 1, inside, 0.0)
    behind += g_blue * tl.load(out + pixel + 2, inside, 0.0) + g_depth * tl.load(out + pixel + 3, inside, 0.0)
    behind += g_cover * tl.load(out + pixel + 4, inside, 0.0)
    start, end = tl.load(starts + tile), tl.load(starts + tile + 1)
    while start < end:
        stop = tl.minimum(start + AT_ONCE, end)
        for k in range(start, stop):
            which = tl.load(order + k) * CHANNELS
            row, to = rows + which, result + which
            dx, dy = tl.load(row) - x, tl.load(row + 1) - y
            a, b, c = tl.load(row + 2), tl.load(row + 3), tl.load(row + 4)
            falloff = tl.exp(-(0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy))
            full = tl.load(row + 5) * falloff
            drawn = (full >= FAINTEST) & (left_over > OPAQUE)
            alpha = tl.where(drawn, tl.minimum(full, LIMIT), 0.0)
            weight = alpha * left_over
            if tl.max(weight, 0) > 0:
                value = g_red * tl.load(row + 6) + g_green * tl.load(row + 7) + g_blue * tl.load(row + 8)
                value += g_depth * tl.load(row + 9) + g_cover
                behind -= weight * value
                d_alpha = left_over * value - behind / (1 - alpha)
                d_alpha = tl.where(drawn & (full <= LIMIT), d_alpha, 0.0)
                d_sigma = -alpha * d_alpha
                tl.atomic_add(to, tl.sum(d_sigma * (a * dx + b * dy), 0), sem="relaxed")
                tl.atomic_add(to + 1, tl.sum(d_sigma * (c * dy + b * dx), 0), sem="relaxed")
                tl.atomic_add(to + 2, tl.sum(0.5 * d_sigma * dx * dx, 0), sem="relaxed")
                tl.atomic_add(to + 3, tl.sum(d_sigma * dx * dy, 0), sem="relaxed")
                tl.atomic_add(to + 4, tl.sum(0.5 * d_sigma * dy * dy, 0), sem="relaxed")
                tl.atomic_add(to + 5, tl.sum(falloff * d_alpha, 0), sem="relaxed")
                tl.atomic_add(to + 6, tl.sum(weight * g_red, 0), sem="relaxed")
                tl.atomic_add(to + 7, tl.sum(weight * g_green, 0), sem="relaxed")
                tl.atomic_add(to + 8, tl.sum(weight * g_blue, 0), sem="relaxed")
                tl.atomic_add(to + 9, tl.sum(weight * g_depth, 0), sem="relaxed")
            left_over *= 1 - alpha
        start = tl.where(tl.max(left_over, 0) > OPAQUE, stop, end)


SIZES = dict(
    TILE=TILE, CHANNELS=CHANNELS, OUTPUTS=OUTPUTS, AT_ONCE=AT_ONCE, FAINTEST=FAINTEST, LIMIT=LIMIT, OPAQUE=OPAQUE
)


class Rasterised(torch.autograd.Function):
    """`rasteriser.rasterise_torch`, with the same arguments, on a GPU."""

    @staticmethod
    def forward(ctx, rows: torch.Tensor, bins: Bins, width: int, height: int) -> torch.Tensor:
        rows = rows.contiguous()
        out = rows.new_empty(height, width, OUTPUTS)
        sizes = width, height, bins.across
        draw[(len(bins.starts) - 1,)](rows, bins.order, bins.starts, out, *sizes, **SIZES, num_warps=WARPS)
        ctx.save_for_backward(rows, bins.order, bins.starts, out)
        ctx.sizes = sizes
        return out

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        rows, order, starts, out = ctx.saved_tensors
        result = torch.zeros_like(rows)
        draw_gradient[(len(starts) - 1,)](
            rows, order, starts, out, gradient.contiguous(), result, *ctx.sizes, **SIZES, num_warps=1
        )
        return result, None, None, None
