"""Triton kernels of attention over a cache that grows: the number of keys and the slots that are written are read on
the device, so that one CUDA graph serves every step of a stream.

The functions have the same names and arguments as in `twins.py`, whose docstrings say what they compute. Names follow
FlashAttention's Triton code, as in `attend_kernels.py`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lite3r_cli.engine.block_kernels import precision

LOG2_E = 1.4426950408889634  # exponentials are powers of two
BLOCK_M, BLOCK_N = 128, 64
ROWS = 64  # tokens that a program stores


@triton.jit
def _grow(
    q, k, v, keys, before, lse, out, queries, k_head, scale,
    D: tl.constexpr, M: tl.constexpr, N: tl.constexpr, BEFORE: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    head, offs_m = tl.program_id(1).to(tl.int64), tl.program_id(0) * M + tl.arange(0, M)
    offs_n, offs_d = tl.arange(0, N), tl.arange(0, D)
    mask_m = offs_m < queries
    q_offs = (head * queries + offs_m[:, None]) * D + offs_d[None, :]
    q_tile = tl.load(q + q_offs, mask=mask_m[:, None], other=0.0)
    if BEFORE:
        m_i = tl.load(lse + head * queries + offs_m, mask=mask_m, other=0.0) * 1.4426950408889634
        l_i = tl.full([M], 1.0, tl.float32)
        acc = tl.load(before + q_offs, mask=mask_m[:, None], other=0.0).to(tl.float32)
    else:
        m_i = tl.full([M], float("-inf"), tl.float32)
        l_i = tl.zeros([M], tl.float32)
        acc = tl.zeros([M, D], tl.float32)
    count = tl.load(keys)
    k_rows = k + head * k_head + offs_d[None, :]
    v_rows = v + head * k_head + offs_d[None, :]
    for start in range(0, count, N):
        mask_n = start + offs_n < count
        rows = (start + offs_n).to(tl.int64)[:, None] * D
        k_tile = tl.load(k_rows + rows, mask=mask_n[:, None], other=0.0)
        qk = tl.dot(q_tile, tl.trans(k_tile), input_precision=WIDE) * scale
        qk = tl.where(mask_n[None, :], qk, float("-inf"))
        m_new = tl.maximum(m_i, tl.max(qk, 1))
        p = tl.exp2(qk - m_new[:, None])
        alpha = tl.exp2(m_i - m_new)
        l_i = l_i * alpha + tl.sum(p, 1)
        v_tile = tl.load(v_rows + rows, mask=mask_n[:, None], other=0.0)
        acc = tl.dot(p.to(v_tile.dtype), v_tile, acc=acc * alpha[:, None], input_precision=WIDE)
        m_i = m_new
    tl.store(out + q_offs, (acc / l_i[:, None]).to(out.dtype.element_ty), mask=mask_m[:, None])


def growing_attention(
    q: Tensor, k: Tensor, v: Tensor, keys: Tensor, before: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    heads, queries, dim = q.shape
    q = q.contiguous()
    out = torch.empty_like(q)
    earlier, lse = (q, q) if before is None else (before[0].contiguous(), before[1].contiguous())
    if k.stride() != v.stride() or k.stride(1) != dim or k.stride(2) != 1:
        raise ValueError("keys and values must be slices of one cache (H, tokens, D)")
    block = min(BLOCK_M, max(16, triton.next_power_of_2(queries)))
    _grow[(triton.cdiv(queries, block), heads)](
        q, k, v, keys, earlier, lse, out, queries, k.stride(0), dim**-0.5 * LOG2_E,
        D=dim, M=block, N=BLOCK_N if q.dtype != torch.float32 else 16, BEFORE=before is not None,
        WIDE=precision(q), num_warps=4 if dim <= 64 else 8, num_stages=3,
    )  # fmt: skip
    return out


@triton.jit
def _store(
    tokens, cache, slots, count, given_size, head_size, moved, D: tl.constexpr, ROWS: tl.constexpr, MOVED: tl.constexpr
):  # fmt: skip
    block, head, offs_d = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.arange(0, D)[None, :]
    kept = cache + head * head_size + offs_d
    start = tl.load(slots)
    if MOVED and block == 0:
        offs = tl.arange(0, MOVED)[:, None]
        old = tl.load(kept + (start + offs) * D, mask=offs < moved, other=0.0)
        tl.store(kept + (tl.load(slots + 1) + offs) * D, old, mask=offs < moved)
        tl.debug_barrier()  # the same program overwrites these rows: all of its threads must have read them
    row = block * ROWS + tl.arange(0, ROWS)[:, None]
    value = tl.load(tokens + head * given_size + row * D + offs_d, mask=row < count, other=0.0)
    tl.store(kept + (start + row) * D, value, mask=row < count)


def store_tokens(tokens: Tensor, cache: Tensor, slots: Tensor, moved: int) -> None:
    kinds, heads, count, dim = tokens.shape
    size = tokens.stride(1)
    if tokens.stride() != (heads * size, size, dim, 1) or not cache.is_contiguous() or moved > min(count, ROWS):
        raise ValueError("the cache must be contiguous, tokens slices of (2, H, rows, D), and moved tokens few")
    _store[(triton.cdiv(count, ROWS), kinds * heads)](
        tokens, cache, slots, count, size, cache.stride(1), moved,
        D=dim, ROWS=ROWS, MOVED=triton.next_power_of_2(moved) if moved else 0, num_warps=4,
    )  # fmt: skip
