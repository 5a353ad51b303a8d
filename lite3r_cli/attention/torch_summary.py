"""Exact attention over kept tiles, with a summary of each other block in the same softmax, in plain torch.

A block of n keys that is not kept counts as one token. Its value is the mean of its values; its logit is the log of the
total weight of its keys, if the logits of the query are normally distributed:

    log n + q·k̄ / √D + ½ Σ_c q_c² var_c(k) / D           = log(n · E exp(q·k / √D)), with independent channels c

Skipped blocks thus keep their share of the softmax. With blocks of 64 this costs two more products with 1/64 of the
keys.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lite3r_cli.attention.features import widened
from lite3r_cli.attention.gather import chunks, gather, gathered_bias
from lite3r_cli.attention.tiling import TokenTiling


class Summaries(NamedTuple):
    """Summaries of each block of each head, all (heads, blocks, D) in float32 or float64."""

    keys: Tensor  # mean keys
    spread: Tensor  # variance of each channel of the keys
    values: Tensor  # mean values


def summaries_of(k: Tensor, v: Tensor, layout: TokenTiling) -> Summaries:
    """The summaries of tiles k, v (B, H, blocks, T, D); the heads of all batch elements share the first axis."""
    return Summaries(*(t.flatten(0, 1) for t in (*layout.moments(k), layout.means(v))))


class SummarisedAttention(torch.autograd.Function):
    """`torch_backend.GatheredAttention` of q (R, T, D) over the key tiles `columns` (R, kept), and in the same softmax
    over the summaries of the head `head` (R,). `bias` (R, blocks) is log n of each summary, −inf where it is masked.
    """

    @staticmethod
    def forward(ctx: Any, *given: Tensor) -> Tensor:
        """`given`: the arguments of `_forward`."""
        ctx.save_for_backward(*given)
        return _forward(*given)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of q, k, v (tiles, T, D) and of the summaries (heads, blocks, D) from that of the output."""
        q, k, v, columns, _, keys, spread, values, head, _ = ctx.saved_tensors
        dq = torch.empty_like(q)
        dk, dv, d_keys, d_spread, d_values = (torch.zeros_like(widened(t)) for t in (k, v, keys, spread, values))
        for part in chunks(columns, *k.shape[1:]):
            chunk = _Chunk(part, *ctx.saved_tensors)
            do, x, scale = widened(grad[part]), chunk.q, chunk.scale
            p_tokens, p_summaries = chunk.weights()
            dp = torch.cat([do @ chunk.v.mT, do @ chunk.values.mT], dim=-1)
            p = torch.cat([p_tokens, p_summaries], dim=-1)
            ds = p * (dp - (p * dp).sum(-1, keepdim=True)) * scale
            ds_tokens, ds_summaries = ds.split([p_tokens.shape[-1], p_summaries.shape[-1]], dim=-1)
            from_spread = scale * x * (ds_summaries @ chunk.spread)
            dq[part] = (ds_tokens @ chunk.k + ds_summaries @ chunk.keys + from_spread).to(dq.dtype)
            tiles = columns[part].flatten()
            dk.index_add_(0, tiles, (ds_tokens.mT @ x).view(-1, *k.shape[1:]))
            dv.index_add_(0, tiles, (p_tokens.mT @ do).view(-1, *v.shape[1:]))
            d_keys.index_add_(0, head[part], ds_summaries.mT @ x)
            d_spread.index_add_(0, head[part], 0.5 * scale * (ds_summaries.mT @ x.square()))
            d_values.index_add_(0, head[part], p_summaries.mT @ do)
        return dq, dk.to(k.dtype), dv.to(v.dtype), None, None, d_keys, d_spread, d_values, None, None


def _forward(
    q: Tensor, k: Tensor, v: Tensor, columns: Tensor, mask: Tensor,
    keys: Tensor, spread: Tensor, values: Tensor, head: Tensor, bias: Tensor,
) -> Tensor:  # fmt: skip
    """All products in the dtype of q, head by head, in buffers that are reused: allocating costs more than computing.

    One product gives a whole logit, relative to the maximum h of a query over the mean keys, so that large logits keep
    their precision in bfloat16:

        tokens     [q / √D, 1, −h] · [k, mask, 1]
        summaries  [q / √D, ½ q² / D, −h] · [k̄, var(k), 1]  + log n

    h does not contain the variance term: half precision shows in the output where that term is some ten nats or more,
    which QK-norm prevents.
    """
    scale = q.shape[-1] ** -0.5
    empty = k.new_zeros(k.shape[:2]) if mask is None else mask
    tokens = torch.cat([k, empty[..., None], torch.ones_like(k[..., :1])], dim=-1)
    num_tokens, num_summaries = columns.shape[1] * k.shape[1], keys.shape[1]
    out, buffers = torch.empty_like(q), None
    heads, counts = head.unique_consecutive(return_counts=True)
    start = 0
    for h, count in zip(heads.tolist(), counts.tolist()):
        means, summary_v = keys[h].to(q.dtype), values[h].to(q.dtype)
        summary_k = torch.cat([means, spread[h].to(q.dtype), torch.ones_like(means[:, :1])], dim=-1).T
        for part in chunks(columns[start : start + count], *k.shape[1:]):
            rows = slice(start + part.start, start + min(part.stop, count))
            kept = columns[rows]
            if buffers is None or len(buffers[3]) < len(kept):
                buffers = _buffers(q, kept, tokens, v, num_tokens + num_summaries)
            x = q[rows] * scale
            maximum = (x @ means.T).amax(-1, keepdim=True)
            token_k, token_v = (gather(t, kept, buffer)[:, 0] for t, buffer in zip((tokens, v), buffers))
            logits, weights = (t[: len(kept)] for t in buffers[2:])
            token_q = torch.cat([x, torch.ones_like(maximum), -maximum], dim=-1)
            torch.bmm(token_q, token_k.mT, out=logits[..., :num_tokens])
            summary_q = torch.cat([x, x.square() / 2, -maximum], dim=-1).flatten(0, 1)
            torch.mm(summary_q, summary_k, out=logits.flatten(0, 1)[:, num_tokens:])
            logits[..., num_tokens:] += bias[rows, None]
            torch.softmax(logits, -1, out=weights)
            found = torch.bmm(weights[..., :num_tokens], token_v)
            out[rows] = found.flatten(0, 1).addmm_(weights.flatten(0, 1)[:, num_tokens:], summary_v).view_as(found)
        start += count
    return out


def _buffers(q: Tensor, kept: Tensor, tokens: Tensor, v: Tensor, width: int) -> tuple[Tensor, ...]:
    """Memory for the gathered keys, the gathered values, the logits and the weights of one chunk."""
    gathered = (t.new_empty(kept.numel(), t[0].numel()) for t in (tokens, v))
    return *gathered, *(q.new_empty(len(kept), q.shape[1], width) for _ in range(2))


class _Chunk:
    """Some query tiles (R, T, D) with their gathered keys, values and summaries, in float32 or float64."""

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
        """The softmax weights of the tokens (R, T, kept·T) and of the summaries (R, T, blocks)."""
        tokens = self.q @ self.k.mT * self.scale
        if self.mask is not None:
            tokens += self.mask
        second = 0.5 * self.scale**2 * (self.q.square() @ self.spread.mT)
        logits = torch.cat([tokens, self.q @ self.keys.mT * self.scale + second + self.bias], dim=-1)
        result: tuple[Tensor, Tensor] = logits.softmax(-1).split([tokens.shape[-1], self.bias.shape[-1]], dim=-1)
        return result
