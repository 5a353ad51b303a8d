"""Triton kernels over rows of tokens: the operations between two matrix products, fused into one pass over memory.

Functions have the same names and arguments as in `twins.py`, whose docstrings say what each computes.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lite3r_cli.engine.twins import Operand
from lite3r_cli.quant.fp8 import E4M3_MAX


@triton.jit
def _store_row(y, values, scales, row, offs_c, mask_c, C, FP8: tl.constexpr, TOP: tl.constexpr):
    offs = row.to(tl.int64) * C + offs_c
    if FP8:
        high = tl.max(tl.where(mask_c, tl.abs(y), 0.0), 0)
        tl.store(scales + row, tl.where(high > 0, high / TOP, 1.0))
        y *= tl.where(high > 0, TOP / high, 1.0)
        y = tl.minimum(tl.maximum(y, -TOP), TOP)
    tl.store(values + offs, y.to(values.dtype.element_ty), mask=mask_c)


INTERPRETED = not isinstance(_store_row, triton.JITFunction)  # TRITON_INTERPRET=1, for machines without a GPU


@triton.jit
def _layer_norm(x, weight, bias, offs_c, mask_c, C, eps):
    mean = tl.sum(x, 0) / C
    centred = tl.where(mask_c, x - mean, 0.0)
    y = centred * (1.0 / tl.sqrt(tl.sum(centred * centred, 0) / C + eps))
    w = tl.load(weight + offs_c, mask=mask_c, other=0.0).to(tl.float32)
    b = tl.load(bias + offs_c, mask=mask_c, other=0.0).to(tl.float32)
    return y * w + b


@triton.jit
def _gelu(x):
    """GELU x Φ(x), with erfc as a polynomial times exp(−z²), error 1.5e-7 (Abramowitz and Stegun 7.1.26). The library's
    erf would take longer than the memory access."""
    far = tl.abs(x)
    t = 1.0 / (1.0 + 0.23164189 * far)  # 0.3275911 / √2
    tail = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return tl.maximum(x, 0.0) - 0.5 * far * tail * tl.exp(-0.5 * x * x)


@triton.jit
def _rows(
    x, y, y_bias, gamma, weight, bias, values, scales, C, eps,
    BLOCK: tl.constexpr, ADD: tl.constexpr, NORM: tl.constexpr, GELU: tl.constexpr,
    FP8: tl.constexpr, TOP: tl.constexpr,
):  # fmt: skip
    row, offs_c = tl.program_id(0), tl.arange(0, BLOCK)
    mask_c = offs_c < C
    offs = row.to(tl.int64) * C + offs_c
    x_f32 = tl.load(x + offs, mask=mask_c, other=0.0).to(tl.float32)
    if ADD:
        y_f32 = tl.load(y + offs, mask=mask_c, other=0.0).to(tl.float32)
        y_f32 += tl.load(y_bias + offs_c, mask=mask_c, other=0.0).to(tl.float32)
        x_f32 += tl.load(gamma + offs_c, mask=mask_c, other=0.0).to(tl.float32) * y_f32
        tl.store(x + offs, x_f32.to(x.dtype.element_ty), mask=mask_c)
    if GELU:
        x_f32 += tl.load(bias + offs_c, mask=mask_c, other=0.0).to(tl.float32)
        x_f32 = _gelu(x_f32)
    if NORM:
        x_f32 = _layer_norm(x_f32, weight, bias, offs_c, mask_c, C, eps)
    if NORM or GELU or not ADD:
        _store_row(x_f32, values, scales, row, offs_c, mask_c, C, FP8, TOP)


def _outputs(rows: int, channels: int, like: Tensor, fp8: bool) -> tuple[Tensor, Tensor]:
    values = torch.empty(rows, channels, device=like.device, dtype=torch.float8_e4m3fn if fp8 else like.dtype)
    return values, torch.empty((rows, 1) if fp8 else (1, 1), device=like.device, dtype=torch.float32)


def _launch(
    x: Tensor, fp8: bool, kind: str, *, y=None, y_bias=None, gamma=None, weight=None, bias=None, eps=0.0, into=None
) -> Operand:
    rows, channels = x.shape
    block = triton.next_power_of_2(channels)
    values, scales = into or ((x, x) if kind == "add" else _outputs(rows, channels, x, fp8))
    scales = x if scales is None else scales
    _rows[(rows,)](
        x, *(x if t is None else t for t in (y, y_bias, gamma, weight, bias)), values, scales, channels, eps,
        BLOCK=block, ADD=y is not None, NORM=kind == "norm", GELU=kind == "gelu", FP8=fp8, TOP=E4M3_MAX,
        num_warps=max(1, min(4, block // 256)),
    )  # fmt: skip
    return values, scales if fp8 else None


def norm_quant(x: Tensor, weight: Tensor, bias: Tensor, eps: float, fp8: bool) -> Operand:
    return _launch(x, fp8, "norm", weight=weight, bias=bias, eps=eps)


def add_norm_quant(
    x: Tensor, y: Tensor, y_bias: Tensor, gamma: Tensor, weight: Tensor, bias: Tensor, eps: float, fp8: bool,
    into: Operand | None = None,
) -> Operand:  # fmt: skip
    return _launch(x, fp8, "norm", y=y, y_bias=y_bias, gamma=gamma, weight=weight, bias=bias, eps=eps, into=into)


def quant(x: Tensor, fp8: bool) -> Operand:
    return _launch(x, fp8, "quant") if fp8 else (x, None)


def add_scaled(x: Tensor, y: Tensor, y_bias: Tensor, gamma: Tensor) -> None:
    _launch(x, False, "add", y=y, y_bias=y_bias, gamma=gamma)


def gelu_quant(x: Tensor, bias: Tensor, fp8: bool) -> Operand:
    return _launch(x, fp8, "gelu", bias=bias)


@triton.jit
def _gated(x, bias, values, scales, C, BLOCK: tl.constexpr, FP8: tl.constexpr, TOP: tl.constexpr):
    row, offs_c = tl.program_id(0), tl.arange(0, BLOCK)
    mask_c = offs_c < C
    at = x + row.to(tl.int64) * 2 * C + offs_c
    a = tl.load(at, mask=mask_c, other=0.0).to(tl.float32)
    a += tl.load(bias + offs_c, mask=mask_c, other=0.0).to(tl.float32)
    b = tl.load(at + C, mask=mask_c, other=0.0).to(tl.float32)
    b += tl.load(bias + C + offs_c, mask=mask_c, other=0.0).to(tl.float32)
    _store_row(a / (1.0 + tl.exp(-a)) * b, values, scales, row, offs_c, mask_c, C, FP8, TOP)


def swiglu_quant(x: Tensor, bias: Tensor, fp8: bool) -> Operand:
    rows, channels = len(x), x.shape[1] // 2
    block = triton.next_power_of_2(channels)
    values, scales = _outputs(rows, channels, x, fp8)
    _gated[(rows,)](
        x, bias, values, scales, channels,
        BLOCK=block, FP8=fp8, TOP=E4M3_MAX, num_warps=max(1, min(4, block // 256)),
    )  # fmt: skip
    return values, scales if fp8 else None


@triton.jit
def _head_norm(x, weight, bias, channel, D: tl.constexpr, eps, mean, inverse):
    w = tl.load(weight + channel).to(tl.float32)[None, :]
    b = tl.load(bias + channel).to(tl.float32)[None, :]
    return (x - mean[:, None]) * inverse[:, None] * w + b


@triton.jit
def _split(
    qkv, bias, q_weight, q_bias, k_weight, k_bias, cos, sin, place, empty, out, tokens, slots, period, eps,
    H: tl.constexpr, HP: tl.constexpr, D: tl.constexpr, NORM: tl.constexpr, ROPE: tl.constexpr, PLACED: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0)
    slot = token
    head, channel = tl.arange(0, HP), tl.arange(0, D)
    if PLACED:
        slot = tl.load(tl.where(token < tokens, place + token, empty + (token - tokens)))
    quarter: tl.constexpr = D // 4
    first = (channel // quarter) % 2 == 0  # first channel of a RoPE pair
    partner = tl.where(first, channel + quarter, channel - quarter)
    inside = (head < H)[:, None]
    known = (head < tl.where(token < tokens, H, 0))[:, None]  # programs after the last token zero the empty slots
    row = qkv + token.to(tl.int64) * (3 * H * D)
    for part in tl.static_range(3):
        at = part * H * D + head[:, None] * D
        x = tl.load(row + at + channel[None, :], mask=known, other=0.0).to(tl.float32)
        x += tl.load(bias + at + channel[None, :], mask=inside, other=0.0).to(tl.float32)
        if part < 2:
            other = x
            if ROPE:
                other = tl.load(row + at + partner[None, :], mask=known, other=0.0).to(tl.float32)
                other += tl.load(bias + at + partner[None, :], mask=known, other=0.0).to(tl.float32)
            if NORM:
                mean = tl.sum(x, 1) / D
                away = x - mean[:, None]
                inverse = 1.0 / tl.sqrt(tl.sum(away * away, 1) / D + eps)
                weight, shift = (q_weight, q_bias) if part == 0 else (k_weight, k_bias)
                x = _head_norm(x, weight, shift, channel, D, eps, mean, inverse)
                other = _head_norm(other, weight, shift, partner, D, eps, mean, inverse)
            if ROPE:
                angle = (token % period) * D + channel
                c, s = tl.load(cos + angle).to(tl.float32), tl.load(sin + angle).to(tl.float32)
                x = x * c[None, :] + other * tl.where(first, -s, s)[None, :]
        to = ((part * H + head[:, None]).to(tl.int64) * slots + slot) * D + channel[None, :]
        tl.store(out + to, tl.where(known, x, 0.0).to(out.dtype.element_ty), mask=inside)


def split_heads(
    qkv: Tensor, bias: Tensor, norms: tuple[Tensor, Tensor, Tensor, Tensor] | None, eps: float,
    rope: tuple[Tensor, Tensor] | None, place: Tensor | None, empty: Tensor | None, out: Tensor,
) -> None:  # fmt: skip
    _, heads, slots, dim = out.shape
    cos, sin = (qkv, qkv) if rope is None else rope
    tokens, period = len(qkv), 1 if rope is None else len(cos)
    slots_of = (qkv, qkv) if place is None else (place, place if empty is None else empty)
    _split[(tokens + (0 if empty is None else len(empty)),)](
        qkv, bias, *((qkv,) * 4 if norms is None else norms), cos, sin, *slots_of, out, tokens, slots, period, eps,
        H=heads, HP=triton.next_power_of_2(heads), D=dim,
        NORM=norms is not None, ROPE=rope is not None, PLACED=place is not None, num_warps=1,
    )  # fmt: skip


@triton.jit
def _merge(
    tiles, place, values, scales, slots,
    H: tl.constexpr, HP: tl.constexpr, D: tl.constexpr, PLACED: tl.constexpr, FP8: tl.constexpr, TOP: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0)
    slot = token
    if PLACED:
        slot = tl.load(place + token)
    offs_c = tl.arange(0, HP * D)
    mask_c = offs_c < H * D
    offs = ((offs_c // D).to(tl.int64) * slots + slot) * D + offs_c % D
    x = tl.load(tiles + offs, mask=mask_c, other=0.0).to(tl.float32)
    _store_row(x, values, scales, token, offs_c, mask_c, H * D, FP8, TOP)


def merge_heads(tiles: Tensor, place: Tensor | None, tokens: int, fp8: bool) -> Operand:
    heads, slots, dim = tiles.shape
    values, scales = _outputs(tokens, heads * dim, tiles, fp8)
    _merge[(tokens,)](
        tiles, tiles if place is None else place, values, scales, slots,
        H=heads, HP=triton.next_power_of_2(heads), D=dim, PLACED=place is not None, FP8=fp8, TOP=E4M3_MAX, num_warps=1,
    )  # fmt: skip
    return values, scales if fp8 else None
