"""Triton kernels over tiles of tokens: block means, the choice of key tiles, and sparse attention with its linear
branch.

Same names and arguments as `twins.py`, which says what each computes. Tiles have 16 to 128 slots, a power of two.
Inside the kernels the names are those of FlashAttention's Triton code: offs_m, offs_n, offs_d count queries, keys and
channels; mask_m and mask_n say which there are; m_i is the running maximum of the logits qk, l_i the running sum, acc
the answer before division. These kernels serve predictions; those of training, with gradients, are in
`attention/triton_kernels.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from lite3r_cli.attention.reference import EPSILON
from lite3r_cli.engine.twins import PACK, Far, LinearBranch, Tiles

LOG2_E = 1.4426950408889634  # the kernel's exponentials are powers of two
BLOCKS_A_PART = 16  # that one program of the linear branch adds up


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
def _phi(x):
    return tl.where(x > 0, x + 1.0, tl.exp(tl.minimum(x, 0.0)))


@triton.jit
def _features(k_tile, mask_n):
    """φ of keys, rounded as they are: sums over all tokens and over some of them then differ by no rounding."""
    return tl.where(mask_n, _phi(k_tile.to(tl.float32)), 0.0).to(k_tile.dtype)


@triton.jit
def _sums(
    k, v, lengths, totals, norms, blocks, parts,
    A_PART: tl.constexpr, W: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    head, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    offs_n, offs_d = tl.arange(0, W), tl.arange(0, D)
    total = tl.zeros([D, D], tl.float32)
    norm = tl.zeros([D], tl.float32)
    for block in range(part * A_PART, tl.minimum((part + 1) * A_PART, blocks)):
        mask_n = (offs_n < tl.load(lengths + block))[:, None]
        k_offs = ((head * blocks + block) * W + offs_n[:, None]) * D + offs_d[None, :]
        v_tile = tl.load(v + k_offs, mask=mask_n, other=0.0)
        k_tile = _features(tl.load(k + k_offs, mask=mask_n, other=0.0), mask_n)
        total = tl.dot(tl.trans(k_tile), v_tile, acc=total, input_precision=WIDE)
        norm += tl.sum(k_tile.to(tl.float32), 0)
    program = head * parts + part
    tl.store(totals + (program * D + offs_d[:, None]) * D + offs_d[None, :], total)
    tl.store(norms + program * D + offs_d, norm)


def _precision(x: Tensor) -> str:
    return "ieee" if x.dtype == torch.float32 else "tf32"


def linear_sums(k: Tensor, v: Tensor, lengths: Tensor, width: int) -> tuple[Tensor, Tensor]:
    heads, slots, dim = k.shape
    blocks = slots // width
    parts = triton.cdiv(blocks, BLOCKS_A_PART)
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
        A_PART=BLOCKS_A_PART,
        W=width,
        D=dim,
        WIDE=_precision(k),
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
    for _ in range(33):  # halving finds the count-th largest: a range of 2³² and one to close it
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


@triton.jit
def _pack(keys, spreads, values, behind, packed, out, bias, blocks, padded, scale, half, D: tl.constexpr):
    block, head, channel = tl.program_id(0), tl.program_id(1), tl.arange(0, D)
    at, to = (head * blocks + block) * D + channel, head * padded + block
    there = block * D + channel < blocks * D
    kind = out.dtype.element_ty
    tl.store(packed + to * 2 * D + channel, (tl.load(keys + at, mask=there, other=0.0) * scale).to(kind))
    tl.store(packed + to * 2 * D + D + channel, (tl.load(spreads + at, mask=there, other=0.0) * half).to(kind))
    tl.store(out + to * D + channel, tl.load(values + at, mask=there, other=0.0).to(kind))
    slot = block + tl.arange(0, 1)
    tl.store(bias + slot, tl.load(behind + slot, mask=slot < blocks, other=float("-inf")))


def pack_far(far: Far, behind: Tensor, multiple: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Summaries (H, blocks, D) as one product takes them → (H, padded, 2D), the factors of x and x² side by side; mean
    values (H, padded, D); and what is added to the logits (padded,). All for powers of two, blocks padded to a
    `multiple`.
    """
    heads, blocks, dim = far.keys.shape
    padded = triton.cdiv(blocks, multiple) * multiple
    packed = torch.empty(heads, padded, 2 * dim, device=far.keys.device, dtype=dtype)
    values = torch.empty(heads, padded, dim, device=far.keys.device, dtype=dtype)
    bias = torch.empty(padded, device=far.keys.device, dtype=torch.float32)
    means = (t.contiguous() for t in (far.keys, far.spread, far.values))
    scales = dim**-0.5 * LOG2_E, LOG2_E / (2 * dim)
    _pack[(padded, heads)](*means, behind, packed, values, bias, blocks, padded, *scales, D=dim, num_warps=1)
    return packed, values, bias


