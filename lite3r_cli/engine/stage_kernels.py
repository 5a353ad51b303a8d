"""Triton kernels of a head with stages of convolutions: group norm with ReLU and padding, doubled maps, and its end.

Functions have the same names and arguments as in `twins.py`, whose docstrings say what each computes. Maps (B, C, H, W)
are channels last in memory: a program owns a few pixels with all their channels. Arithmetic is float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lite3r_cli.engine.map_kernels import ENTRIES, ROWS, _last, _tile

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
    return out


@triton.jit
def _group_affine(
    sums, weight, offset, bias, scale, shift, parts, values, eps,
    C: tl.constexpr, SIZE: tl.constexpr, SP: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    group, view = tl.program_id(0), tl.program_id(1).to(tl.int64)
    place = tl.arange(0, SP)
    inside, channel = place < SIZE, group * SIZE + place
    first, second = tl.zeros([PARTS, SP], tl.float32), tl.zeros([PARTS, SP], tl.float32)
    for start in range(0, parts, PARTS):
        part = start + tl.arange(0, PARTS)
        known = (part < parts)[:, None] & inside[None, :]
        at = sums + (view * parts + part)[:, None] * (2 * C) + channel[None, :]
        first += tl.load(at, mask=known, other=0.0)
        second += tl.load(at + C, mask=known, other=0.0)
    mean = tl.sum(tl.sum(first, 0), 0) / values
    square = tl.sum(tl.sum(second, 0), 0) / values
    factor = tl.load(weight + channel, mask=inside, other=0.0) / tl.sqrt(square - mean * mean + eps)
    moved = tl.load(offset + channel, mask=inside, other=0.0)
    moved += (tl.load(bias + channel, mask=inside, other=0.0) - mean) * factor
    tl.store(scale + view * C + channel, factor, mask=inside)
    tl.store(shift + view * C + channel, moved, mask=inside)


def group_affine(
    sums: Tensor, norm: tuple[Tensor, Tensor, float], bias: Tensor, groups: int, pixels: int
) -> tuple[Tensor, Tensor]:
    views, parts, _, channels = sums.shape
    size = channels // groups
    weight, offset, eps = norm
    scale, shift = (sums.new_empty(views, channels) for _ in range(2))
    padded = triton.next_power_of_2(size)
    _group_affine[(groups, views)](
        sums, weight, offset, bias, scale, shift, parts, float(size * pixels), eps,
        C=channels, SIZE=size, SP=padded, PARTS=max(1, ENTRIES // padded), num_warps=4,
    )  # fmt: skip
    return scale, shift


@triton.jit
def _norm_relu_pad(
    x, scale, shift, out, height, width, C: tl.constexpr, CP: tl.constexpr, PIXELS: tl.constexpr, ROWS: tl.constexpr
):
    column, view = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS), tl.program_id(2).to(tl.int64)
    channel = tl.arange(0, CP)[None, :]
    known = (column < width + 2)[:, None] & (channel < C)
    source = tl.minimum(tl.maximum(column - 1, 0), width - 1)[:, None] * C + channel
    here = column[:, None] * C + channel
    factor = tl.load(scale + view * C + channel, mask=channel < C, other=0.0)
    offset = tl.load(shift + view * C + channel, mask=channel < C, other=0.0)
    start = tl.program_id(1) * ROWS
    for i in range(tl.minimum(ROWS, height + 2 - start)):
        row = start + i
        inner = tl.minimum(tl.maximum(row - 1, 0), height - 1)
        value = tl.load(x + (view * height + inner) * width * C + source, mask=known, other=0.0).to(tl.float32)
        value = tl.maximum(value * factor + offset, 0.0)
        to = out + (view * (height + 2) + row) * (width + 2) * C
        tl.store(to + here, value.to(out.dtype.element_ty), mask=known)


def norm_relu_pad(x: Tensor, affine: tuple[Tensor, Tensor]) -> Tensor:
    x = _last(x)
    views, height, width, channels = x.shape
    tile = _tile(channels)
    out = x.new_empty(views, height + 2, width + 2, channels)
    _norm_relu_pad[(triton.cdiv(width + 2, tile["PIXELS"]), triton.cdiv(height + 2, ROWS), views)](
        x, *(t.contiguous() for t in affine), out, height, width, **tile, ROWS=ROWS, num_warps=4
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


@triton.jit
def _source(i, count, out):
    """Linear interpolation of output i of `out`, outside the map those of its border, among `count` inputs, corners not
    aligned: the two inputs, and the weight of the second.
    """
    inner = tl.minimum(tl.maximum(i, 0), out - 1).to(tl.float32)
    at = tl.maximum((inner + 0.5) * (count / out) - 0.5, 0.0)
    first = tl.minimum(at.to(tl.int32), count - 1)
    return first, tl.minimum(first + 1, count - 1), at - first.to(tl.float32)


@triton.jit
def _enlarge_pad(
    x, out, height, width, rows, columns,
    C: tl.constexpr, CP: tl.constexpr, PIXELS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    column, view = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS), tl.program_id(2).to(tl.int64)
    channel = tl.arange(0, CP)[None, :]
    known = (column < columns + 2)[:, None] & (channel < C)
    left, right, share = _source(column - 1, width, columns)
    at_left, at_right, share = left[:, None] * C + channel, right[:, None] * C + channel, share[:, None]
    here = column[:, None] * C + channel
    start = tl.program_id(1) * ROWS
    for i in range(tl.minimum(ROWS, rows + 2 - start)):
        row = start + i
        above, below, weight = _source(row - 1, height, rows)
        upper, lower = x + (view * height + above) * width * C, x + (view * height + below) * width * C
        a = tl.load(upper + at_left, mask=known, other=0.0).to(tl.float32)
        b = tl.load(upper + at_right, mask=known, other=0.0).to(tl.float32)
        c = tl.load(lower + at_left, mask=known, other=0.0).to(tl.float32)
        d = tl.load(lower + at_right, mask=known, other=0.0).to(tl.float32)
        total = (1 - weight) * ((1 - share) * a + share * b) + weight * ((1 - share) * c + share * d)
        to = out + (view * (rows + 2) + row) * (columns + 2) * C
        tl.store(to + here, total.to(out.dtype.element_ty), mask=known)


def enlarge_pad(x: Tensor, size: tuple[int, int]) -> Tensor:
    x = _last(x)
    views, height, width, channels = x.shape
    rows, columns = size
    tile = _tile(channels)
    out = x.new_empty(views, rows + 2, columns + 2, channels)
    _enlarge_pad[(triton.cdiv(columns + 2, tile["PIXELS"]), triton.cdiv(rows + 2, ROWS), views)](
        x, out, height, width, rows, columns, **tile, ROWS=ROWS, num_warps=4
    )
    return out.permute(0, 3, 1, 2)


@triton.jit
def _pixel_values(
    x, across, down, weight, bias, out, rows, columns,
    C: tl.constexpr, CP: tl.constexpr, PIXELS: tl.constexpr, ROWS: tl.constexpr, VALUES: tl.constexpr,
):  # fmt: skip
    column, view = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS), tl.program_id(2).to(tl.int64)
    channel = tl.arange(0, CP)[None, :]
    inside = column < columns
    known = inside[:, None] & (channel < C)
    here = column[:, None] * C + channel
    by_column = tl.load(across + here, mask=known, other=0.0)
    start = tl.program_id(1) * ROWS
    for i in range(tl.minimum(ROWS, rows - start)):
        row = start + i
        hidden = tl.load(x + (view * rows + row) * columns * C + here, mask=known, other=0.0).to(tl.float32)
        hidden += by_column + tl.load(tl.broadcast_to(down + row * C + channel, [PIXELS, CP]), mask=known, other=0.0)
        hidden = tl.maximum(hidden, 0.0)
        for j in tl.static_range(VALUES):
            factors = tl.load(weight + j * C + channel, mask=channel < C, other=0.0)
            value = tl.sum(hidden * factors, 1) + tl.load(bias + j)
            tl.store(out + ((view * VALUES + j) * rows + row) * columns + column, value, mask=inside)


def pixel_values(x: Tensor, position: tuple[Tensor, Tensor], weight: Tensor, bias: Tensor) -> Tensor:
    x = _last(x)
    views, rows, columns, channels = x.shape
    tile = _tile(channels)
    out = x.new_empty(views, len(weight), rows, columns, dtype=torch.float32)
    _pixel_values[(triton.cdiv(columns, tile["PIXELS"]), triton.cdiv(rows, ROWS), views)](
        x, *position, weight, bias, out, rows, columns, **tile, ROWS=ROWS, VALUES=len(weight), num_warps=4
    )
    return out
