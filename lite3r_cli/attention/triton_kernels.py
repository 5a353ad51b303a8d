"""The Triton kernels of sparse-linear attention for training: forward, gradient of q, gradients of k and v.

`engine/block_kernels.py` has the inference kernels of the same formula. A program owns one tile of T ≤ TILE queries, or
of K ≤ SIDE keys. In the sparse branch it loops over the tiles of its block table with an online softmax
(FlashAttention-2, arXiv 2307.08691), WIDTH keys of one or more tiles at a time. Then it computes the linear branch for
the tile that it still holds. A head has `rows` query tiles and `blocks` key tiles.

    forward    O_s = softmax(q kᵀ / √D) v,  lse = log2 Σ 2^(q kᵀ);              O_l = φ(q) S / den,  den = φ(q)·z + ε
    queries    P = 2^(q kᵀ − lse),  dP = dO_s vᵀ,  dS = P (dP − δ),  dq = dS k / √D,   δ = Σ dO_s O_s
               n = dO_l / den,  m = −Σ dO_l O_l / den:   dφ = n Sᵀ + m z,   and for the keys   φᵀ n,  φᵀ m
    keys       dk = dSᵀ q / √D,  dv = Pᵀ dO_s;   with U, u the sums of φᵀ n, φᵀ m:   dφ = v Uᵀ + u,  dv += φ(k) U

S = Σ φ(k)ᵀ v (`totals`) and z = Σ φ(k) (`norms`) are sums over the keys. With SUMMARIES the softmax continues over the
blocks that are not kept, one token each (`torch_summary.py`), WIDTH at a time. Half-precision products run in the
tensor cores; all sums are float32.

Names follow FlashAttention's Triton code: offs_m, offs_n, offs_d index the queries, keys and channels of a tile, and
mask_m, mask_n their validity; m_i is the running maximum, l_i the running sum, acc the output before division.
The kernels have many arguments because Triton takes one for each tensor and each size.
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
    """The gradient of x from the gradient df of f = φ(x)."""
    if PHI == 0:
        return f * (df - tl.sum(f * df, 1)[:, None])
    elif PHI == 1:
        return tl.where(x > 0, df, df * f)
    else:
        return tl.where(x > 0, df, 0.0)


@triton.jit
def key_tile(
    k, v, columns, counts, lengths, row, start_n, head, blocks,
    K: tl.constexpr, SIDE: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """The next WIDTH keys and values (WIDTH, D) of query tile `row`, from entry `start_n` of its block table on, and
    their validity mask (WIDTH,); zeros where it is false.
    """
    offs_n = tl.arange(0, WIDTH)
    which, lane = start_n + offs_n // SIDE, offs_n % SIDE
    mask_tile = which < tl.load(counts + row)
    column = tl.load(columns + row * blocks + which, mask=mask_tile, other=0)
    mask_n = mask_tile & (lane < tl.load(lengths + column))
    k_offs = ((head * blocks + column) * K + lane)[:, None] * D + tl.arange(0, D)[None, :]
    k_tile = tl.load(k + k_offs, mask=mask_n[:, None], other=0.0)
    v_tile = tl.load(v + k_offs, mask=mask_n[:, None], other=0.0)
    return k_tile, v_tile, mask_n


@triton.jit
def online_softmax(qk, v_tile, m_i, l_i, acc, PRECISION: tl.constexpr):
    """Add keys with logits qk (TILE, WIDTH), base 2, and values v_tile to the running maximum, sum and output."""
    m_new = tl.maximum(m_i, tl.max(qk, 1))
    p = tl.exp2(qk - m_new[:, None])
    alpha = tl.exp2(m_i - m_new)
    acc = tl.dot(p.to(v_tile.dtype), v_tile, acc=acc * alpha[:, None], input_precision=PRECISION)
    return m_new, l_i * alpha + tl.sum(p, 1), acc


@triton.jit
def sums_of_group(totals, norms, group, D: tl.constexpr):
    """The sums of the linear branch: (D, D) of `totals` and (D,) of `norms`."""
    offs_d = tl.arange(0, D)
    square = tl.load(totals + group * D * D + offs_d[:, None] * D + offs_d[None, :])
    return square, tl.load(norms + group * D + offs_d)


@triton.jit
def summary_tile(far_k, far_s, start_n, first_block, blocks, D: tl.constexpr, WIDTH: tl.constexpr):
    """Mean keys and variances (WIDTH, D) of the blocks from `start_n` on, zeros after the last. `first_block` is the
    index of the head's first block.
    """
    offs_n = start_n + tl.arange(0, WIDTH)
    k_offs = (first_block + offs_n)[:, None] * D + tl.arange(0, D)[None, :]
    mask_n = (offs_n < blocks)[:, None]
    return tl.load(far_k + k_offs, mask=mask_n, other=0.0), tl.load(far_s + k_offs, mask=mask_n, other=0.0)


@triton.jit
def summary_logits(
    q_f32, k_tile, spread, seen, lengths, row, start_n, blocks, scale, half, WIDTH: tl.constexpr, WIDE: tl.constexpr
):
    """Logits (TILE, WIDTH), base 2, of queries `q_f32` (TILE, D) over summaries; −inf where `seen` is 0."""
    offs_n = start_n + tl.arange(0, WIDTH)
    mask_n = offs_n < blocks
    on = tl.load(seen + row * blocks + offs_n, mask=mask_n, other=0)
    count = tl.load(lengths + offs_n, mask=mask_n, other=1).to(tl.float32)
    bias = tl.where(on != 0, tl.log2(count), float("-inf"))
    qk = tl.dot(q_f32, tl.trans(k_tile), input_precision=WIDE) * scale
    qk += tl.dot(q_f32 * q_f32, tl.trans(spread), input_precision=WIDE) * half
    return qk + bias[None, :]


@triton.jit
def forward(
    q, k, v, totals, norms, columns, counts, lengths,  # tiles (all, T or K, D); totals (heads, per_head, D, D)
    far_k, far_s, far_v, seen,  # summaries (heads, blocks, D): mean key, variance, mean value; mask (all, blocks)
    sparse, linear, lse,  # out: tiles (all, T, D), (all, T)
    rows, blocks, per_head, scale, half, epsilon,
    T: tl.constexpr, TILE: tl.constexpr, K: tl.constexpr, SIDE: tl.constexpr, WIDTH: tl.constexpr,
    D: tl.constexpr, PHI: tl.constexpr, WIDE: tl.constexpr, SUMMARIES: tl.constexpr,
):  # fmt: skip
    """One query tile: online softmax over its critical key tiles (and its summaries), then the linear branch from the
    sums `totals` and `norms`.
    """
    row = tl.program_id(0).to(tl.int64)
    head, block = row // rows, row % rows
    offs_m, offs_d = tl.arange(0, TILE), tl.arange(0, D)
    mask_m = offs_m < T
    q_offs = offs_m[:, None] * D + offs_d[None, :]
    q_tile = tl.load(q + row * T * D + q_offs, mask=mask_m[:, None], other=0.0)
    m_i = tl.full([TILE], float("-inf"), tl.float32)
    l_i = tl.zeros([TILE], tl.float32)
    acc = tl.zeros([TILE, D], tl.float32)
    for start_n in range(0, tl.load(counts + row), WIDTH // SIDE):
        k_tile, v_tile, mask_n = key_tile(k, v, columns, counts, lengths, row, start_n, head, blocks, K, SIDE, WIDTH, D)
        qk = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee") * scale
        qk = tl.where(mask_n[None, :], qk, float("-inf"))
        m_i, l_i, acc = online_softmax(qk, v_tile, m_i, l_i, acc, "ieee")
    q_f32 = q_tile.to(tl.float32)
    if SUMMARIES:
        for start_n in range(0, blocks, WIDTH):
            k_tile, spread = summary_tile(far_k, far_s, start_n, head * blocks, blocks, D, WIDTH)
            v_tile, _ = summary_tile(far_v, far_v, start_n, head * blocks, blocks, D, WIDTH)
            qk = summary_logits(q_f32, k_tile, spread, seen, lengths, row, start_n, blocks, scale, half, WIDTH, WIDE)
            m_i, l_i, acc = online_softmax(qk, v_tile, m_i, l_i, acc, WIDE)
    tl.store(sparse + row * T * D + q_offs, (acc / l_i[:, None]).to(sparse.dtype.element_ty), mask=mask_m[:, None])
    tl.store(lse + row * T + offs_m, m_i + tl.log2(l_i), mask=mask_m)
    square, norm = sums_of_group(totals, norms, head * per_head + block % per_head, D)
    f = phi(q_f32, PHI)
    mean = tl.dot(f, square, input_precision=WIDE) / (tl.sum(f * norm[None, :], 1) + epsilon)[:, None]
    tl.store(linear + row * T * D + q_offs, mean.to(linear.dtype.element_ty), mask=mask_m[:, None])


@triton.jit
def queries_backward(
    q, k, v, totals, norms, columns, counts, lengths, far_k, far_s, far_v, seen, lse, delta, d_sparse, d_linear,
    dq, d_totals, d_norms,  # out: tiles (all, T, D); of each query tile (all, D, D) and (all, D)
    rows, blocks, per_head, scale, half, root, epsilon,
    T: tl.constexpr, TILE: tl.constexpr, K: tl.constexpr, SIDE: tl.constexpr, WIDTH: tl.constexpr,
    D: tl.constexpr, PHI: tl.constexpr, WIDE: tl.constexpr, SUMMARIES: tl.constexpr,
):  # fmt: skip
    """One query tile: the gradient of its queries, and of the sums that its linear branch used."""
    row = tl.program_id(0).to(tl.int64)
    head, block = row // rows, row % rows
    offs_m, offs_d = tl.arange(0, TILE), tl.arange(0, D)
    mask_m = offs_m < T
    q_offs = offs_m[:, None] * D + offs_d[None, :]
    q_tile = tl.load(q + row * T * D + q_offs, mask=mask_m[:, None], other=0.0)
    do = tl.load(d_sparse + row * T * D + q_offs, mask=mask_m[:, None], other=0.0)
    lse_m = tl.load(lse + row * T + offs_m, mask=mask_m, other=0.0)
    delta_m = tl.load(delta + row * T + offs_m, mask=mask_m, other=0.0)
    dq_acc = tl.zeros([TILE, D], tl.float32)
    for start_n in range(0, tl.load(counts + row), WIDTH // SIDE):
        k_tile, v_tile, mask_n = key_tile(k, v, columns, counts, lengths, row, start_n, head, blocks, K, SIDE, WIDTH, D)
        qk = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee") * scale
        p = tl.exp2(tl.where(mask_n[None, :], qk, float("-inf")) - lse_m[:, None])
        ds = p * (tl.dot(do, tl.trans(v_tile), input_precision="ieee") - delta_m[:, None])
        dq_acc = tl.dot(ds.to(k_tile.dtype), k_tile, acc=dq_acc, input_precision="ieee")
    q_f32 = q_tile.to(tl.float32)
    if SUMMARIES:
        for start_n in range(0, blocks, WIDTH):
            k_tile, spread = summary_tile(far_k, far_s, start_n, head * blocks, blocks, D, WIDTH)
            v_tile, _ = summary_tile(far_v, far_v, start_n, head * blocks, blocks, D, WIDTH)
            qk = summary_logits(q_f32, k_tile, spread, seen, lengths, row, start_n, blocks, scale, half, WIDTH, WIDE)
            p = tl.exp2(qk - lse_m[:, None])
            ds = p * (tl.dot(do.to(tl.float32), tl.trans(v_tile), input_precision=WIDE) - delta_m[:, None])
            dq_acc = tl.dot(ds, k_tile, acc=dq_acc, input_precision=WIDE)
            dq_acc += root * q_f32 * tl.dot(ds, spread, input_precision=WIDE)
    square, norm = sums_of_group(totals, norms, head * per_head + block % per_head, D)
    f = phi(q_f32, PHI)
    do = tl.load(d_linear + row * T * D + q_offs, mask=mask_m[:, None], other=0.0).to(tl.float32)
    den = tl.sum(f * norm[None, :], 1) + epsilon
    mean = tl.dot(f, square, input_precision=WIDE) / den[:, None]
    n = do / den[:, None]
    m = (-tl.sum(do * mean, 1) / den)[:, None]
    df = tl.dot(n, tl.trans(square), input_precision=WIDE) + m * norm[None, :]
    dq_acc = dq_acc * root + phi_gradient(q_f32, f, df, PHI)
    tl.store(dq + row * T * D + q_offs, dq_acc.to(dq.dtype.element_ty), mask=mask_m[:, None])
    outer = tl.dot(tl.trans(f), n, input_precision=WIDE)
    tl.store(d_totals + row * D * D + offs_d[:, None] * D + offs_d[None, :], outer)
    tl.store(d_norms + row * D + offs_d, tl.sum(f * m, 0))


@triton.jit
def keys_backward(
    q, k, v, meeting, counts, lengths, lse, delta, d_sparse, d_totals, d_norms,  # d_totals (heads, per_head, D, D)
    dk, dv,  # out: tiles (all, K, D)
    rows, blocks, per_head, scale, root,
    T: tl.constexpr, TILE: tl.constexpr, K: tl.constexpr, SIDE: tl.constexpr, D: tl.constexpr, PHI: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    """One key tile: the gradients of its keys and values, from the query tiles for which it is critical."""
    column = tl.program_id(0).to(tl.int64)
    head, block = column // blocks, column % blocks
    offs_m, offs_n, offs_d = tl.arange(0, TILE), tl.arange(0, SIDE), tl.arange(0, D)
    mask_m = offs_m < T
    mask_n = offs_n < tl.load(lengths + block)
    q_offs = offs_m[:, None] * D + offs_d[None, :]
    k_offs = (column * K + offs_n[:, None]) * D + offs_d[None, :]
    k_tile = tl.load(k + k_offs, mask=mask_n[:, None], other=0.0)
    v_tile = tl.load(v + k_offs, mask=mask_n[:, None], other=0.0)
    dk_acc = tl.zeros([SIDE, D], tl.float32)
    dv_acc = tl.zeros([SIDE, D], tl.float32)
    for i in range(tl.load(counts + column)):
        row = head * rows + tl.load(meeting + column * rows + i).to(tl.int64)
        q_tile = tl.load(q + row * T * D + q_offs, mask=mask_m[:, None], other=0.0)
        do = tl.load(d_sparse + row * T * D + q_offs, mask=mask_m[:, None], other=0.0)
        lse_m = tl.load(lse + row * T + offs_m, mask=mask_m, other=float("inf"))
        delta_m = tl.load(delta + row * T + offs_m, mask=mask_m, other=0.0)
        qk = tl.dot(q_tile, tl.trans(k_tile), input_precision="ieee") * scale
        p = tl.exp2(tl.where(mask_n[None, :], qk, float("-inf")) - lse_m[:, None])
        dv_acc = tl.dot(tl.trans(p).to(do.dtype), do, acc=dv_acc, input_precision="ieee")
        ds = p * (tl.dot(do, tl.trans(v_tile), input_precision="ieee") - delta_m[:, None])
        dk_acc = tl.dot(tl.trans(ds).to(q_tile.dtype), q_tile, acc=dk_acc, input_precision="ieee")
    square, norm = sums_of_group(d_totals, d_norms, head * per_head + block % per_head, D)
    k_f32 = k_tile.to(tl.float32)
    f = phi(k_f32, PHI)
    df = tl.dot(v_tile.to(tl.float32), tl.trans(square), input_precision=WIDE) + norm[None, :]
    df = tl.where(mask_n[:, None], df, 0.0)
    dk_acc = dk_acc * root + phi_gradient(k_f32, f, df, PHI)
    f = tl.where(mask_n[:, None], f, 0.0)
    dv_acc += tl.dot(f, square, input_precision=WIDE)
    stored = (offs_n < K)[:, None]
    tl.store(dk + k_offs, dk_acc.to(dk.dtype.element_ty), mask=stored)
    tl.store(dv + k_offs, dv_acc.to(dv.dtype.element_ty), mask=stored)


@triton.jit
def summaries_backward(
    q, lengths, far_k, far_s, far_v, seen, lse, delta, d_sparse,
    d_keys, d_spread, d_values,  # out: (heads, blocks, D) float32
    rows, blocks, scale, half, root,
    T: tl.constexpr, TILE: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """WIDTH blocks of one head: the gradients of their mean keys, variances and mean values."""
    start_n, head = tl.program_id(0) * WIDTH, tl.program_id(1).to(tl.int64)
    offs_m, offs_d = tl.arange(0, TILE), tl.arange(0, D)
    mask_m = offs_m < T
    q_offs = offs_m[:, None] * D + offs_d[None, :]
    k_tile, spread = summary_tile(far_k, far_s, start_n, head * blocks, blocks, D, WIDTH)
    v_tile, _ = summary_tile(far_v, far_v, start_n, head * blocks, blocks, D, WIDTH)
    dk_acc = tl.zeros([WIDTH, D], tl.float32)
    d_spread_acc = tl.zeros([WIDTH, D], tl.float32)
    dv_acc = tl.zeros([WIDTH, D], tl.float32)
    for i in range(rows):
        row = head * rows + i
        q_f32 = tl.load(q + row * T * D + q_offs, mask=mask_m[:, None], other=0.0).to(tl.float32)
        do = tl.load(d_sparse + row * T * D + q_offs, mask=mask_m[:, None], other=0.0).to(tl.float32)
        lse_m = tl.load(lse + row * T + offs_m, mask=mask_m, other=float("inf"))
        delta_m = tl.load(delta + row * T + offs_m, mask=mask_m, other=0.0)
        qk = summary_logits(q_f32, k_tile, spread, seen, lengths, row, start_n, blocks, scale, half, WIDTH, WIDE)
        p = tl.exp2(qk - lse_m[:, None])
        ds = p * (tl.dot(do, tl.trans(v_tile), input_precision=WIDE) - delta_m[:, None])
        dv_acc = tl.dot(tl.trans(p), do, acc=dv_acc, input_precision=WIDE)
        dk_acc = tl.dot(tl.trans(ds), q_f32, acc=dk_acc, input_precision=WIDE)
        d_spread_acc = tl.dot(tl.trans(ds), q_f32 * q_f32, acc=d_spread_acc, input_precision=WIDE)
    offs_n = start_n + tl.arange(0, WIDTH)
    k_offs = (head * blocks + offs_n)[:, None] * D + offs_d[None, :]
    mask_n = (offs_n < blocks)[:, None]
    tl.store(d_keys + k_offs, dk_acc * root, mask=mask_n)
    tl.store(d_spread + k_offs, d_spread_acc * (0.5 * root * root), mask=mask_n)
    tl.store(d_values + k_offs, dv_acc, mask=mask_n)


INTERPRETED = not isinstance(forward, triton.JITFunction)  # TRITON_INTERPRET=1, for machines without a GPU