@triton.jit
def _bits(left, words, rows, blocks, padded, ROWS: tl.constexpr):
    """32 flags a word."""
    row, bit = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, 32)
    first = tl.program_id(1) * 32
    which = first + bit[None, :]
    at = row.to(tl.int64)[:, None] * blocks + which
    flags = tl.load(left + at, mask=(row[:, None] < rows) & (which < blocks), other=0) != 0
    word = tl.sum(flags.to(tl.int32) << bit[None, :], 1)
    tl.store(words + row.to(tl.int64) * (padded // 32) + first // 32, word, mask=row < rows)


def pack_bits(left: Tensor, padded: int) -> Tensor:
    """Flags (H, groups, blocks) → words of 32 flags (H, groups, padded / 32) int32."""
    heads, groups, blocks = left.shape
    words = torch.empty(heads, groups, padded // 32, device=left.device, dtype=torch.int32)
    grid = triton.cdiv(heads * groups, 64), padded // 32
    _bits[grid](left, words, heads * groups, blocks, padded, ROWS=64, num_warps=4)
    return words


@triton.jit
def _softmax_step(qk, scale, v_tile, m_i, l_i, acc, WIDE: tl.constexpr):
    """One more block of keys in an online softmax, in powers of two; `logits` are still to be multiplied by `scale`."""
    m_new = tl.maximum(m_i, tl.max(qk, 1) * scale)
    p = tl.exp2(qk * scale - m_new[:, None])
    alpha = tl.exp2(m_i - m_new)
    acc = tl.dot(p.to(v_tile.dtype), v_tile, acc=acc * alpha[:, None], input_precision=WIDE)
    return m_new, l_i * alpha + tl.sum(p, 1), acc


@triton.jit
def _logits(
    q_tile, k_tile, entry, offs_n, W: tl.constexpr, PACK: tl.constexpr, WIDE: tl.constexpr, QUARTER: tl.constexpr
):
    qk = tl.dot(q_tile, tl.trans(k_tile), input_precision=WIDE)
    length = entry % PACK
    SURE: tl.constexpr = W - W // 4 if QUARTER else W  # slots
    if QUARTER:  # of most tiles at most the last quarter is empty: the compiler leaves all other columns alone
        qk = tl.where(((offs_n < SURE) | (offs_n < length))[None, :], qk, float("-inf"))
    if length < SURE:
        qk = tl.where((offs_n < length)[None, :], qk, float("-inf"))
    return qk


@triton.jit(
    do_not_specialize=["blocks", "padded", "groups", "heads", "first_exact", "count"]
)  # one binary for all sizes
def _attend(
    q, k, v, listed, every_tile, words, exact, far, far_v, bias, square, norm, weight, alpha, out,
    blocks, padded, groups, heads, first_exact, count, scale, epsilon,
    W: tl.constexpr, PARTS: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr, FAR: tl.constexpr,
    REST: tl.constexpr, CONVEX: tl.constexpr, PACK: tl.constexpr, QUARTER: tl.constexpr,
    STAGES: tl.constexpr, FAR_STAGES: tl.constexpr, AT_ONCE: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    part, pid = pid % PARTS, pid // PARTS
    other, usual = pid - heads * first_exact, groups - first_exact
    early = other < 0  # of all heads the groups that see everything: begun last they would be waited for
    head = tl.where(early, pid % heads, other // usual)
    group = tl.where(early, pid // heads, first_exact + other % usual)
    list_row = (head * groups + group).to(tl.int64)
    offs_m, offs_d, offs_n = (group * PARTS + part) * ROWS + tl.arange(0, ROWS), tl.arange(0, D), tl.arange(0, W)
    head_start = (head * blocks * W).to(tl.int64) * D  # other heads' tokens
    mask_m = (offs_m < blocks * W)[:, None]
    q_offs = offs_m[:, None] * D + offs_d[None, :]  # within a head 32 bits are enough
    q_tile = tl.load(q + head_start + q_offs, mask=mask_m, other=0.0)
    every = (tl.load(exact + group) != 0) | (count >= blocks)
    number = tl.where(every, blocks, count)
    entries = tl.where(every, every_tile, listed + list_row * count)
    k += head_start
    v += head_start
    kv_offs = offs_n[:, None] * D + offs_d[None, :]
    m_i = tl.full([ROWS], float("-inf"), tl.float32)
    l_i = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, D], tl.float32)
    if REST:
        s = tl.load(square + (head * D + offs_d[:, None]) * D + offs_d[None, :])
        n = tl.load(norm + head * D + offs_d)
    # an entry is tile and length in one number, and read a step before its tile: nothing waits for it
    entry = tl.load(entries).to(tl.uint32)
    for i in tl.range(1, number + 1, num_stages=STAGES):
        k_tile = tl.load(k + entry // PACK * (W * D) + kv_offs)
        v_tile = tl.load(v + entry // PACK * (W * D) + kv_offs)  # of empty slots zeros
        qk = _logits(q_tile, k_tile, entry, offs_n, W, PACK, WIDE, QUARTER)
        m_i, l_i, acc = _softmax_step(qk, scale, v_tile, m_i, l_i, acc, WIDE)
        if REST:
            features = _features(k_tile, (offs_n < entry % PACK)[:, None])
            s -= tl.dot(tl.trans(features), v_tile, input_precision=WIDE)
            n -= tl.sum(features.to(tl.float32), 0)
        entry = tl.load(entries + i, mask=i < number, other=0).to(tl.uint32)
    if FAR:
        # volatile: read again, not kept in registers all the while
        squares = tl.load(q + head_start + q_offs, mask=mask_m, other=0.0, volatile=True)
        squares *= squares
        far += head.to(tl.int64) * padded * 2 * D
        far_v += head.to(tl.int64) * padded * D
        words += list_row * (padded // 32)
        offs_f = tl.arange(0, AT_ONCE)
        bit = tl.full([AT_ONCE], 1, tl.int32) << (offs_f % 32)
        for first in tl.range(0, tl.where(every, 0, padded), AT_ONCE, num_stages=FAR_STAGES):
            f_offs = far + first * 2 * D + offs_f[:, None] * 2 * D + offs_d[None, :]
            k_tile, spreads = tl.load(f_offs), tl.load(f_offs + D)
            v_tile = tl.load(far_v + first * D + offs_f[:, None] * D + offs_d[None, :])
            word = tl.load(words + first // 32)
            if AT_ONCE == 64:
                word = tl.where(offs_f < 32, word, tl.load(words + first // 32 + 1))
            f_bias = tl.where((word & bit) != 0, tl.load(bias + first + offs_f), float("-inf"))
            qk = tl.dot(q_tile, tl.trans(k_tile), input_precision=WIDE)
            qk = tl.dot(squares, tl.trans(spreads), acc=qk, input_precision=WIDE) + f_bias[None, :]
            m_i, l_i, acc = _softmax_step(qk, 1.0, v_tile, m_i, l_i, acc, WIDE)
    share = tl.where(every, 1.0, tl.load(alpha + head)) if CONVEX else 1.0
    acc *= (share / l_i)[:, None]
    if not REST:
        s = tl.load(square + (head * D + offs_d[:, None]) * D + offs_d[None, :])
        n = tl.load(norm + head * D + offs_d)
    phi_q = _phi(tl.load(q + head_start + q_offs, mask=mask_m, other=0.0, volatile=True).to(tl.float32))
    den = tl.sum(phi_q * n[None, :], 1) + epsilon
    if CONVEX:
        phi_q *= ((1 - share) / den)[:, None]
    elif REST:
        phi_q *= tl.where(every, 0.0, 1 / den)[:, None]
    else:
        phi_q *= (1 / den)[:, None]
    if REST and not CONVEX:
        w = tl.load(weight + offs_d[None, :] * D + offs_d[:, None])  # transposed
        acc = tl.dot(tl.dot(phi_q, s, input_precision=WIDE), w, acc=acc, input_precision=WIDE)
    else:  # the mix is in the sums
        acc = tl.dot(phi_q, s, acc=acc, input_precision=WIDE)
    tl.store(out + head_start + q_offs, acc.to(out.dtype.element_ty), mask=mask_m)


@dataclass(frozen=True)
class Launch:
    """How `sparse_attention` is launched. The choice changes speed; of the result it changes rounding alone.

    Two or more programs should fit on one multiprocessor: the exponentials of one then run beside the matrix products
    of another.
    """

    warps: int = 4
    stages: int = 3  # depth of the software pipeline over the key tiles
    registers: int | None = None  # limit of registers of a thread; None: the compiler's choice
    rows: int = 128  # most queries that one program computes
    quarter: bool = True  # mask the last quarter of a tile alone, as most tiles are fuller than three quarters
    summaries: int = 32  # summaries that one step reads, 32 or 64
    far_stages: int = 3  # depth of the software pipeline over the summaries


DEFAULT = Launch()
OVER_REST = Launch(warps=8, quarter=False)  # where the sums of the linear branch need registers too
LARGE = Launch(rows=64, stages=2)  # for tiles of more than 64 slots
NARROW = Launch(
    rows=64, registers=168, quarter=False, summaries=64
)  # for short groups, three programs a multiprocessor
FLOAT32 = Launch(warps=8, stages=1, far_stages=1)


def launch_for(tiles: Tiles, dtype: torch.dtype, rest: bool) -> Launch:
    if dtype == torch.float32:
        return FLOAT32
    if tiles.width > 64:
        return LARGE
    if rest:
        return OVER_REST
    return DEFAULT if tiles.width * tiles.group >= DEFAULT.rows else NARROW


def sparse_attention(
    q: Tensor, k: Tensor, v: Tensor, listed: Tensor, left: Tensor, tiles: Tiles, branch: LinearBranch, far: Far | None,
    launch: Launch | None = None,
) -> Tensor:  # fmt: skip
    """As the twin."""
    launch = launch or launch_for(tiles, q.dtype, branch.rest)
    heads, slots, dim = q.shape
    groups, count = listed.shape[1:]
    out = torch.empty_like(q)
    square = branch.square if branch.weight is None or branch.rest else branch.square @ branch.weight.T
    summaries, words = (q, q, tiles.log2_lengths), left
    if far is not None:
        summaries = pack_far(far, tiles.log2_lengths, launch.summaries, q.dtype)
        words = pack_bits(left, summaries[0].shape[1])
    together = tiles.width * tiles.group
    rows = min(launch.rows, together)
    _attend[(heads * groups * (together // rows),)](
        q, k, v, listed, tiles.packed_ids, words, tiles.full_rows.view(torch.uint8), *summaries,
        square, branch.norm, *(branch.norm if t is None else t for t in (branch.weight, branch.alpha)), out,
        slots // tiles.width, summaries[0].shape[1], groups, heads, tiles.leading_full_rows, count, dim**-0.5 * LOG2_E,
        EPSILON,
        W=tiles.width, PARTS=together // rows, ROWS=rows, D=dim, WIDE=_precision(q),
        FAR=far is not None, REST=branch.rest, CONVEX=branch.alpha is not None, PACK=PACK,
        QUARTER=launch.quarter, STAGES=launch.stages, FAR_STAGES=launch.far_stages, AT_ONCE=launch.summaries,
        num_warps=launch.warps if rows > 64 else 4, num_stages=launch.stages, maxnreg=launch.registers,
    )  # fmt: skip
    return out
