"""Sparse-linear attention that computes kept blocks alone, in plain torch: the back end of the CPU, and of training.

Per query tile the kept key tiles are gathered (whole tiles, so the copy runs at memory speed) and handed to torch's
fused attention a few query tiles at a time, small enough to stay in the cache. The backward pass recomputes
the weights, so that memory stays that of q, k and v.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from lite3r_cli.attention.block_map import BlockMap
from lite3r_cli.attention.features import FEATURES, widened
from lite3r_cli.attention.layout import Layout
from lite3r_cli.attention.reference import EPSILON

CHUNK_ELEMENTS = {"cpu": 2**18, "cuda": 2**27}  # of the keys gathered at a time; on a CPU by each thread


def _chunks(columns: Tensor, tile: int, width: int) -> Iterator[slice]:
    rows, kept = columns.shape
    step = max(1, CHUNK_ELEMENTS.get(columns.device.type, 2**24) // (kept * tile * width))
    if columns.device.type == "cpu":
        step *= torch.get_num_threads()
    return (slice(first, first + step) for first in range(0, rows, step))


def _gather(table: Tensor, columns: Tensor, buffer: Tensor | None = None) -> Tensor:
    """Tiles (all, T, D) at `columns` (R, kept) → (R, 1, kept·T, D), in a buffer's memory where one is given."""
    rows = columns.flatten()
    out = None if buffer is None else buffer[: len(rows)]
    picked = torch.index_select(table.flatten(1), 0, rows, out=out)
    return picked.view(len(columns), 1, -1, table.shape[-1])


def _bias(mask: Tensor | None, columns: Tensor) -> Tensor | None:
    """Additive mask (all, T) of the tiles at `columns` → (R, 1, 1, kept·T)."""
    return None if mask is None else mask.index_select(0, columns.flatten()).view(len(columns), 1, 1, -1)


class GatheredAttention(torch.autograd.Function):
    """softmax(q kᵀ / √D) v of tiles: q (R, T, D) against the tiles `columns` (R, kept) of k and v (all, T, D).

    `mask` (all, T) is −inf at empty slots, None where there are none. The order of a row's columns does not matter.
    """

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, columns: Tensor, mask: Tensor | None) -> Tensor:
        out, buffers = torch.empty_like(q), None
        for part in _chunks(columns, *k.shape[1:]):
            near = columns[part]
            if buffers is None:  # fresh memory for every chunk would cost more than the copy
                buffers = [t.new_empty(near.numel(), t[0].numel()) for t in (k, v)]
            bias = _bias(mask, near)
            if bias is not None:
                bias = bias.expand(-1, -1, q.shape[1], -1)
            keys, values = (_gather(t, near, buffer) for t, buffer in zip((k, v), buffers))
            out[part] = F.scaled_dot_product_attention(q[part, None], keys, values, bias)[:, 0]
        ctx.save_for_backward(q, k, v, columns, mask)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        q, k, v, columns, mask = ctx.saved_tensors
        scale = q.shape[-1] ** -0.5
        kind = torch.promote_types(q.dtype, torch.float32)
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k, dtype=kind), torch.zeros_like(v, dtype=kind)
        for part in _chunks(columns, *k.shape[1:]):
            near = columns[part]
            x, g = q[part].to(kind), grad[part].to(kind)
            keys, values = (_gather(t, near)[:, 0].to(kind) for t in (k, v))
            logits = x @ keys.transpose(1, 2) * scale
            if mask is not None:
                logits += _bias(mask, near)[:, 0]
            weights = logits.softmax(-1)
            along = g @ values.transpose(1, 2)
            change = weights * (along - (weights * along).sum(-1, keepdim=True)) * scale
            dq[part] = (change @ keys).to(dq.dtype)
            for total, per_row in ((dk, change.transpose(1, 2) @ x), (dv, weights.transpose(1, 2) @ g)):
                total.index_add_(0, near.flatten(), per_row.view(-1, *k.shape[1:]))
        return dq, dk.to(k.dtype), dv.to(v.dtype), None, None


def sparse_branch(q: Tensor, k: Tensor, v: Tensor, critical: Tensor, layout: Layout) -> Tensor:
    """Exact attention of tiles (B, H, blocks, T, D) over their critical key blocks."""
    blocks, heads = layout.blocks, q.shape[0] * q.shape[1]
    flat = [t.flatten(0, 2) for t in (q, k, v)]
    mask = None
    if not layout.full:
        mask = torch.zeros(layout.valid.shape, device=q.device, dtype=q.dtype).masked_fill_(~layout.valid, -torch.inf)
        mask = mask.repeat(heads, 1)
    rows_of = critical.flatten(0, 2)
    counts = rows_of.sum(-1)
    out = torch.zeros_like(flat[0])
    for count in counts.unique().tolist():  # rows that keep equally many blocks make one rectangular gather
        rows = (counts == count).nonzero()[:, 0]
        columns = rows_of[rows].nonzero()[:, 1].view(len(rows), count) + (rows // blocks * blocks)[:, None]
        part = GatheredAttention.apply(flat[0][rows], flat[1], flat[2], columns, mask)
        out = part if len(rows) == len(counts) else out.index_copy(0, rows, part)
    return out.view_as(q)


def linear_branch(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, layout: Layout, feature: str) -> Tensor:
    """φ(q) Σ φ(k)ᵀ v / (φ(q) · Σ φ(k) + ε) of tiles, the sums over the key blocks `seen` (B, H, blocks, blocks) bool by
    each query block, or over all tokens. Linear in the number of tokens but for a small product of blocks with blocks.
    """
    phi = FEATURES[feature]
    fq, fk, values = phi(widened(q)), phi(widened(k)) * layout.valid[:, :, None], widened(v)
    if seen is None:
        totals = torch.einsum("bhntd,bhnte->bhde", fk, values)[:, :, None]
        norms = fk.sum((2, 3))[:, :, None]
    else:
        weights = seen.to(fk.dtype)
        totals = fk.transpose(-1, -2) @ values  # (B, H, blocks, D, D)
        totals = (weights @ totals.flatten(3)).view_as(totals)
        norms = weights @ fk.sum(3)
    return ((fq @ totals) / (fq @ norms[..., None] + EPSILON)).to(v.dtype)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    blocks: BlockMap,
    layout: Layout,
    feature: str = "elu",
    linear_over: str = "all",
) -> tuple[Tensor, Tensor]:
    """Both branches of tiles (B, H, blocks, T, D): exact attention over the critical blocks, and linear attention
    over all tokens (`linear_over` "all") or over the blocks of `blocks.linear` ("rest").
    """
    seen = None if linear_over == "all" else blocks.linear
    return sparse_branch(q, k, v, blocks.critical, layout), linear_branch(q, k, v, seen, layout, feature)
