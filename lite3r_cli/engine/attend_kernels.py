"""Triton kernels of sparse attention with its linear branch, over tiles of tokens, for inference.

Functions have the same names and arguments as in `twins.py`, whose docstrings say what each computes. The kernels in
`block_kernels.py` compute their inputs. Names follow FlashAttention's Triton code: offs_m, offs_n, offs_d index
queries, keys and channels; mask_m is the validity of queries; m_i is the running maximum of the logits qk, l_i the
running sum, acc the output before division. The kernels for training, with gradients, are in
`attention/triton_kernels.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from lite3r_cli.attention.reference import EPSILON
from lite3r_cli.engine.block_kernels import features, phi, precision
from lite3r_cli.engine.twins import PACK, LinearBranch, Summaries, Tiles

LOG2_E = 1.4426950408889634  # the kernels' exponentials are powers of two


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


def pack_summaries(
    summaries: Summaries, log2_lengths: Tensor, multiple: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Summaries (H, blocks, D) and `log2_lengths` (blocks,) in the form that the kernel reads: the factors of x
    and x² side by side (H, padded, 2D), mean values (H, padded, D), and the bias of the logits (padded,), −inf for
    padding. Logits are base 2; the number of blocks is padded to a `multiple`.
    """
    heads, blocks, dim = summaries.keys.shape
    padded = triton.cdiv(blocks, multiple) * multiple
    packed = torch.empty(heads, padded, 2 * dim, device=summaries.keys.device, dtype=dtype)
    values = torch.empty(heads, padded, dim, device=summaries.keys.device, dtype=dtype)
    bias = torch.empty(padded, device=summaries.keys.device, dtype=torch.float32)
    means = (t.contiguous() for t in (summaries.keys, summaries.spread, summaries.values))
    scales = dim**-0.5 * LOG2_E, LOG2_E / (2 * dim)
    _pack[(padded, heads)](*means, log2_lengths, packed, values, bias, blocks, padded, *scales, D=dim, num_warps=1)
    return packed, values, bias


@triton.jit
def _bits(left, words, rows, blocks, padded, ROWS: tl.constexpr):
    """Pack 32 flags per int32 word."""
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
    """One block of keys in an online softmax, base 2; `qk` times `scale` are the logits."""
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
    if QUARTER:  # in most tiles only the last quarter has empty slots; the compiler then masks only these columns
        qk = tl.where(((offs_n < SURE) | (offs_n < length))[None, :], qk, float("-inf"))
    if length < SURE:
        qk = tl.where((offs_n < length)[None, :], qk, float("-inf"))
    return qk


