"""Sparse-linear attention in plain torch that computes only the kept blocks: for the CPU, and for training without
Triton.

The kept key tiles of a few query tiles at a time are gathered (whole tiles, so that the copy runs at memory speed) and
passed to torch's fused attention; the chunks are small enough to stay in the cache. The backward pass recomputes the
attention weights, so that only q, k and v stay in memory.
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
    """softmax(q kᵀ / √D) v of query tiles q (R, T, D) over the key tiles `columns` (R, kept) of k, v (all, T, D).

    `mask` (all, T) is −inf at empty slots; None if there are none. The order of the columns in a row does not matter.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, columns: Tensor, mask: Tensor | None) -> Tensor:
        out, buffers = torch.empty_like(q), None
        for part in chunks(columns, *k.shape[1:]):
            kept = columns[part]
            if buffers is None:  # allocating for every chunk would cost more than the copy
                buffers = [t.new_empty(kept.numel(), t[0].numel()) for t in (k, v)]
            bias = None if mask is None else gathered_bias(mask, kept).expand(-1, -1, q.shape[1], -1)
            keys, values = (gather(t, kept, buffer) for t, buffer in zip((k, v), buffers))
            out[part] = F.scaled_dot_product_attention(q[part, None], keys, values, bias)[:, 0]
        ctx.save_for_backward(q, k, v, columns, mask)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of q, k and v from the gradient of the output, all (tiles, T, D)."""
        q, k, v, columns, mask = ctx.saved_tensors
        scale = q.shape[-1] ** -0.5
        dtype = torch.promote_types(q.dtype, torch.float32)
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k, dtype=dtype), torch.zeros_like(v, dtype=dtype)
        for part in chunks(columns, *k.shape[1:]):
            kept = columns[part]
            x, do = q[part].to(dtype), grad[part].to(dtype)
            keys, values = (gather(t, kept)[:, 0].to(dtype) for t in (k, v))
            logits = x @ keys.transpose(1, 2) * scale
            if mask is not None:
                logits += gathered_bias(mask, kept)[:, 0]
            p = logits.softmax(-1)
            dp = do @ values.transpose(1, 2)
            ds = p * (dp - (p * dp).sum(-1, keepdim=True)) * scale
            dq[part] = (ds @ keys).to(dq.dtype)
            for total, per_row in ((dk, ds.transpose(1, 2) @ x), (dv, p.transpose(1, 2) @ do)):
                total.index_add_(0, kept.flatten(), per_row.view(-1, *k.shape[1:]))
        return dq, dk.to(k.dtype), dv.to(v.dtype), None, None


def sparse_branch(
    q: Tensor, k: Tensor, v: Tensor, map: BlockMap, layout: TokenTiling, summaries: Summaries | None = None
) -> Tensor:
    """Exact attention of tiles (B, H, blocks, T, D) over their critical key blocks and, if given, over the `summaries`
    of the blocks that are neither critical nor dropped. Returns tiles of the same shape.
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
    for count in counts.unique().tolist():  # one rectangular gather for all rows that keep `count` blocks
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
    """φ(q) Σ φ(k)ᵀ v / (φ(q) · Σ φ(k) + ε) of tiles (B, H, blocks, T, D).

    The sums are over the key blocks in the mask `seen` (B, H, blocks, key blocks), or over all tokens if it is None.
    O(N) except for one product of that mask with the sums of the blocks.
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
    """The sparse and the linear branch of tiles q, k, v (B, H, blocks, T, D), each of the shape of q.

    The sparse branch is exact attention over the critical blocks. The linear branch covers all tokens (`linear_over`
    "all") or the blocks of `blocks.linear` ("rest"). With `summaries` the sparse branch also sees those blocks, as one
    token each.
    """
    seen = None if linear_over == "all" else blocks.linear
    found = summaries_of(k, v, layout.keys) if summaries else None
    return sparse_branch(q, k, v, blocks, layout, found), linear_branch(q, k, v, seen, layout, feature)
