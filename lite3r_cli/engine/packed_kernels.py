"""GPU kernels over packed tokens, with the same names and arguments as the steps in `attention/packed.py`, whose
docstrings say what each computes. Names inside the kernels are as in `block_kernels.py`.

On Hopper GPUs, `gathered_attention` (`hopper_attention.cu`) and `list_blocks` (`list_blocks.cu`) are CUDA C++; all
other kernels are Triton.
"""

from __future__ import annotations

import math
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from lite3r_cli.attention.packed import KEYS, LARGEST, PART, SUMMARY, Lists, PackedPlan, ask
from lite3r_cli.engine.cuda_kernel import Kernel

LOG2_E = 1.4426950408889634
__all__ = ["ask", "block_shares", "gathered_attention", "list_blocks", "summarise_blocks"]

MOST_SHARED = 200_000  # bytes: upper limit of the shared memory of `list_blocks.cu`
HOPPER_SHARED = 16384 + 3 * 32768 + 3 * 256  # bytes: queries, three stages of keys and values, biases
PER: int = SUMMARY // KEYS


@triton.jit
def _summarise(
    keys, values, squares, spreads, rows, first, parts, fine, coarse, blocks, supers, heads,
    KEYS: tl.constexpr, PER: tl.constexpr, D: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    at, part = tl.program_id(0), tl.program_id(1)
    head, of_keys = (part % heads).to(tl.int64), part < heads
    table = tl.where(of_keys, keys, values) + head * rows * D
    key, channel = tl.arange(0, KEYS), tl.arange(0, D)
    weigh = tl.load(squares + head * D + channel) / (2 * D)
    spreads += head * (blocks + supers)
    kind = keys.dtype.element_ty
    whole = tl.zeros([D], tl.float32)
    wide = tl.zeros([D], tl.float32)
    for i in tl.static_range(PER):
        number = at * PER + i
        place = (first + number * KEYS + key).to(tl.int64)[:, None] * D + channel[None, :]
        x = tl.load(table + place, mask=(number + key * 0 < blocks)[:, None], other=0.0).to(tl.float32)
        mean, square = tl.sum(x, 0) / KEYS, tl.sum(x * x, 0) / KEYS
        if PARTS > 0:  # means of a block's parts
            part_of = tl.sum(tl.reshape(x, (PARTS, KEYS // PARTS, D)), 1) / (KEYS // PARTS)
            to = tl.cast(parts + number * PARTS + tl.arange(0, PARTS), tl.int64)[:, None] * D + channel[None, :]
            tl.store(table + to, part_of.to(kind), mask=number + to * 0 < blocks)
        whole += mean / PER
        wide += square / PER
        tl.store(
            table + tl.cast(fine + number, tl.int64) * D + channel, mean.to(kind), mask=number + channel * 0 < blocks
        )
        one = tl.sum((square - mean * mean) * weigh, 0) + tl.zeros([1], tl.float32)
        tl.store(spreads + number + tl.arange(0, 1), one, mask=number + tl.arange(0, 1) < tl.where(of_keys, blocks, 0))
    tl.store(table + tl.cast(coarse + at, tl.int64) * D + channel, whole.to(kind), mask=at + channel * 0 < supers)
    one = tl.sum((wide - whole * whole) * weigh, 0) + tl.zeros([1], tl.float32)
    tl.store(spreads + blocks + at + tl.arange(0, 1), one, mask=at + tl.arange(0, 1) < tl.where(of_keys, supers, 0))


def summarise_blocks(keys: Tensor, values: Tensor, squares: Tensor, plan: PackedPlan) -> Tensor:
    heads, rows, dim = keys.shape
    spreads = torch.empty(heads, plan.blocks + plan.supers, device=keys.device, dtype=torch.float32)
    if plan.blocks:
        grid = triton.cdiv(plan.blocks, PER), 2 * heads
        sizes = rows, plan.first, plan.queries, plan.fine, plan.coarse, plan.blocks, plan.supers, heads
        parts = KEYS // PART if plan.parts else 0
        _summarise[grid](keys, values, squares, spreads, *sizes, KEYS=KEYS, PER=PER, D=dim, PARTS=parts, num_warps=1)
    return spreads


@triton.jit
def _logits(q_tile, keys, spreads, offs_n, last, scale, more, D: tl.constexpr, WIDE: tl.constexpr):
    """Logits (M, N), base 2, of queries over the means `offs_n` below `last`; −inf beyond. `more` is log2 of the tokens
    per mean."""
    offs_d, mask_n = tl.arange(0, D), offs_n < last
    k_tile = tl.load(keys + offs_n[:, None] * D + offs_d[None, :], mask=mask_n[:, None], other=0.0)
    bias = tl.load(spreads + offs_n, mask=mask_n, other=0.0) * 1.4426950408889634 + more
    return tl.where(
        mask_n[None, :], tl.dot(q_tile, tl.trans(k_tile), input_precision=WIDE) * scale + bias[None, :], float("-inf")
    )


@triton.jit
def _more(qk, m_i, l_i):
    m_new = tl.maximum(m_i, tl.max(qk, 1))
    return m_new, l_i * tl.exp2(m_i - m_new) + tl.sum(tl.exp2(qk - m_new[:, None]), 1)


@triton.jit
def _shares(
    asked, keys, spreads, out, asked_rows, rows, fine, groups, blocks, supers, covered, scale,
    M: tl.constexpr, N: tl.constexpr, A: tl.constexpr, D: tl.constexpr, FINE: tl.constexpr, COARSE: tl.constexpr,
    LARGEST: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    part, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    offs_m, offs_n, offs_d = part * M + tl.arange(0, M), tl.arange(0, N), tl.arange(0, D)
    q_tile = tl.load(
        asked + (head * asked_rows + offs_m[:, None]) * D + offs_d[None, :],
        mask=(offs_m < asked_rows)[:, None],
        other=0.0,
    )
    keys += (head * rows + fine) * D
    spreads += head * (blocks + supers)
    m_i = tl.full([M], -1e30, tl.float32)
    l_i = tl.zeros([M], tl.float32)
    for start in range(blocks, blocks + supers, N):
        m_i, l_i = _more(
            _logits(q_tile, keys, spreads, start + offs_n, blocks + supers, scale, COARSE, D, WIDE), m_i, l_i
        )
    if covered < blocks:
        m_i, l_i = _more(
            _logits(q_tile, keys, spreads, covered + tl.arange(0, 16), blocks, scale, FINE, D, WIDE), m_i, l_i
        )
    m_i += tl.log2(l_i)
    group = part * (M // A) + tl.arange(0, M // A)
    for start in range(0, blocks, N):
        qk = _logits(q_tile, keys, spreads, start + offs_n, blocks, scale, FINE, D, WIDE)
        shares = tl.sum(tl.reshape(tl.exp2(tl.minimum(qk - m_i[:, None], LARGEST)), (M // A, A, N)), 1)
        mask_n = (group < groups)[:, None] & (start + offs_n < blocks)[None, :]
        tl.store(out + (head * groups + group[:, None]) * blocks + start + offs_n[None, :], shares, mask=mask_n)


def block_shares(asked: Tensor, keys: Tensor, spreads: Tensor, plan: PackedPlan) -> Tensor:
    heads, asked_rows, dim = asked.shape
    groups, each = plan.asked.shape
    out = torch.empty(heads, groups, plan.blocks, device=asked.device, dtype=torch.float32)
    sizes = asked_rows, keys.shape[1], plan.fine, groups, plan.blocks, plan.supers, plan.supers * PER
    _shares[triton.cdiv(asked_rows, 64), heads](
        asked, keys, spreads, out, *sizes, dim**-0.5 * LOG2_E,
        M=64, N=128, A=each, D=dim, FINE=math.log2(KEYS), COARSE=math.log2(SUMMARY), LARGEST=LARGEST * LOG2_E,
        WIDE="ieee" if asked.dtype == torch.float32 else "tf32", num_warps=4, num_stages=3,
    )  # fmt: skip
    return out


@triton.jit
def _largest(key, mask_n, count):
    """Which of the keys are the `count` largest: by binary search; of equal ones the first."""
    low = tl.min(tl.where(mask_n, key, 0xFFFF), 0)
    high = tl.max(tl.where(mask_n, key, 0), 0)
    for _ in range(17):
        mid = low + (high - low + 1) // 2
        enough = tl.sum((mask_n & (key >= mid)).to(tl.int32), 0) >= count
        low = tl.where(enough, mid, low)
        high = tl.where(enough, high, tl.maximum(mid - 1, low))
    above, equal = mask_n & (key > low), mask_n & (key == low)
    spare = count - tl.sum(above.to(tl.int32), 0)
    return above | (equal & (tl.cumsum(equal.to(tl.int32), 0) <= spare))


@triton.jit
def _list(
    shares, loose, out, rows, lengths, blocks, supers, count, parted, special_blocks, loose_count, room, first_block,
    parts, fine, coarse, BLOCK: tl.constexpr, PER: tl.constexpr, SPECIAL: tl.constexpr, LOOSE: tl.constexpr,
    PARTS: tl.constexpr,
):  # fmt: skip
    row, offs_n = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    mask_n = offs_n < blocks
    # shares are not negative, so their bit patterns have the same order; eight mantissa bits are enough
    key = tl.load(shares + row * blocks + offs_n, mask=mask_n, other=0.0).to(tl.int32, bitcast=True) >> 15
    chosen = _largest(key, mask_n, count)
    out += row * (special_blocks + count)
    special = tl.arange(0, SPECIAL)
    tl.store(out + special, special, mask=special < special_blocks)
    tl.store(out + special_blocks + tl.cumsum(chosen.to(tl.int32), 0) - 1, first_block + offs_n, mask=chosen)
    rows += row * room
    single = tl.arange(0, LOOSE)
    tl.store(rows + single, tl.load(loose + single, mask=single < loose_count, other=0), mask=single < loose_count)
    rows += loose_count
    listed = chosen
    if PARTS > 0:
        listed = _largest(key, mask_n, count + parted)
        split = listed & (chosen == 0)
        to = (tl.cumsum(split.to(tl.int32), 0) - 1) * PARTS
        for i in tl.static_range(PARTS):
            tl.store(rows + to + i, parts + offs_n * PARTS + i, mask=split)
        rows += parted * PARTS
    touched = tl.max(tl.reshape(listed.to(tl.int32), (BLOCK // PER, PER)), 1)
    spread = tl.reshape(tl.broadcast_to(touched[:, None], (BLOCK // PER, PER)), (BLOCK,))
    small = mask_n & (listed == 0) & ((spread != 0) | (offs_n >= supers * PER))
    tl.store(rows + tl.cumsum(small.to(tl.int32), 0) - 1, fine + offs_n, mask=small)
    rows += tl.sum(small.to(tl.int32), 0)
    number = tl.arange(0, BLOCK // PER)
    large = (number < supers) & (touched == 0)
    tl.store(rows + tl.cumsum(large.to(tl.int32), 0) - 1, coarse + number, mask=large)
    means = tl.sum(small.to(tl.int32), 0) + tl.sum(large.to(tl.int32), 0)
    tl.store(lengths + row, loose_count + parted * PARTS + means)


def list_blocks(shares: Tensor, plan: PackedPlan, count: int) -> Lists:
    heads, groups, blocks = shares.shape
    room = plan.room(count)
    out = torch.empty(heads, groups, plan.special_blocks + count, device=shares.device, dtype=torch.int32)
    rows = torch.empty(heads, groups, room, device=shares.device, dtype=torch.int32)
    lengths = torch.empty(heads, groups, device=shares.device, dtype=torch.int32)
    sizes = (
        blocks, plan.supers, count, plan.parted(count), plan.special_blocks, len(plan.loose), room, plan.first // KEYS,
        plan.queries, plan.fine, plan.coarse,
    )  # fmt: skip
    if by_cuda(shares):
        _cuda("list_blocks", shares.device.index or 0)(
            heads * groups, shares, plan.loose, out, rows, lengths, *sizes, shared=2 * blocks
        )
        return Lists(out, rows, lengths)
    block = max(16, triton.next_power_of_2(blocks))
    _list[(heads * groups,)](
        shares, plan.loose, out, rows, lengths, *sizes,
        BLOCK=block, PER=PER, SPECIAL=triton.next_power_of_2(max(1, plan.special_blocks)),
        LOOSE=triton.next_power_of_2(max(1, len(plan.loose))), PARTS=KEYS // PART if plan.parts else 0,
        num_warps=max(1, min(16, block // 2048)),
    )  # fmt: skip
    return Lists(out, rows, lengths)


@triton.jit
def _softmax_step(qk, v_tile, m_i, l_i, acc, WIDE: tl.constexpr):
    m_new = tl.maximum(m_i, tl.max(qk, 1))
    p = tl.exp2(qk - m_new[:, None])
    alpha = tl.exp2(m_i - m_new)
    acc = tl.dot(p.to(v_tile.dtype), v_tile, acc=acc * alpha[:, None], input_precision=WIDE)
    return m_new, l_i * alpha + tl.sum(p, 1), acc


@triton.jit
def _gathered(
    q, keys, values, blocks, rows, lengths, every, every_rows, out,
    heads, slots, q_rows, table, groups, exact, count, room, all_count, all_rows, parts, fine, coarse, scale,
    ROWS: tl.constexpr, N: tl.constexpr, KEYS: tl.constexpr, PER: tl.constexpr, PART: tl.constexpr, D: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    usual = pid - heads * exact
    all_of = usual < 0
    head = tl.where(all_of, pid % heads, usual // tl.maximum(groups - exact, 1)).to(tl.int64)
    group = tl.where(all_of, pid // heads, exact + usual % tl.maximum(groups - exact, 1))
    at = head * (groups - exact) + group - exact
    listed = tl.where(all_of, every, blocks + at * count)
    singles = tl.where(all_of, every_rows, rows + at * room)
    number = tl.where(all_of, all_count, count)
    wanted = tl.where(all_of, all_rows, tl.load(lengths + at, mask=usual >= 0, other=0))
    offs_m, offs_n, offs_d = group * ROWS + tl.arange(0, ROWS), tl.arange(0, N), tl.arange(0, D)
    q_tile = tl.load(q + (head * q_rows + offs_m[:, None]) * D + offs_d[None, :])
    keys += head * table * D
    values += head * table * D
    m_i = tl.full([ROWS], -1e30, tl.float32)
    l_i = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, D], tl.float32)
    for start in range(0, number, N // KEYS):
        entry = start + offs_n // KEYS
        place = tl.load(listed + entry, mask=entry < number, other=0) * KEYS + offs_n % KEYS
        kv_offs = place.to(tl.int64)[:, None] * D + offs_d[None, :]
        qk = tl.dot(q_tile, tl.trans(tl.load(keys + kv_offs)), input_precision=WIDE) * scale
        qk = tl.where((entry < number)[None, :], qk, -1e30)
        m_i, l_i, acc = _softmax_step(qk, tl.load(values + kv_offs), m_i, l_i, acc, WIDE)
    for start in range(0, wanted, N):
        mask_n = start + offs_n < wanted
        place = tl.load(singles + start + offs_n, mask=mask_n, other=0)
        bias = tl.where(place < coarse, KEYS.bit_length() - 1.0, (KEYS * PER).bit_length() - 1.0)
        bias = tl.where(place < fine, tl.where(place < parts, 0.0, PART.bit_length() - 1.0), bias)
        kv_offs = place.to(tl.int64)[:, None] * D + offs_d[None, :]
        qk = tl.dot(q_tile, tl.trans(tl.load(keys + kv_offs)), input_precision=WIDE) * scale
        qk = tl.where(mask_n[None, :], qk + bias[None, :], -1e30)
        m_i, l_i, acc = _softmax_step(qk, tl.load(values + kv_offs), m_i, l_i, acc, WIDE)
    acc /= l_i[:, None]
    tl.store(out + (head * slots + offs_m[:, None]) * D + offs_d[None, :], acc.to(out.dtype.element_ty))


@cache
def _cuda(name: str, device: int, **defined: int) -> Kernel:
    """The kernel `name` of `name`.cu, compiled for the device with these macros. Cached."""
    with torch.cuda.device(device):
        major, minor = torch.cuda.get_device_capability()
        shared = HOPPER_SHARED if name == "hopper_attention" else MOST_SHARED
        return Kernel(f"{name}.cu", name, f"sm_{major}{minor}{'a' if major == 9 else ''}", 256, shared, defined)


def by_cuda(x: Tensor) -> bool:
    """Whether the CUDA C++ kernels run on the device of x: a GPU of compute capability 9."""
    return x.device.type == "cuda" and torch.cuda.get_device_capability(x.device)[0] == 9


def on_hopper(q: Tensor) -> bool:
    """Whether `hopper_attention.cu` computes attention of q (H, slots, D): bfloat16 with D = 64 on a Hopper GPU."""
    return by_cuda(q) and q.dtype == torch.bfloat16 and q.shape[-1] == 64


def gathered_attention(
    q: Tensor, keys: Tensor, values: Tensor, lists: Lists | None, plan: PackedPlan, out: Tensor | None = None
) -> Tensor:
    heads, q_rows, dim = q.shape
    out = torch.empty(heads, plan.queries, dim, device=q.device, dtype=q.dtype) if out is None else out
    exact = plan.groups if lists is None else plan.exact
    given: tuple[Tensor | None, ...] = (None,) * 3 if lists is None else (lists.blocks, lists.rows, lists.lengths)
    count, room = (0, 0) if lists is None else (lists.blocks.shape[2], lists.rows.shape[2])
    listed = len(plan.all_blocks), len(plan.loose)
    scale = dim**-0.5 * LOG2_E
    if on_hopper(q):
        units = 128 // plan.group  # groups that a thread block computes
        _cuda("hopper_attention", q.device.index or 0, ROWS=plan.group)(
            -(-heads * plan.groups // units), q, keys, values, *given, plan.all_blocks, plan.loose, out, None,
            heads, plan.queries, q_rows, keys.shape[1], plan.groups, exact, count, room, *listed, plan.queries,
            plan.fine, plan.coarse, scale,
        )  # fmt: skip
        return out
    given = tuple(plan.all_blocks if t is None else t for t in given)
    _gathered[(heads * plan.groups,)](
        q, keys, values, *given, plan.all_blocks, plan.loose, out,
        heads, plan.queries, q_rows, keys.shape[1], plan.groups, exact, count, room, *listed, plan.queries, plan.fine,
        plan.coarse, scale, ROWS=plan.group, N=64, KEYS=KEYS, PER=PER, PART=PART, D=dim,
        WIDE="ieee" if q.dtype == torch.float32 else "tf32", num_warps=plan.group // 16, num_stages=2,
    )  # fmt: skip
    return out
