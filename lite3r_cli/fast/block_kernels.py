"""Triton kernels over tiles of tokens: block means, the choice of key tiles, and sparse attention with its linear branch.

Same names and arguments as `twins.py`, which says what each computes. Tiles have 16 to 128 slots, a power of two.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lite3r_cli.attention.reference import EPSILON
from lite3r_cli.fast.twins import PACK, Far, LinearBranch, Tiles

LOG2_E = 1.4426950408889634  # the kernel's exponentials are powers of two
BLOCKS_A_PART = 16  # that one program of the linear branch adds up


@triton.jit
def _moments(tiles, lengths, means, spreads, blocks, W: tl.constexpr, D: tl.constexpr):
    at = tl.program_id(0).to(tl.int64)
    slot, channel = tl.arange(0, W), tl.arange(0, D)
    length = tl.load(lengths + at % blocks)
    known = (slot < length)[:, None]
    x = tl.load(tiles + (at * W + slot[:, None]) * D + channel[None, :], mask=known, other=0.0).to(tl.float32)
    mean = tl.sum(x, 0) / length
    away = tl.where(known, x - mean[None, :], 0.0)
    tl.store(means + at * D + channel, mean)
    tl.store(spreads + at * D + channel, tl.sum(away * away, 0) / length)


def block_moments(tiles: Tensor, lengths: Tensor, width: int) -> tuple[Tensor, Tensor]:
    count, slots, dim = tiles.shape
    blocks = slots // width
    means, spreads = (torch.empty(count, blocks, dim, device=tiles.device, dtype=torch.float32) for _ in range(2))
    _moments[(count * blocks,)](tiles, lengths, means, spreads, blocks, W=width, D=dim, num_warps=4)
    return means, spreads


@triton.jit
def _phi(x):
    return tl.where(x > 0, x + 1.0, tl.exp(tl.minimum(x, 0.0)))


@triton.jit
def _features(keys, known):
    """φ of keys, rounded as they are: sums over all tokens and over some of them then differ by no rounding."""
    return tl.where(known, _phi(keys.to(tl.float32)), 0.0).to(keys.dtype)


@triton.jit
def _sums(
    k, v, lengths, totals, norms, blocks, parts,
    A_PART: tl.constexpr, W: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    head, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    slot, channel = tl.arange(0, W), tl.arange(0, D)
    total = tl.zeros([D, D], tl.float32)
    norm = tl.zeros([D], tl.float32)
    for block in range(part * A_PART, tl.minimum((part + 1) * A_PART, blocks)):
        known = (slot < tl.load(lengths + block))[:, None]
        at = ((head * blocks + block) * W + slot[:, None]) * D + channel[None, :]
        values = tl.load(v + at, mask=known, other=0.0)
        keys = _features(tl.load(k + at, mask=known, other=0.0), known)
        total = tl.dot(tl.trans(keys), values, acc=total, input_precision=WIDE)
        norm += tl.sum(keys.to(tl.float32), 0)
    here = head * parts + part
    tl.store(totals + (here * D + channel[:, None]) * D + channel[None, :], total)
    tl.store(norms + here * D + channel, norm)


def _precision(x: Tensor) -> str:
    return "ieee" if x.dtype == torch.float32 else "tf32"


def linear_sums(k: Tensor, v: Tensor, lengths: Tensor, width: int) -> tuple[Tensor, Tensor]:
    heads, slots, dim = k.shape
    blocks = slots // width
    parts = triton.cdiv(blocks, BLOCKS_A_PART)
    totals = torch.empty(heads, parts, dim, dim, device=k.device, dtype=torch.float32)
    norms = torch.empty(heads, parts, dim, device=k.device, dtype=torch.float32)
    _sums[(heads, parts)](
        k, v, lengths, totals, norms, blocks, parts, A_PART=BLOCKS_A_PART, W=width, D=dim, WIDE=_precision(k), num_warps=4
    )
    return totals.sum(1), norms.sum(1)


@triton.jit
def _select(scores, protected, entries, out, left, blocks, count, BLOCK: tl.constexpr):
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside = column < blocks
    bits = tl.load(scores + row * blocks + column, mask=inside, other=0.0).to(tl.int32, bitcast=True)
    key = tl.where(bits >= 0, bits, bits ^ 0x7FFFFFFF)  # integers in the order of the floats
    key = tl.where(tl.load(protected + column, mask=inside, other=0) != 0, 0x7FFFFFFF, key).to(tl.int64)
    low = tl.min(tl.where(inside, key, 0x7FFFFFFF), 0)
    high = tl.max(tl.where(inside, key, -0x80000000), 0)
    for _ in range(33):  # halving finds the count-th largest: a range of 2³² and one to close it
        middle = low + (high - low + 1) // 2
        enough = tl.sum((inside & (key >= middle)).to(tl.int32), 0) >= count
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, tl.maximum(middle - 1, low))
    above, equal = inside & (key > low), inside & (key == low)
    spare = count - tl.sum(above.to(tl.int32), 0)
    chosen = above | (equal & (tl.cumsum(equal.to(tl.int32), 0) <= spare))
    at = tl.cumsum(chosen.to(tl.int32), 0) - 1
    tl.store(out + row * count + at, tl.load(entries + column, mask=inside, other=0), mask=chosen)
    tl.store(left + row * blocks + column, tl.where(chosen, 0, 1).to(tl.uint8), mask=inside)


def select_blocks(scores: Tensor, protected: Tensor, tiles: Tiles, count: int) -> tuple[Tensor, Tensor]:
    heads, rows, blocks = scores.shape
    left = torch.empty(scores.shape, device=scores.device, dtype=torch.uint8)
    out = torch.empty(heads, rows, count, device=scores.device, dtype=torch.int32)
    block = triton.next_power_of_2(blocks)
    guarded = protected.to(torch.int32)
    warps = max(1, min(8, block // 256))
    _select[(heads * rows,)](scores, guarded, tiles.entries, out, left, blocks, count, BLOCK=block, num_warps=warps)
    return out, left


@triton.jit
def _softmax_step(logits, scale, values, top, total, mean, WIDE: tl.constexpr):
    """One more block of keys in an online softmax, in powers of two; `logits` are still to be multiplied by `scale`."""
    higher = tl.maximum(top, tl.max(logits, 1) * scale)
    weights = tl.exp2(logits * scale - higher[:, None])
    fade = tl.exp2(top - higher)
    mean = tl.dot(weights.to(values.dtype), values, acc=mean * fade[:, None], input_precision=WIDE)
    return higher, total * fade + tl.sum(weights, 1), mean


@triton.jit
def _attend(
    q, k, v, listed, every_tile, left, behind, exact, far_k, far_s, far_v, square, norm, weight, alpha, out,
    blocks, groups, heads, first_exact, count, scale, half, epsilon,
    W: tl.constexpr, G: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr,
    FAR: tl.constexpr, REST: tl.constexpr, CONVEX: tl.constexpr, PACK: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    other, usual = pid - heads * first_exact, groups - first_exact
    early = other < 0  # of all heads the groups that see everything: begun last they would be waited for
    head = tl.where(early, pid % heads, other // usual).to(tl.int64)
    group = tl.where(early, pid // heads, first_exact + other % usual)
    row_of_list = head * groups + group
    ROWS: tl.constexpr = W * G
    row, channel, slot = group * ROWS + tl.arange(0, ROWS), tl.arange(0, D), tl.arange(0, W)
    inside = (row < blocks * W)[:, None]
    here = (head * blocks * W + row[:, None]) * D + channel[None, :]
    x = tl.load(q + here, mask=inside, other=0.0)
    every = (tl.load(exact + group) != 0) | (count >= blocks)
    number = tl.where(every, blocks, count)
    entries = tl.where(every, every_tile, listed + row_of_list * count)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    mean = tl.zeros([ROWS, D], tl.float32)
    s = tl.load(square + (head * D + channel[:, None]) * D + channel[None, :])
    n = tl.load(norm + head * D + channel)
    for i in range(0, number):
        entry = tl.load(entries + i)  # tile and length in one number: one load that others wait for
        known = slot < entry % PACK
        at = ((head * blocks + entry // PACK) * W + slot[:, None]) * D + channel[None, :]
        keys, values = tl.load(k + at), tl.load(v + at)  # of empty slots zeros
        logits = tl.dot(x, tl.trans(keys), input_precision=WIDE)
        logits = tl.where(known[None, :], logits, float("-inf"))
        top, total, mean = _softmax_step(logits, scale, values, top, total, mean, WIDE)
        if REST:
            features = _features(keys, known[:, None])
            s -= tl.dot(tl.trans(features), values, input_precision=WIDE)
            n -= tl.sum(features.to(tl.float32), 0)
    wide = x.to(tl.float32)
    if FAR:
        squares = (wide * wide).to(x.dtype)
        for first in range(0, tl.where(every, 0, blocks), W):
            which = first + slot
            there = (which < blocks)[:, None]
            at = (head * blocks + which[:, None]) * D + channel[None, :]
            keys, spread = tl.load(far_k + at, mask=there, other=0.0), tl.load(far_s + at, mask=there, other=0.0)
            open_ = tl.load(left + row_of_list * blocks + which, mask=which < blocks, other=0) != 0
            weigh = tl.where(open_, tl.load(behind + which, mask=which < blocks, other=0.0), float("-inf"))
            logits = tl.dot(x, tl.trans(keys), input_precision=WIDE) * scale
            logits += tl.dot(squares, tl.trans(spread), input_precision=WIDE) * half + weigh[None, :]
            values = tl.load(far_v + at, mask=there, other=0.0)
            top, total, mean = _softmax_step(logits, 1.0, values, top, total, mean, WIDE)
    fx = _phi(wide)
    linear = tl.dot(fx, s, input_precision=WIDE) / (tl.sum(fx * n[None, :], 1) + epsilon)[:, None]
    result = mean / total[:, None]
    if CONVEX:
        share = tl.where(every, 1.0, tl.load(alpha + head))
        result = result * share + tl.where(every, 0.0, linear * (1 - share))
    else:
        w = tl.load(weight + channel[None, :] * D + channel[:, None])  # transposed
        if REST:
            linear = tl.where(every, 0.0, linear)
        result += tl.dot(linear, w, input_precision=WIDE)
    tl.store(out + here, result.to(out.dtype.element_ty), mask=inside)


def sparse_attention(
    q: Tensor, k: Tensor, v: Tensor, listed: Tensor, left: Tensor, tiles: Tiles, branch: LinearBranch, far: Far | None,
    stages: int = 3,
) -> Tensor:  # fmt: skip
    """As the twin; the loads of `stages` key tiles are in flight."""
    heads, slots, dim = q.shape
    groups, count = listed.shape[1:]
    out = torch.empty_like(q)
    summaries = (q,) * 3 if far is None else tuple(t.to(q.dtype) for t in (far.keys, far.spread, far.values))
    _attend[(heads * groups,)](
        q, k, v, listed, tiles.entries, left, tiles.behind, tiles.exact.to(torch.int32), *summaries,
        branch.square, branch.norm, *(branch.norm if t is None else t for t in (branch.weight, branch.alpha)), out,
        slots // tiles.width, groups, heads, tiles.first_exact, count, dim**-0.5 * LOG2_E, LOG2_E / (2 * dim), EPSILON,
        W=tiles.width, G=tiles.group, D=dim, WIDE=_precision(q),
        FAR=far is not None, REST=branch.rest, CONVEX=branch.alpha is not None, PACK=PACK,
        num_warps=8 if tiles.width * tiles.group >= 128 else 4,
        num_stages=1 if q.dtype == torch.float32 else stages,  # float32 tiles are large
    )  # fmt: skip
    return out
