"""Exact attention over kept tiles, with a summary of each other block in the same softmax, in plain torch.

A block that is not kept counts as one token: the mean of its n values, with the weight that its keys would have
together if the logits of the query spread normally,

    log n + q·k̄ / √D + ½ Σ_c q_c² var_c(k) / D                       (log E exp(q·k / √D), variances channel by channel)

so that what is skipped keeps its share of the softmax, for the price of one or two more products with 1/64 of the keys.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lite3r_cli.attention.features import widened
from lite3r_cli.attention.gather import chunks, gather, gathered_bias
from lite3r_cli.attention.tiling import TokenTiling


class Summaries(NamedTuple):
    """Of each block of each head, all (heads, blocks, D) in float32 or better."""

    keys: Tensor
    spread: Tensor  # variance of the keys, channel by channel
    values: Tensor


def summaries_of(k: Tensor, v: Tensor, layout: TokenTiling) -> Summaries:
    """Of tiles (B, H, blocks, T, D), the first two axes as one."""
    return Summaries(*(t.flatten(0, 1) for t in (*layout.moments(k), layout.means(v))))


class SummarisedAttention(torch.autograd.Function):
    """As `torch_backend.GatheredAttention`, of q (R, T, D) against the tiles `columns` (R, kept) and the summaries of
    its head `head` (R,); `bias` (R, blocks) is the log of the number of tokens that a summary stands for, −inf where
    it is masked.
    """

    @staticmethod
    def forward(ctx: Any, *given: Tensor) -> Tensor:
        """`given`: the arguments of `_forward`."""
        ctx.save_for_backward(*given)
        return _forward(*given)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of q, k, v and of the summaries from that of the answer, all (tiles, T, D)."""
        q, k, v, columns, _, keys, spread, values, head, _ = ctx.saved_tensors
        dq = torch.empty_like(q)
        dk, dv, d_keys, d_spread, d_values = (torch.zeros_like(widened(t)) for t in (k, v, keys, spread, values))
        for part in chunks(columns, *k.shape[1:]):
            chunk = _Chunk(part, *ctx.saved_tensors)
            g, x, scale = widened(grad[part]), chunk.q, chunk.scale
            tokens, summaries = chunk.weights()
            along = torch.cat([g @ chunk.v.mT, g @ chunk.values.mT], dim=-1)
            weights = torch.cat([tokens, summaries], dim=-1)
            change = weights * (along - (weights * along).sum(-1, keepdim=True)) * scale
            near, far = change.split([tokens.shape[-1], summaries.shape[-1]], dim=-1)
            dq[part] = (near @ chunk.k + far @ chunk.keys + scale * x * (far @ chunk.spread)).to(dq.dtype)
            places = columns[part].flatten()
            dk.index_add_(0, places, (near.mT @ x).view(-1, *k.shape[1:]))
            dv.index_add_(0, places, (tokens.mT @ g).view(-1, *v.shape[1:]))
            d_keys.index_add_(0, head[part], far.mT @ x)
            d_spread.index_add_(0, head[part], 0.5 * scale * (far.mT @ x.square()))
            d_values.index_add_(0, head[part], summaries.mT @ g)
        return dq, dk.to(k.dtype), dv.to(v.dtype), None, None, d_keys, d_spread, d_values, None, None


def _forward(
    q: Tensor, k: Tensor, v: Tensor, columns: Tensor, mask: Tensor,
    keys: Tensor, spread: Tensor, values: Tensor, head: Tensor, bias: Tensor,
) -> Tensor:  # fmt: skip
    """All products in q's precision, head by head, in memory that is used again: fresh memory costs more than they do.

    A query is [q / √D, 1, −h] to the tokens, which are [k, mask, 1], and [q / √D, ½ q² / D, −h] to the summaries [k̄,
    var, 1], h being its highest logit among mean keys: rounded to half precision, logits near it keep theirs.
    """
    root = q.shape[-1] ** -0.5
    empty = k.new_zeros(k.shape[:2]) if mask is None else mask
    tokens = torch.cat([k, empty[..., None], torch.ones_like(k[..., :1])], dim=-1)
    seen, width = columns.shape[1] * k.shape[1], keys.shape[1]
    out, memory = torch.empty_like(q), None
    heads, counts = head.unique_consecutive(return_counts=True)
    start = 0
    for h, count in zip(heads.tolist(), counts.tolist()):
        means, far_v = keys[h].to(q.dtype), values[h].to(q.dtype)
        far_k = torch.cat([means, spread[h].to(q.dtype), torch.ones_like(means[:, :1])], dim=-1).T
        for part in chunks(columns[start : start + count], *k.shape[1:]):
            rows = slice(start + part.start, start + min(part.stop, count))
            near = columns[rows]
            if memory is None or len(memory[3]) < len(near):
                memory = _memory(q, near, tokens, v, seen + width)
            x = q[rows] * root
            highest = (x @ means.T).amax(-1, keepdim=True)
            near_k, near_v = (gather(t, near, place)[:, 0] for t, place in zip((tokens, v), memory))
            logits, weights = (t[: len(near)] for t in memory[2:])
            torch.bmm(torch.cat([x, torch.ones_like(highest), -highest], dim=-1), near_k.mT, out=logits[..., :seen])
            to_far = torch.cat([x, x.square() / 2, -highest], dim=-1).flatten(0, 1)
            torch.mm(to_far, far_k, out=logits.flatten(0, 1)[:, seen:])
            logits[..., seen:] += bias[rows, None]
            torch.softmax(logits, -1, out=weights)
            found = torch.bmm(weights[..., :seen], near_v)
            out[rows] = found.flatten(0, 1).addmm_(weights.flatten(0, 1)[:, seen:], far_v).view_as(found)
        start += count
    return out


def _memory(q: Tensor, near: Tensor, tokens: Tensor, v: Tensor, width: int) -> tuple[Tensor, ...]:
    """For keys and values of the tiles `near`, logits and weights."""
    gathered = (t.new_empty(near.numel(), t[0].numel()) for t in (tokens, v))
    return *gathered, *(q.new_empty(len(near), q.shape[1], width) for _ in range(2))


class _Chunk:
    """Some query tiles (R, T, D) with all that they see, in float32 or better."""

    def __init__(
        self, part: slice, q: Tensor, k: Tensor, v: Tensor, columns: Tensor, mask: Tensor,
        keys: Tensor, spread: Tensor, values: Tensor, head: Tensor, bias: Tensor,
    ):  # fmt: skip
        self.q, self.scale = widened(q[part]), q.shape[-1] ** -0.5
        self.k, self.v = (widened(gather(t, columns[part])[:, 0]) for t in (k, v))  # (R, kept·T, D)
        self.keys, self.spread, self.values = (t[head[part]] for t in (keys, spread, values))  # (R, blocks, D)
        self.mask = None if mask is None else gathered_bias(mask, columns[part])[:, 0]
        self.bias = bias[part, None]

    def weights(self) -> tuple[Tensor, Tensor]:
        """The softmax over both, split: (R, T, kept·T) and (R, T, blocks)."""
        tokens = self.q @ self.k.mT * self.scale
        if self.mask is not None:
            tokens += self.mask
        second = 0.5 * self.scale**2 * (self.q.square() @ self.spread.mT)
        logits = torch.cat([tokens, self.q @ self.keys.mT * self.scale + second + self.bias], dim=-1)
        result: tuple[Tensor, Tensor] = logits.softmax(-1).split([tokens.shape[-1], self.bias.shape[-1]], dim=-1)
        return result