@triton.jit
def _group_of(pid, groups, heads, first_exact):
    """Head and group of queries of a program. The groups that attend to everything, of all heads, come first, because
    they take longest.
    """
    other, usual = pid - heads * first_exact, groups - first_exact
    early = other < 0
    head = tl.where(early, pid % heads, other // usual)
    return head, tl.where(early, pid // heads, first_exact + other % usual)


@triton.jit
def _branch_sums(square, norm, head, D: tl.constexpr):
    offs_d = tl.arange(0, D)
    s = tl.load(square + (head * D + offs_d[:, None]) * D + offs_d[None, :])
    return s, tl.load(norm + head * D + offs_d)


@triton.jit
def _over_tiles(
    q_tile, k, v, entries, number, scale, m_i, l_i, acc, s, n,
    W: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr, PACK: tl.constexpr, QUARTER: tl.constexpr,
    REST: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Online softmax over the `number` key tiles listed in `entries`. With REST, these tiles are subtracted from the
    sums s (D, D) and n (D,) of the linear branch.
    """
    offs_n, offs_d = tl.arange(0, W), tl.arange(0, D)
    kv_offs = offs_n[:, None] * D + offs_d[None, :]
    # an entry holds tile and length in one number; it is loaded one step before its tile, to hide the latency
    entry = tl.load(entries).to(tl.uint32)
    for i in tl.range(1, number + 1, num_stages=STAGES):
        k_tile = tl.load(k + entry // PACK * (W * D) + kv_offs)
        v_tile = tl.load(v + entry // PACK * (W * D) + kv_offs)  # empty slots hold zeros
        qk = _logits(q_tile, k_tile, entry, offs_n, W, PACK, WIDE, QUARTER)
        m_i, l_i, acc = _softmax_step(qk, scale, v_tile, m_i, l_i, acc, WIDE)
        if REST:
            gone = features(k_tile, (offs_n < entry % PACK)[:, None])
            s -= tl.dot(tl.trans(gone), v_tile, input_precision=WIDE)
            n -= tl.sum(gone.to(tl.float32), 0)
        entry = tl.load(entries + i, mask=i < number, other=0).to(tl.uint32)
    return m_i, l_i, acc, s, n


@triton.jit
def _over_summaries(
    q_tile, squares, far, far_v, words, bias, end, m_i, l_i, acc,
    D: tl.constexpr, WIDE: tl.constexpr, AT_ONCE: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Continue the online softmax over the summaries of the first `end` blocks. A block whose bit in `words` is 0 is
    masked. `squares` are the squared queries.
    """
    offs_d, offs_f = tl.arange(0, D), tl.arange(0, AT_ONCE)
    bit = tl.full([AT_ONCE], 1, tl.int32) << (offs_f % 32)
    for first in tl.range(0, end, AT_ONCE, num_stages=STAGES):
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
    return m_i, l_i, acc


@triton.jit
def _add_linear(
    acc, phi_q, s, n, weight, share, every, epsilon,
    D: tl.constexpr, WIDE: tl.constexpr, REST: tl.constexpr, CONVEX: tl.constexpr,
):  # fmt: skip
    """Add the linear branch of φ(q) (ROWS, D), from its sums s and n, to the output `acc` of the sparse branch."""
    den = tl.sum(phi_q * n[None, :], 1) + epsilon
    if CONVEX:
        phi_q *= ((1 - share) / den)[:, None]
    elif REST:
        phi_q *= tl.where(every, 0.0, 1 / den)[:, None]
    else:
        phi_q *= (1 / den)[:, None]
    if REST and not CONVEX:
        offs_d = tl.arange(0, D)
        w = tl.load(weight + offs_d[None, :] * D + offs_d[:, None])  # transposed
        acc = tl.dot(tl.dot(phi_q, s, input_precision=WIDE), w, acc=acc, input_precision=WIDE)
    else:  # the projection is already in the sums
        acc = tl.dot(phi_q, s, acc=acc, input_precision=WIDE)
    return acc


@triton.jit(
    do_not_specialize=["blocks", "padded", "groups", "heads", "first_exact", "count"]
)  # one binary for all sizes
def _attend(
    q, k, v, listed, every_tile, exact,  # operands, the key tiles of each group, and which groups attend to every tile
    far, far_v, bias, words,  # summaries, and the bits of those that are not masked
    square, norm, weight, alpha,  # the linear branch
    out,
    blocks, padded, groups, heads, first_exact, count, scale, epsilon,
    W: tl.constexpr, PARTS: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr, PACK: tl.constexpr,  # sizes
    FAR: tl.constexpr, REST: tl.constexpr, CONVEX: tl.constexpr,  # what is computed
    WIDE: tl.constexpr, QUARTER: tl.constexpr, STAGES: tl.constexpr, FAR_STAGES: tl.constexpr, AT_ONCE: tl.constexpr,
):  # fmt: skip
    """ROWS queries of one group: softmax over its tiles, then over summaries, then the linear branch."""
    pid = tl.program_id(0)
    part = pid % PARTS
    head, group = _group_of(pid // PARTS, groups, heads, first_exact)
    list_row = (head * groups + group).to(tl.int64)
    head_start = (head * blocks * W).to(tl.int64) * D
    offs_m, offs_d = (group * PARTS + part) * ROWS + tl.arange(0, ROWS), tl.arange(0, D)
    mask_m = (offs_m < blocks * W)[:, None]
    q_offs = offs_m[:, None] * D + offs_d[None, :]  # within a head, 32 bits are enough
    q_tile = tl.load(q + head_start + q_offs, mask=mask_m, other=0.0)
    every = (tl.load(exact + group) != 0) | (count >= blocks)
    number = tl.where(every, blocks, count)
    entries = tl.where(every, every_tile, listed + list_row * count)
    m_i = tl.full([ROWS], float("-inf"), tl.float32)
    l_i = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, D], tl.float32)
    s, n = 0.0, 0.0  # without REST they are loaded after the loop, which saves registers
    if REST:
        s, n = _branch_sums(square, norm, head, D)
    m_i, l_i, acc, s, n = _over_tiles(
        q_tile, k + head_start, v + head_start, entries, number, scale, m_i, l_i, acc, s, n,
        W, D, WIDE, PACK, QUARTER, REST, STAGES,
    )  # fmt: skip
    if FAR:
        # volatile: load q again here instead of keeping it in registers
        squares = tl.load(q + head_start + q_offs, mask=mask_m, other=0.0, volatile=True)
        squares *= squares
        m_i, l_i, acc = _over_summaries(
            q_tile, squares, far + head.to(tl.int64) * padded * 2 * D, far_v + head.to(tl.int64) * padded * D,
            words + list_row * (padded // 32), bias, tl.where(every, 0, padded), m_i, l_i, acc,
            D, WIDE, AT_ONCE, FAR_STAGES,
        )  # fmt: skip
    share = tl.where(every, 1.0, tl.load(alpha + head)) if CONVEX else 1.0
    acc *= (share / l_i)[:, None]
    if not REST:
        s, n = _branch_sums(square, norm, head, D)
    phi_q = phi(tl.load(q + head_start + q_offs, mask=mask_m, other=0.0, volatile=True).to(tl.float32))
    acc = _add_linear(acc, phi_q, s, n, weight, share, every, epsilon, D, WIDE, REST, CONVEX)
    tl.store(out + head_start + q_offs, acc.to(out.dtype.element_ty), mask=mask_m)


@dataclass(frozen=True)
class Launch:
    """Launch parameters of `sparse_attention`. They change the speed, and the result only by rounding.

    Two or more programs should fit on one multiprocessor, so that the exponentials of one overlap with the matrix
    products of another.
    """

    warps: int = 4
    stages: int = 3  # depth of the software pipeline over the key tiles
    registers: int | None = None  # limit of registers per thread; None: the compiler's choice
    rows: int = 128  # upper limit of the queries per program
    quarter: bool = True  # mask only the last quarter of most tiles, since most tiles are over three quarters full
    summaries: int = 32  # summaries per step, 32 or 64
    far_stages: int = 3  # depth of the software pipeline over the summaries

    def constants(self, rows: int) -> dict[str, int | bool | None]:
        """The compile-time arguments of `_attend`, for programs of `rows` queries."""
        return {
            "QUARTER": self.quarter,
            "STAGES": self.stages,
            "FAR_STAGES": self.far_stages,
            "AT_ONCE": self.summaries,
            "num_warps": self.warps if rows > 64 else 4,
            "num_stages": self.stages,
            "maxnreg": self.registers,
        }


DEFAULT = Launch()
OVER_REST = Launch(warps=8, quarter=False)  # the sums of the linear branch also need registers
LARGE = Launch(rows=64, stages=2)  # for tiles of more than 64 slots
NARROW = Launch(rows=64, registers=168, quarter=False, summaries=64)  # short groups: three programs per multiprocessor
FLOAT32 = Launch(warps=8, stages=1, far_stages=1)


def launch_for(tiles: Tiles, dtype: torch.dtype, rest: bool) -> Launch:
    """The launch parameters for these tiles; `rest`: the linear branch covers only the tiles that are not listed."""
    if dtype == torch.float32:
        return FLOAT32
    if tiles.width > 64:
        return LARGE
    if rest:
        return OVER_REST
    return DEFAULT if tiles.width * tiles.group >= DEFAULT.rows else NARROW


def sparse_attention(
    q: Tensor, k: Tensor, v: Tensor, listed: Tensor, left: Tensor, tiles: Tiles, branch: LinearBranch,
    summaries: Summaries | None, launch: Launch | None = None,
) -> Tensor:  # fmt: skip
    """See `twins.sparse_attention`; `launch` None chooses with `launch_for`."""
    launch = launch or launch_for(tiles, q.dtype, branch.rest)
    heads, slots, dim = q.shape
    groups, count = listed.shape[1:]
    out = torch.empty_like(q)
    square = branch.square if branch.weight is None or branch.rest else branch.square @ branch.weight.T
    packed, words = (q, q, tiles.log2_lengths), left
    if summaries is not None:
        packed = pack_summaries(summaries, tiles.log2_lengths, launch.summaries, q.dtype)
        words = pack_bits(left, packed[0].shape[1])
    together = tiles.width * tiles.group
    rows = min(launch.rows, together)
    parts = together // rows
    weight, alpha = (branch.norm if t is None else t for t in (branch.weight, branch.alpha))
    _attend[(heads * groups * parts,)](
        q, k, v, listed, tiles.packed_ids, tiles.full_rows.view(torch.uint8),
        *packed, words,
        square, branch.norm, weight, alpha,
        out,
        slots // tiles.width, packed[0].shape[1], groups, heads, tiles.leading_full_rows, count, dim**-0.5 * LOG2_E,
        EPSILON,
        W=tiles.width, PARTS=parts, ROWS=rows, D=dim, PACK=PACK,
        FAR=summaries is not None, REST=branch.rest, CONVEX=branch.alpha is not None,
        WIDE=precision(q), **launch.constants(rows),
    )  # fmt: skip
    return out
