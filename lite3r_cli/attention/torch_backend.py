"""Sparse-linear attention that computes kept blocks alone, in plain torch: the back end of the CPU, and of training.

Per query tile the kept key tiles are gathered (whole tiles, so the copy runs at memory speed) and handed to torch's
fused attention a few query tiles at a time, small enough to stay in the cache. The backward pass recomputes
the weights, so that memory stays that of q, k and v.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lite3r_cli.attention.block_map import BlockMap
from lite3r_cli.attention.features import FEATURES, widened
from lite3r_cli.attention.gather import chunks, gather, gathered_bias
from lite3r_cli.attention.reference import EPSILON
from lite3r_cli.attention.tiling import TokenTiling
from lite3r_cli.attention.torch_summary import Summaries, SummarisedAttention, summaries_of


class GatheredAttention(torch.autograd.Function):
    """softmax(q kᵀ / √D) v of tiles: q (R, T, D) against the tiles `columns` (R, kept) of k and v (all, T, D).

    `mask` (all, T) is −inf at empty slots, None where there are none. The order of a row's columns does not matter.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, columns: Tensor, mask: Tensor | None) -> Tensor:
        out, buffers = torch.empty_like(q), None
        for part in chunks(columns, *k.shape[1:]):
            near = columns[part]
            if buffers is None:  # fresh memory for every chunk would cost more than the copy
                buffers = [t.new_empty(near.numel(), t[0].numel()) for t in (k, v)]
            bias = None if mask is None else gathered_bias(mask, near).expand(-1, -1, q.shape[1], -1)
            keys, values = (gather(t, near, buffer) for t, buffer in zip((k, v), buffers))
            out[part] = F.scaled_dot_product_attention(q[part, None], keys, values, bias)[:, 0]
        ctx.save_for_backward(q, k, v, columns, mask)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of q, k and v from that of the answer, all (tiles, T, D)."""
        q, k, v, columns, mask = ctx.saved_tensors
        scale = q.shape[-1] ** -0.5
        kind = torch.promote_types(q.dtype, torch.float32)
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k, dtype=kind), torch.zeros_like(v, dtype=kind)
        for part in chunks(columns, *k.shape[1:]):
            near = columns[part]
            x, g = q[part].to(kind), grad[part].to(kind)
            keys, values = (gather(t, near)[:, 0].to(kind) for t in (k, v))
            logits = x @ keys.transpose(1, 2) * scale
            if mask is not None:
                logits += gathered_bias(mask, near)[:, 0]
            weights = logits.softmax(-1)
            along = g @ values.transpose(1, 2)
            change = weights * (along - (weights * along).sum(-1, keepdim=True)) * scale
            dq[part] = (change @ keys).to(dq.dtype)
            for total, per_row in ((dk, change.transpose(1, 2) @ x), (dv, weights.transpose(1, 2) @ g)):
                total.index_add_(0, near.flatten(), per_row.view(-1, *k.shape[1:]))
        return dq, dk.to(k.dtype), dv.to(v.dtype), None, None


def sparse_branch(
    q: Tensor, k: Tensor, v: Tensor, map: BlockMap, layout: TokenTiling, summaries: Summaries | None = None
) -> Tensor:
    """Exact attention of tiles (B, H, blocks, T, D) over their critical key blocks, and over the `summaries` of those
    that are neither critical nor dropped.
    """
    keys, heads = layout.keys, q.shape[0] * q.shape[1]
    flat = [t.flatten(0, 2) for t in (q, k, v)]
    mask = None
    if not keys.full:
        mask = torch.zeros(keys.valid.shape, device=q.device, dtype=q.dtype).masked_fill_(~keys.valid, -torch.inf)
        mask = mask.repeat(heads, 1)
    if summaries is not None:
        log_lengths = keys.lengths.log().masked_fill(~map.linear, -torch.inf).flatten(0, 2)
    rows_of = map.critical.flatten(0, 2)
    counts = rows_of.sum(-1)
    out = torch.zeros_like(flat[0])
    for count in counts.unique().tolist():  # rows that keep equally many blocks make one rectangular gather
        rows = (counts == count).nonzero()[:, 0]
        head = rows // layout.blocks
        columns = rows_of[rows].nonzero()[:, 1].view(len(rows), count) + (head * keys.blocks)[:, None]
        given = (flat[0][rows], flat[1], flat[2], columns, mask)
        if summaries is None:
            part = GatheredAttention.apply(*given)  # type: ignore[no-untyped-call]
        else:
            part = SummarisedAttention.apply(  # type: ignore[no-untyped-call]
                *given, *summaries, head, log_lengths[rows]
            )
        out = part if len(rows) == len(counts) else out.index_copy(0, rows, part)
    return out.view_as(q)


def linear_branch(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, layout: TokenTiling, feature: str) -> Tensor:
    """φ(q) Σ φ(k)ᵀ v / (φ(q) · Σ φ(k) + ε) of tiles, the sums over the key blocks `seen` (B, H, blocks, key blocks)
    bool by each query block, or over all tokens. Linear in the number of tokens but for a small product of blocks with
    blocks.
    """
    phi = FEATURES[feature]
    fq, fk, values = phi(widened(q)), phi(widened(k)) * layout.keys.valid[:, :, None], widened(v)
    if seen is None:
        totals = torch.einsum("bhntd,bhnte->bhde", fk, values)[:, :, None]
        norms = fk.sum((2, 3))[:, :, None]
    else:
        weights = seen.to(fk.dtype)
        totals = fk.transpose(-1, -2) @ values  # (B, H, blocks, D, D)
        totals = (weights @ totals.flatten(3)).unflatten(3, totals.shape[3:])
        norms = weights @ fk.sum(3)
    return ((fq @ totals) / (fq @ norms[..., None] + EPSILON)).to(v.dtype)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    blocks: BlockMap,
    layout: TokenTiling,
    feature: str = "elu",
    linear_over: str = "all",
    summaries: bool = False,
) -> tuple[Tensor, Tensor]:
    """Both branches of tiles (B, H, blocks, T, D): exact attention over the critical blocks, and linear attention
    over all tokens (`linear_over` "all") or over the blocks of `blocks.linear` ("rest"). With `summaries` those blocks
    have a part in the exact branch too, one token each.
    """
    seen = None if linear_over == "all" else blocks.linear
    found = summaries_of(k, v, layout.keys) if summaries else None
    return sparse_branch(q, k, v, blocks, layout, found), linear_branch(q, k, v, seen, layout, feature)
