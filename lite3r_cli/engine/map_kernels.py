"""Triton kernels over pixels: the operations of the dense head between two convolutions, and image patches.

Functions have the same names and arguments as in `twins.py`, whose docstrings say what each computes. Maps (B, C, H, W)
are channels last in memory: a program owns a few pixels with all their channels. Arithmetic is float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ENTRIES = 2048  # pixels times channels per program: two vectors of sixteen bytes per thread
ROWS = 4  # output rows per program: column weights and embedding stay in registers


def _last(x: Tensor) -> Tensor:
    """(B, C, H, W) → contiguous (B, H, W, C); no copy if channels are last already."""
    return x.permute(0, 2, 3, 1).contiguous()


def _tile(channels: int, entries: int = ENTRIES) -> dict[str, int]:
    padded = triton.next_power_of_2(channels)
    return dict(C=channels, CP=padded, PIXELS=max(1, entries // padded))


@triton.jit
def _between(i, scale, count):
    """Linear interpolation of output i among `count` inputs, corners aligned: the two inputs, and the weight of the
    second.
    """
    at = i.to(tl.float32) * scale
    first = tl.minimum(at.to(tl.int32), count - 1)
    return first, tl.minimum(first + 1, count - 1), at - first.to(tl.float32)


@triton.jit
def _resize(
    x, across, down, y, bias, skip, out, active, height, width, rows, columns, scale_y, scale_x,
    C: tl.constexpr, CP: tl.constexpr, PIXELS: tl.constexpr, ROWS: tl.constexpr,
    POSITION: tl.constexpr, ADD: tl.constexpr, BOTH: tl.constexpr,
):  # fmt: skip
    column, view = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS), tl.program_id(2).to(tl.int64)
    channel = tl.arange(0, CP)[None, :]
    known = (column < columns)[:, None] & (channel < C)
    left, right, share = _between(column, scale_x, width)
    at_left, at_right, share = left[:, None] * C + channel, right[:, None] * C + channel, share[:, None]
    here = column[:, None] * C + channel
    half: tl.constexpr = C // 2
    if POSITION:
        first = known & (channel < half)
        shift = tl.load(across + column[:, None] * half + channel, mask=first, other=0.0)
    if ADD:
        shift = tl.load(bias + channel, mask=channel < C, other=0.0).to(tl.float32)
    start = tl.program_id(1) * ROWS
    for i in range(tl.minimum(ROWS, rows - start)):
        row = start + i
        above, below, weight = _between(row, scale_y, height)
        upper, lower = x + (view * height + above) * width * C, x + (view * height + below) * width * C
        a = tl.load(upper + at_left, mask=known, other=0.0).to(tl.float32)
        b = tl.load(upper + at_right, mask=known, other=0.0).to(tl.float32)
        c = tl.load(lower + at_left, mask=known, other=0.0).to(tl.float32)
        d = tl.load(lower + at_right, mask=known, other=0.0).to(tl.float32)
        total = (
            (1 - weight) * (1 - share) * a + (1 - weight) * share * b + weight * (1 - share) * c + weight * share * d
        )
        to = (view * rows + row) * columns * C
        if POSITION:
            # broadcast, so that every pixel loads its own row: one shared row would go through shared memory, and
            # warps would wait for it
            at = tl.broadcast_to(down + row * half + channel - half, [PIXELS, CP])
            total += shift + tl.load(at, mask=known & (channel >= half), other=0.0)
        if ADD:
            total += shift + tl.load(y + to + here, mask=known, other=0.0).to(tl.float32)
            total += tl.load(skip + to + here, mask=known, other=0.0).to(tl.float32)
            tl.store(active + to + here, tl.maximum(total, 0.0).to(active.dtype.element_ty), mask=known)
        if BOTH or not ADD:
            tl.store(out + to + here, total.to(out.dtype.element_ty), mask=known)


def _launch(x: Tensor, out: Tensor, active: Tensor, *, position=None, y=None, bias=None, skip=None, both=False) -> None:
    """x, out, active: (B, H, W, C)."""
    views, height, width, channels = x.shape
    rows, columns = out.shape[1:3]
    tile = _tile(channels)
    across, down = position or (x, x)
    scales = ((before - 1) / max(after - 1, 1) for before, after in ((height, rows), (width, columns)))
    _resize[(triton.cdiv(columns, tile["PIXELS"]), triton.cdiv(rows, ROWS), views)](
        x, across, down, *(x if t is None else t for t in (y, bias, skip)), out, active,
        height, width, rows, columns, *scales, **tile, ROWS=ROWS,
        POSITION=position is not None, ADD=y is not None, BOTH=both, num_warps=4,
    )  # fmt: skip


def resize_map(x: Tensor, size: tuple[int, int], position: tuple[Tensor, Tensor] | None = None) -> Tensor:
    x = _last(x)
    out = x.new_empty(len(x), *size, x.shape[-1])
    _launch(x, out, out, position=position)
    return out.permute(0, 3, 1, 2)


def resize_add(x: Tensor, y: Tensor, bias: Tensor, skip: Tensor, both: bool) -> tuple[Tensor | None, Tensor]:
    x, y, skip = _last(x), _last(y), _last(skip)
    active = torch.empty_like(y) if both else y
    _launch(x, y, active, y=y, bias=bias, skip=skip, both=both)
    return y.permute(0, 3, 1, 2) if both else None, active.permute(0, 3, 1, 2)


@triton.jit
def _bias_relu(x, bias, pixels, C: tl.constexpr, CP: tl.constexpr, PIXELS: tl.constexpr):
    first = tl.program_id(0).to(tl.int64) * PIXELS
    pixel, channel = tl.arange(0, PIXELS)[:, None], tl.arange(0, CP)[None, :]
    known = (pixel < pixels - first) & (channel < C)
    at = x + first * C + (pixel * C + channel)
    wide = tl.load(at, mask=known, other=0.0).to(tl.float32)
    wide += tl.load(bias + channel, mask=channel < C, other=0.0).to(tl.float32)
    tl.store(at, tl.maximum(wide, 0.0).to(x.dtype.element_ty), mask=known)


def bias_relu(x: Tensor, bias: Tensor) -> Tensor:
    x = _last(x)
    pixels, tile = x.numel() // x.shape[-1], _tile(x.shape[-1], 2 * ENTRIES)
    _bias_relu[(triton.cdiv(pixels, tile["PIXELS"]),)](x, bias, pixels, **tile, num_warps=4)
    return x.permute(0, 3, 1, 2)


@triton.jit
def _depth_values(
    x, bias, weight, last_bias, depth, confidence, pixels, C: tl.constexpr, CP: tl.constexpr, PIXELS: tl.constexpr
):
    first = tl.program_id(0).to(tl.int64) * PIXELS
    pixel, channel = tl.arange(0, PIXELS), tl.arange(0, CP)
    known, inside = pixel < pixels - first, channel < C
    at = x + first * C + (pixel[:, None] * C + channel[None, :])
    hidden = tl.load(at, mask=known[:, None] & inside[None, :], other=0.0).to(tl.float32)
    hidden = tl.maximum(hidden + tl.load(bias + channel, mask=inside, other=0.0)[None, :], 0.0)
    raw = tl.sum(hidden * tl.load(weight + channel, mask=inside, other=0.0)[None, :], 1) + tl.load(last_bias)
    tl.store(depth + first + pixel, tl.exp(raw), mask=known)
    raw = tl.sum(hidden * tl.load(weight + C + channel, mask=inside, other=0.0)[None, :], 1) + tl.load(last_bias + 1)
    tl.store(confidence + first + pixel, tl.exp(raw) + 1.0, mask=known)


def depth_values(x: Tensor, bias: Tensor, weight: Tensor, last_bias: Tensor, depth: Tensor, confidence: Tensor) -> None:
    x = _last(x)
    tile = _tile(x.shape[-1])
    _depth_values[(triton.cdiv(depth.numel(), tile["PIXELS"]),)](
        x, bias, weight, last_bias, depth, confidence, depth.numel(), **tile, num_warps=4
    )


@triton.jit
def _patch_rows(
    images, mean, std, out, height, width, columns, SIDE: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr
):
    patch, view, entry = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.arange(0, BLOCK)
    colour, row, column = entry // (SIDE * SIDE), entry // SIDE % SIDE, entry % SIDE
    inside = colour < 3
    at = (colour * height + patch // columns * SIDE + row) * width + patch % columns * SIDE + column
    pixel = tl.load(images + view * 3 * height * width + at, mask=inside, other=0.0).to(tl.float32)
    pixel = (pixel - tl.load(mean + colour, mask=inside, other=0.0)) / tl.load(std + colour, mask=inside, other=1.0)
    to = out + (view * tl.num_programs(0) + patch) * WIDTH + entry
    tl.store(to, pixel.to(out.dtype.element_ty), mask=entry < WIDTH)


def patch_rows(images: Tensor, mean: Tensor, std: Tensor, side: int, width: int, dtype: torch.dtype) -> Tensor:
    views, _, height, across = images.shape
    rows, columns = height // side, across // side
    out = images.new_empty(views, rows * columns, width, dtype=dtype)
    _patch_rows[(rows * columns, views)](
        images.contiguous(), mean, std, out, height, across, columns,
        SIDE=side, WIDTH=width, BLOCK=triton.next_power_of_2(width), num_warps=4,
    )  # fmt: skip
    return out
