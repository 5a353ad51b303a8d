"""Triton kernels over tiles of tokens that prepare sparse attention (`attend_kernels.py`): block means, the sums of the
linear branch, and the choice of key tiles.

Functions have the same names and arguments as in `twins.py`, whose docstrings say what each computes. Tiles have 16 to
128 slots, a power of two. Names follow FlashAttention's Triton code: offs_n and offs_d index keys and channels, mask_n
is the validity of keys.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lite3r_cli.engine.twins import Tiles

BLOCKS_PER_PART = 16  # blocks that one program of the linear branch sums


@triton.jit
def _moments(tiles, lengths, means, spreads, blocks, W: tl.constexpr, D: tl.constexpr):
    tile = tl.program_id(0).to(tl.int64)
    offs_n, offs_d = tl.arange(0, W), tl.arange(0, D)
    length = tl.load(lengths + tile % blocks)
    mask_n = (offs_n < length)[:, None]
    x = tl.load(tiles + (tile * W + offs_n[:, None]) * D + offs_d[None, :], mask=mask_n, other=0.0).to(tl.float32)
    mean = tl.sum(x, 0) / length
    centred = tl.where(mask_n, x - mean[None, :], 0.0)
    tl.store(means + tile * D + offs_d, mean)
    tl.store(spreads + tile * D + offs_d, tl.sum(centred * centred, 0) / length)


def block_moments(tiles: Tensor, lengths: Tensor, width: int) -> tuple[Tensor, Tensor]:
    count, slots, dim = tiles.shape
    blocks = slots // width
    means, spreads = (torch.empty(count, blocks, dim, device=tiles.device, dtype=torch.float32) for _ in range(2))
    _moments[(count * blocks,)](tiles, lengths, means, spreads, blocks, W=width, D=dim, num_warps=max(1, width // 64))
    return means, spreads


@triton.jit
def phi(x):
    """φ(x) = elu(x) + 1, the feature map of the linear branch."""
    return tl.where(x > 0, x + 1.0, tl.exp(tl.minimum(x, 0.0)))


@triton.jit
def features(k_tile, mask_n):
    """φ of keys in the dtype of the keys. The same rounding everywhere lets parts be subtracted from the full sum."""
    return tl.where(mask_n, phi(k_tile.to(tl.float32)), 0.0).to(k_tile.dtype)


@triton.jit
def _sums(
    k, v, lengths, totals, norms, blocks, parts,
    PER_PART: tl.constexpr, W: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    head, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    offs_n, offs_d = tl.arange(0, W), tl.arange(0, D)
    total = tl.zeros([D, D], tl.float32)
    norm = tl.zeros([D], tl.float32)
    for block in range(part * PER_PART, tl.minimum((part + 1) * PER_PART, blocks)):
        mask_n = (offs_n < tl.load(lengths + block))[:, None]
        k_offs = ((head * blocks + block) * W + offs_n[:, None]) * D + offs_d[None, :]
        v_tile = tl.load(v + k_offs, mask=mask_n, other=0.0)
        k_tile = features(tl.load(k + k_offs, mask=mask_n, other=0.0), mask_n)
        total = tl.dot(tl.trans(k_tile), v_tile, acc=total, input_precision=WIDE)
        norm += tl.sum(k_tile.to(tl.float32), 0)
    program = head * parts + part
    tl.store(totals + (program * D + offs_d[:, None]) * D + offs_d[None, :], total)
    tl.store(norms + program * D + offs_d, norm)


def precision(x: Tensor) -> str:
    """Triton's input precision for products with `x`: exact for float32."""
    return "ieee" if x.dtype == torch.float32 else "tf32"


def linear_sums(k: Tensor, v: Tensor, lengths: Tensor, width: int) -> tuple[Tensor, Tensor]:
    heads, slots, dim = k.shape
    blocks = slots // width
    parts = triton.cdiv(blocks, BLOCKS_PER_PART)
    totals = torch.empty(heads, parts, dim, dim, device=k.device, dtype=torch.float32)
    norms = torch.empty(heads, parts, dim, device=k.device, dtype=torch.float32)
    _sums[(heads, parts)](
        k,
        v,
        lengths,
        totals,
        norms,
        blocks,
        parts,
        PER_PART=BLOCKS_PER_PART,
        W=width,
        D=dim,
        WIDE=precision(k),
        num_warps=4,
    )
    return totals.sum(1), norms.sum(1)


@triton.jit
def _select(scores, protected, entries, out, left, blocks, count, BLOCK: tl.constexpr):
    row, offs_n = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    mask_n = offs_n < blocks
    bits = tl.load(scores + row * blocks + offs_n, mask=mask_n, other=0.0).to(tl.int32, bitcast=True)
    key = tl.where(bits >= 0, bits, bits ^ 0x7FFFFFFF)  # integers in the order of the floats
    key = tl.where(tl.load(protected + offs_n, mask=mask_n, other=0) != 0, 0x7FFFFFFF, key).to(tl.int64)
    low = tl.min(tl.where(mask_n, key, 0x7FFFFFFF), 0)
    high = tl.max(tl.where(mask_n, key, -0x80000000), 0)
    for _ in range(33):  # binary search for the count-th largest key: a range of 2³², and one step to close it
        mid = low + (high - low + 1) // 2
        enough = tl.sum((mask_n & (key >= mid)).to(tl.int32), 0) >= count
        low = tl.where(enough, mid, low)
        high = tl.where(enough, high, tl.maximum(mid - 1, low))
    above, equal = mask_n & (key > low), mask_n & (key == low)
    spare = count - tl.sum(above.to(tl.int32), 0)
    chosen = above | (equal & (tl.cumsum(equal.to(tl.int32), 0) <= spare))
    place = tl.cumsum(chosen.to(tl.int32), 0) - 1
    tl.store(out + row * count + place, tl.load(entries + offs_n, mask=mask_n, other=0), mask=chosen)
    tl.store(left + row * blocks + offs_n, tl.where(chosen, 0, 1).to(tl.uint8), mask=mask_n)


def select_blocks(scores: Tensor, protected: Tensor, tiles: Tiles, count: int) -> tuple[Tensor, Tensor]:
    heads, rows, blocks = scores.shape
    left = torch.empty(scores.shape, device=scores.device, dtype=torch.uint8)
    out = torch.empty(heads, rows, count, device=scores.device, dtype=torch.int32)
    block = triton.next_power_of_2(blocks)
    guarded = protected.to(torch.int32)
    warps = max(1, min(8, block // 1024))
    _select[(heads * rows,)](scores, guarded, tiles.packed_ids, out, left, blocks, count, BLOCK=block, num_warps=warps)
    return out, left
