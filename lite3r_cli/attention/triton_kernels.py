"""The Triton kernels of sparse-linear attention: forward, gradient of the queries, gradients of keys and values.

A program owns one tile of T ≤ TILE queries, or of K ≤ SIDE keys. In the exact branch it walks the tiles that it is
paired with, by an online softmax (FlashAttention-2, arXiv 2307.08691), WIDTH keys of one or more tiles at a time; then
it applies the linear branch to the tile that it still holds. A head has `rows` query tiles and `blocks` key tiles.

    forward    O_s = softmax(q kᵀ / √D) v,  lse its log-sum in powers of two;   O_l = φ(q) S / (φ(q)·z + ε)
    queries    P = 2^(q kᵀ − lse),  dP = dO_s vᵀ,  dS = P (dP − δ),  dq = dS k / √D,   δ = Σ dO_s O_s
               n = dO_l / den,  m = −Σ dO_l O_l / den:   dφ = n Sᵀ + m z,   and for the keys   φᵀ n,  φᵀ m
    keys       dk = dSᵀ q / √D,  dv = Pᵀ dO_s;   with U, u the sums of φᵀ n, φᵀ m:   dφ = v Uᵀ + u,  dv += φ(k) U

With SUMMARIES the softmax goes on over the blocks that are not kept, one token each (`torch_summary.py`), WIDTH at a
time.

Products of half-precision operands run in the tensor cores, all sums are float32.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def phi(x, PHI: tl.constexpr):
    """The feature map of x (TILE, D) float32: 0 softmax, 1 ELU + 1, 2 ReLU."""
    if PHI == 0:
        e = tl.exp(x - tl.max(x, 1)[:, None])
        return e / tl.sum(e, 1)[:, None]
    elif PHI == 1:
        return tl.where(x > 0, x + 1, tl.exp(tl.minimum(x, 0.0)))
    else:
        return tl.maximum(x, 0.0)


@triton.jit
def phi_gradient(x, f, df, PHI: tl.constexpr):
    """Of x, from the gradient df of f = φ(x)."""
    if PHI == 0:
        return f * (df - tl.sum(f * df, 1)[:, None])
    elif PHI == 1:
        return tl.where(x > 0, df, df * f)
    else:
        return tl.where(x > 0, df, 0.0)


@triton.jit
def key_slots(
    columns, counts, lengths, row, first, head, blocks, K: tl.constexpr, SIDE: tl.constexpr, WIDTH: tl.constexpr
):
    """The tokens of the key tiles that query tile `row` meets from the one numbered `first` on: their places among all
    slots (WIDTH,), and which of them there are."""
    slot = tl.arange(0, WIDTH)
    which, lane = first + slot // SIDE, slot % SIDE
    met = which < tl.load(counts + row)
    column = tl.load(columns + row * blocks + which, mask=met, other=0)
    return (head * blocks + column) * K + lane, met & (lane < tl.load(lengths + column))


@triton.jit
def summary_tile(far_k, far_s, first, place, blocks, D: tl.constexpr, WIDTH: tl.constexpr):
    """Mean keys and spreads (WIDTH, D) of the blocks from `first` on, zeros beyond the last; `place` is the head's
    first.
    """
    which = first + tl.arange(0, WIDTH)
    there = (place + which)[:, None] * D + tl.arange(0, D)[None, :]
    inside = (which < blocks)[:, None]
    return tl.load(far_k + there, mask=inside, other=0.0), tl.load(far_s + there, mask=inside, other=0.0)


@triton.jit
def summary_logits(
    wide, keys, spread, seen, lengths, row, first, blocks, scale, half, WIDTH: tl.constexpr, WIDE: tl.constexpr
):
    """Of queries `wide` (TILE, D) float32, in powers of two; −inf for blocks that the query tile does not see so."""
    which = first + tl.arange(0, WIDTH)
    inside = which < blocks
    on = tl.load(seen + row * blocks + which, mask=inside, other=0)
    count = tl.load(lengths + which, mask=inside, other=1).to(tl.float32)
    behind = tl.where(on != 0, tl.log2(count), float("-inf"))
    logits = tl.dot(wide, tl.trans(keys), input_precision=WIDE) * scale
    logits += tl.dot(wide * wide, tl.trans(spread), input_precision=WIDE) * half
    return logits + behind[None, :]


@triton.jit
def forward(
    q, k, v, totals, norms, columns, counts, lengths,  # tiles (all, T or K, D); totals (heads, per_head, D, D)
    far_k, far_s, far_v, seen,  # summaries (heads, blocks, D), which of them a query tile sees (all, blocks)
    sparse, linear, lse,  # out: tiles (all, T, D), (all, T)
    rows, blocks, per_head, scale, half, epsilon,
    T: tl.constexpr, TILE: tl.constexpr, K: tl.constexpr, SIDE: tl.constexpr, WIDTH: tl.constexpr,
    D: tl.constexpr, PHI: tl.constexpr, WIDE: tl.constexpr, SUMMARIES: tl.constexpr,
):  # fmt: skip
    """One query tile: softmax over its critical key tiles (and the summaries that it sees) with a running maximum, as
    in FlashAttention-2 (arXiv 2307.08691), and the linear branch from the sums of its head.
    """
    row = tl.program_id(0).to(tl.int64)
    head, block = row // rows, row % rows
    slot, channel = tl.arange(0, TILE), tl.arange(0, D)
    inside = slot < T
    here = slot[:, None] * D + channel[None, :]
    x = tl.load(q + row * T * D + here, mask=inside[:, None], other=0.0)
    top = tl.full([TILE], float("-inf"), tl.float32)
    total = tl.zeros([TILE], tl.float32)
    out = tl.zeros([TILE, D], tl.float32)
    for first in range(0, tl.load(counts + row), WIDTH // SIDE):
        place, known = key_slots(columns, counts, lengths, row, first, head, blocks, K, SIDE, WIDTH)
        there = place[:, None] * D + channel[None, :]
        keys = tl.load(k + there, mask=known[:, None], other=0.0)
        values = tl.load(v + there, mask=known[:, None], other=0.0)
        logits = tl.dot(x, tl.trans(keys), input_precision="ieee") * scale
        logits = tl.where(known[None, :], logits, float("-inf"))
        higher = tl.maximum(top, tl.max(logits, 1))
        weights = tl.exp2(logits - higher[:, None])
        fade = tl.exp2(top - higher)
        total = total * fade + tl.sum(weights, 1)
        out = tl.dot(weights.to(values.dtype), values, acc=out * fade[:, None], input_precision="ieee")
        top = higher
    wide = x.to(tl.float32)
    if SUMMARIES:
        for first in range(0, blocks, WIDTH):
            keys, spread = summary_tile(far_k, far_s, first, head * blocks, blocks, D, WIDTH)
            values, _ = summary_tile(far_v, far_v, first, head * blocks, blocks, D, WIDTH)
            logits = summary_logits(wide, keys, spread, seen, lengths, row, first, blocks, scale, half, WIDTH, WIDE)
            higher = tl.maximum(top, tl.max(logits, 1))
            weights = tl.exp2(logits - higher[:, None])
            fade = tl.exp2(top - higher)
            total = total * fade + tl.sum(weights, 1)
            out = tl.dot(weights, values, acc=out * fade[:, None], input_precision=WIDE)
            top = higher
    tl.store(sparse + row * T * D + here, (out / total[:, None]).to(sparse.dtype.element_ty), mask=inside[:, None])
    tl.store(lse + row * T + slot, top + tl.log2(total), mask=inside)
    group = head * per_head + block % per_head
    square = tl.load(totals + group * D * D + channel[:, None] * D + channel[None, :])
    norm = tl.load(norms + group * D + channel)
    f = phi(wide, PHI)
    mean = tl.dot(f, square, input_precision=WIDE) / (tl.sum(f * norm[None, :], 1) + epsilon)[:, None]
    tl.store(linear + row * T * D + here, mean.to(linear.dtype.element_ty), mask=inside[:, None])


@triton.jit
def queries_backward(
    q, k, v, totals, norms, columns, counts, lengths, far_k, far_s, far_v, seen, lse, delta, d_sparse, d_linear,
    dq, d_totals, d_norms,  # out: tiles (all, T, D); of each query tile (all, D, D) and (all, D)
    rows, blocks, per_head, scale, half, root, epsilon,
    T: tl.constexpr, TILE: tl.constexpr, K: tl.constexpr, SIDE: tl.constexpr, WIDTH: tl.constexpr,
    D: tl.constexpr, PHI: tl.constexpr, WIDE: tl.constexpr, SUMMARIES: tl.constexpr,
):  # fmt: skip
    """One query tile: the gradients of its queries, and of the sums that its linear branch read."""
    row = tl.program_id(0).to(tl.int64)
    head, block = row // rows, row % rows
    slot, channel = tl.arange(0, TILE), tl.arange(0, D)
    inside = slot < T
    here = slot[:, None] * D + channel[None, :]
    x = tl.load(q + row * T * D + here, mask=inside[:, None], other=0.0)
    g = tl.load(d_sparse + row * T * D + here, mask=inside[:, None], other=0.0)
    level = tl.load(lse + row * T + slot, mask=inside, other=0.0)
    along = tl.load(delta + row * T + slot, mask=inside, other=0.0)
    change = tl.zeros([TILE, D], tl.float32)
    for first in range(0, tl.load(counts + row), WIDTH // SIDE):
        place, known = key_slots(columns, counts, lengths, row, first, head, blocks, K, SIDE, WIDTH)
        there = place[:, None] * D + channel[None, :]
        keys = tl.load(k + there, mask=known[:, None], other=0.0)
        values = tl.load(v + there, mask=known[:, None], other=0.0)
        logits = tl.dot(x, tl.trans(keys), input_precision="ieee") * scale
        weights = tl.exp2(tl.where(known[None, :], logits, float("-inf")) - level[:, None])
        ds = weights * (tl.dot(g, tl.trans(values), input_precision="ieee") - along[:, None])
        change = tl.dot(ds.to(keys.dtype), keys, acc=change, input_precision="ieee")
    wide = x.to(tl.float32)
    if SUMMARIES:
        for first in range(0, blocks, WIDTH):
            keys, spread = summary_tile(far_k, far_s, first, head * blocks, blocks, D, WIDTH)
            values, _ = summary_tile(far_v, far_v, first, head * blocks, blocks, D, WIDTH)
            logits = summary_logits(wide, keys, spread, seen, lengths, row, first, blocks, scale, half, WIDTH, WIDE)
            weights = tl.exp2(logits - level[:, None])
            ds = weights * (tl.dot(g.to(tl.float32), tl.trans(values), input_precision=WIDE) - along[:, None])
            change = tl.dot(ds, keys, acc=change, input_precision=WIDE)
            change += root * wide * tl.dot(ds, spread, input_precision=WIDE)
    group = head * per_head + block % per_head
    square = tl.load(totals + group * D * D + channel[:, None] * D + channel[None, :])
    norm = tl.load(norms + group * D + channel)
    f = phi(wide, PHI)
    g = tl.load(d_linear + row * T * D + here, mask=inside[:, None], other=0.0).to(tl.float32)
    below = tl.sum(f * norm[None, :], 1) + epsilon
    mean = tl.dot(f, square, input_precision=WIDE) / below[:, None]
    n = g / below[:, None]
    m = (-tl.sum(g * mean, 1) / below)[:, None]
    df = tl.dot(n, tl.trans(square), input_precision=WIDE) + m * norm[None, :]
    change = change * root + phi_gradient(wide, f, df, PHI)
    tl.store(dq + row * T * D + here, change.to(dq.dtype.element_ty), mask=inside[:, None])
    outer = tl.dot(tl.trans(f), n, input_precision=WIDE)
    tl.store(d_totals + row * D * D + channel[:, None] * D + channel[None, :], outer)
    tl.store(d_norms + row * D + channel, tl.sum(f * m, 0))


@triton.jit
def keys_backward(
    q, k, v, meeting, counts, lengths, lse, delta, d_sparse, d_totals, d_norms,  # d_totals (heads, per_head, D, D)
    dk, dv,  # out: tiles (all, K, D)
    rows, blocks, per_head, scale, root,
    T: tl.constexpr, TILE: tl.constexpr, K: tl.constexpr, SIDE: tl.constexpr, D: tl.constexpr, PHI: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    """One key tile: the gradients of its keys and values, from the query tiles to which it is critical."""
    column = tl.program_id(0).to(tl.int64)
    head, block = column // blocks, column % blocks
    slot, lane, channel = tl.arange(0, TILE), tl.arange(0, SIDE), tl.arange(0, D)
    inside = slot < T
    known = lane < tl.load(lengths + block)
    here = slot[:, None] * D + channel[None, :]
    there = (column * K + lane[:, None]) * D + channel[None, :]
    keys = tl.load(k + there, mask=known[:, None], other=0.0)
    values = tl.load(v + there, mask=known[:, None], other=0.0)
    key_change = tl.zeros([SIDE, D], tl.float32)
    value_change = tl.zeros([SIDE, D], tl.float32)
    for i in range(tl.load(counts + column)):
        row = head * rows + tl.load(meeting + column * rows + i).to(tl.int64)
        x = tl.load(q + row * T * D + here, mask=inside[:, None], other=0.0)
        g = tl.load(d_sparse + row * T * D + here, mask=inside[:, None], other=0.0)
        level = tl.load(lse + row * T + slot, mask=inside, other=float("inf"))
        along = tl.load(delta + row * T + slot, mask=inside, other=0.0)
        logits = tl.dot(x, tl.trans(keys), input_precision="ieee") * scale
        weights = tl.exp2(tl.where(known[None, :], logits, float("-inf")) - level[:, None])
        value_change = tl.dot(tl.trans(weights).to(g.dtype), g, acc=value_change, input_precision="ieee")
        ds = weights * (tl.dot(g, tl.trans(values), input_precision="ieee") - along[:, None])
        key_change = tl.dot(tl.trans(ds).to(x.dtype), x, acc=key_change, input_precision="ieee")
    group = head * per_head + block % per_head
    square = tl.load(d_totals + group * D * D + channel[:, None] * D + channel[None, :])
    norm = tl.load(d_norms + group * D + channel)
    wide = keys.to(tl.float32)
    f = phi(wide, PHI)
    df = tl.dot(values.to(tl.float32), tl.trans(square), input_precision=WIDE) + norm[None, :]
    df = tl.where(known[:, None], df, 0.0)
    key_change = key_change * root + phi_gradient(wide, f, df, PHI)
    f = tl.where(known[:, None], f, 0.0)
    value_change += tl.dot(f, square, input_precision=WIDE)
    stored = (lane < K)[:, None]
    tl.store(dk + there, key_change.to(dk.dtype.element_ty), mask=stored)
    tl.store(dv + there, value_change.to(dv.dtype.element_ty), mask=stored)


@triton.jit
def summaries_backward(
    q, lengths, far_k, far_s, far_v, seen, lse, delta, d_sparse,
    d_keys, d_spread, d_values,  # out: (heads, blocks, D) float32
    rows, blocks, scale, half, root,
    T: tl.constexpr, TILE: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Some blocks of one head: the gradients of their mean keys, spreads and mean values."""
    first, head = tl.program_id(0) * WIDTH, tl.program_id(1).to(tl.int64)
    slot, channel = tl.arange(0, TILE), tl.arange(0, D)
    inside = slot < T
    here = slot[:, None] * D + channel[None, :]
    keys, spread = summary_tile(far_k, far_s, first, head * blocks, blocks, D, WIDTH)
    values, _ = summary_tile(far_v, far_v, first, head * blocks, blocks, D, WIDTH)
    key_change = tl.zeros([WIDTH, D], tl.float32)
    spread_change = tl.zeros([WIDTH, D], tl.float32)
    value_change = tl.zeros([WIDTH, D], tl.float32)
    for i in range(rows):
        row = head * rows + i
        wide = tl.load(q + row * T * D + here, mask=inside[:, None], other=0.0).to(tl.float32)
        g = tl.load(d_sparse + row * T * D + here, mask=inside[:, None], other=0.0).to(tl.float32)
        level = tl.load(lse + row * T + slot, mask=inside, other=float("inf"))
        along = tl.load(delta + row * T + slot, mask=inside, other=0.0)
        logits = summary_logits(wide, keys, spread, seen, lengths, row, first, blocks, scale, half, WIDTH, WIDE)
        weights = tl.exp2(logits - level[:, None])
        ds = weights * (tl.dot(g, tl.trans(values), input_precision=WIDE) - along[:, None])
        value_change = tl.dot(tl.trans(weights), g, acc=value_change, input_precision=WIDE)
        key_change = tl.dot(tl.trans(ds), wide, acc=key_change, input_precision=WIDE)
        spread_change = tl.dot(tl.trans(ds), wide * wide, acc=spread_change, input_precision=WIDE)
    which = first + tl.arange(0, WIDTH)
    there = (head * blocks + which)[:, None] * D + channel[None, :]
    exists = (which < blocks)[:, None]
    tl.store(d_keys + there, key_change * root, mask=exists)
    tl.store(d_spread + there, spread_change * (0.5 * root * root), mask=exists)
    tl.store(d_values + there, value_change, mask=exists)


INTERPRETED = not isinstance(forward, triton.JITFunction)  # Triton's own interpreter, for machines without a GPU
