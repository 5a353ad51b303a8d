"""Triton kernels of a head with stages of convolutions: sums for group norm, norm with ReLU and padding, doubled maps.

Functions have the same names and arguments as in `twins.py`, whose docstrings say what each computes. Maps (B, C, H, W)
are channels last in memory: a program owns a few pixels with all their channels. Arithmetic is float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lite3r_cli.engine.map_kernels import ROWS, _last, _tile

STEPS = 8  # tiles of pixels that a program adds up


@triton.jit
def _sums(
    x, y, bias, out, pixels, C: tl.constexpr, CP: tl.constexpr, PIXELS: tl.constexpr, STEPS: tl.constexpr,
    ADD: tl.constexpr,
):  # fmt: skip
    part, view, channel = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.arange(0, CP)
    inside = channel < C
    shift = tl.load(bias + channel, mask=inside, other=0.0)[None, :]
    first, second = tl.zeros([PIXELS, CP], tl.float32), tl.zeros([PIXELS, CP], tl.float32)
    for i in range(STEPS):
        pixel = (part * STEPS + i) * PIXELS + tl.arange(0, PIXELS)
        known = (pixel < pixels)[:, None] & inside[None, :]
        at = (view * pixels + pixel)[:, None] * C + channel[None, :]
        value = tl.load(x + at, mask=known, other=0.0).to(tl.float32)
        if ADD:
            value += tl.load(y + at, mask=known, other=0.0).to(tl.float32)
            rounded = value.to(x.dtype.element_ty)
            tl.store(x + at, rounded, mask=known)
            value = rounded.to(tl.float32)
        value = tl.where(known, value + shift, 0.0)
        first += value
        second += value * value
    to = out + (view * tl.num_programs(0) + part) * 2 * C + channel
    tl.store(to, tl.sum(first, 0), mask=inside)
    tl.store(to + C, tl.sum(second, 0), mask=inside)


def add_sums(x: Tensor, y: Tensor | None, bias: Tensor) -> Tensor:
    rows = x.permute(0, 2, 3, 1)
    if not rows.is_contiguous():
        raise ValueError("add_sums works in place: its map must be channels last")
    views, height, width, channels = rows.shape
    tile = _tile(channels)
    parts = triton.cdiv(height * width, tile["PIXELS"] * STEPS)
    out = x.new_empty(views, parts, 2, channels, dtype=torch.float32)
    other = rows if y is None else _last(y)
    _sums[(parts, views)](rows, other, bias, out, height * width, **tile, STEPS=STEPS, ADD=y is not None, num_warps=4)
    return out.sum(1)


@triton.jit
def _norm_relu_pad(
    x, scale, shift, out, height, width, C: tl.constexpr, CP: tl.constexpr, PIXELS: tl.constexpr, ROWS: tl.constexpr,
    NORM: tl.constexpr,
):  # fmt: skip
    column, view = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS), tl.program_id(2).to(tl.int64)
    channel = tl.arange(0, CP)[None, :]
    known = (column < width + 2)[:, None] & (channel < C)
    source = tl.minimum(tl.maximum(column - 1, 0), width - 1)[:, None] * C + channel
    here = column[:, None] * C + channel
    if NORM:
        factor = tl.load(scale + view * C + channel, mask=channel < C, other=0.0)
        offset = tl.load(shift + view * C + channel, mask=channel < C, other=0.0)
    start = tl.program_id(1) * ROWS
    for i in range(tl.minimum(ROWS, height + 2 - start)):
        row = start + i
        inner = tl.minimum(tl.maximum(row - 1, 0), height - 1)
        value = tl.load(x + (view * height + inner) * width * C + source, mask=known, other=0.0).to(tl.float32)
        if NORM:
            value = tl.maximum(value * factor + offset, 0.0)
        to = out + (view * (height + 2) + row) * (width + 2) * C
        tl.store(to + here, value.to(out.dtype.element_ty), mask=known)


def norm_relu_pad(x: Tensor, affine: tuple[Tensor, Tensor] | None) -> Tensor:
    x = _last(x)
    views, height, width, channels = x.shape
    tile = _tile(channels)
    out = x.new_empty(views, height + 2, width + 2, channels)
    scale, shift = (x, x) if affine is None else (t.contiguous() for t in affine)
    _norm_relu_pad[(triton.cdiv(width + 2, tile["PIXELS"]), triton.cdiv(height + 2, ROWS), views)](
        x, scale, shift, out, height, width, **tile, ROWS=ROWS, NORM=affine is not None, num_warps=4
    )
    return out.permute(0, 3, 1, 2)


@triton.jit
def _double_pad(
    cells, table, out, height, width, span_x, span_y,
    C: tl.constexpr, CP: tl.constexpr, PIXELS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    column, view = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS), tl.program_id(2).to(tl.int64)
    channel = tl.arange(0, CP)[None, :]
    known = (column < 2 * width + 2)[:, None] & (channel < C)
    inner = tl.minimum(tl.maximum(column - 1, 0), 2 * width - 1)
    u = (span_x * (2 * (inner // 2) - width + 1) / width)[:, None]
    here, half = column[:, None] * C + channel, (inner % 2)[:, None] * C + channel
    source = (inner // 2)[:, None] * (4 * C) + half
    start = tl.program_id(1) * ROWS
    for i in range(tl.minimum(ROWS, 2 * height + 2 - start)):
        row = start + i
        inside = tl.minimum(tl.maximum(row - 1, 0), 2 * height - 1)
        v = span_y * (2 * (inside // 2) - height + 1) / height
        part = (inside % 2) * 2 * C + half
        value = tl.load(
            cells + (view * height + inside // 2) * width * 4 * C + (inside % 2) * 2 * C + source, mask=known, other=0.0
        ).to(tl.float32)
        value += u * tl.load(table + part, mask=known, other=0.0)
        value += v * tl.load(table + 4 * C + part, mask=known, other=0.0)
        value += tl.load(table + 8 * C + part, mask=known, other=0.0)
        to = out + (view * (2 * height + 2) + row) * (2 * width + 2) * C
        tl.store(to + here, value.to(out.dtype.element_ty), mask=known)


def double_pad(cells: Tensor, table: Tensor, spans: tuple[float, float]) -> Tensor:
    views, height, width, parts = cells.shape
    channels = parts // 4
    tile = _tile(channels)
    out = cells.new_empty(views, 2 * height + 2, 2 * width + 2, channels)
    _double_pad[(triton.cdiv(2 * width + 2, tile["PIXELS"]), triton.cdiv(2 * height + 2, ROWS), views)](
        cells.contiguous(), table, out, height, width, *spans, **tile, ROWS=ROWS, num_warps=4
    )
    return out.permute(0, 3, 1, 2)
