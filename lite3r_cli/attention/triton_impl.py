"""Sparse-linear attention as one Triton kernel: a program owns a query tile, walks its kept key tiles with an online
softmax (FlashAttention-2, arXiv 2307.08691), then applies the linear branch to the tile that it still holds.

The twin of `torch_impl.attend`, whose gradients it takes: the backward pass recomputes there.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lite3r_cli.attention import torch_impl
from lite3r_cli.attention.block_map import BlockMap
from lite3r_cli.attention.features import FEATURES, widened
from lite3r_cli.attention.layout import Layout
from lite3r_cli.attention.reference import EPSILON

@triton.jit
def _forward(
    q, k, v, phi, totals, norms, columns, counts, lengths,  # tiles (all, T, D), totals (heads, per_head, D, D)
    sparse, linear,  # out: tiles (all, T, D)
    blocks, per_head, most, scale, epsilon,
    T: tl.constexpr, TILE: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    head, block = row // blocks, row % blocks
    slot, channel = tl.arange(0, TILE), tl.arange(0, D)
    inside = (slot < T)[:, None]
    here = slot[:, None] * D + channel[None, :]
    x = tl.load(q + row * T * D + here, mask=inside, other=0.0)
    top = tl.full([TILE], float("-inf"), tl.float32)
    total = tl.zeros([TILE], tl.float32)
    out = tl.zeros([TILE, D], tl.float32)
    for i in range(0, tl.load(counts + row)):
        column = tl.load(columns + row * most + i).to(tl.int64)
        tile = (head * blocks + column) * T * D
        known = slot < tl.load(lengths + column)
        keys = tl.load(k + tile + here, mask=known[:, None], other=0.0)
        values = tl.load(v + tile + here, mask=known[:, None], other=0.0)
        logits = tl.dot(x, tl.trans(keys), input_precision="ieee") * scale
        logits = tl.where(known[None, :], logits, float("-inf"))
        higher = tl.maximum(top, tl.max(logits, 1))
        weights = tl.exp2(logits - higher[:, None])
        fade = tl.exp2(top - higher)
        total = total * fade + tl.sum(weights, 1)
        out = tl.dot(weights.to(values.dtype), values, acc=out * fade[:, None], input_precision="ieee")
        top = higher
    tl.store(sparse + row * T * D + here, (out / total[:, None]).to(sparse.dtype.element_ty), mask=inside)
    group = head * per_head + block % per_head
    square = tl.load(totals + group * D * D + channel[:, None] * D + channel[None, :])
    norm = tl.load(norms + group * D + channel)
    features = tl.load(phi + row * T * D + here, mask=inside, other=0.0)
    mean = tl.dot(features, square, input_precision="ieee" if HALF == 0 else "tf32")
    mean = mean / (tl.sum(features * norm[None, :], 1) + epsilon)[:, None]
    tl.store(linear + row * T * D + here, mean.to(linear.dtype.element_ty), mask=inside)


INTERPRETED = not isinstance(_forward, triton.JITFunction)  # Triton's own interpreter, for machines without a GPU


def _launch(q, k, v, blocks: BlockMap, layout: Layout, feature: str, linear_over: str) -> tuple[Tensor, Tensor]:
    batch, heads, count, width, dim = q.shape
    phi = FEATURES[feature]
    features, keys = phi(widened(q)), phi(widened(k)) * layout.valid[:, :, None]
    totals, norms = keys.transpose(-1, -2) @ widened(v), keys.sum(3)  # of each key block
    if linear_over == "rest":
        weights = blocks.linear.to(totals.dtype)
        totals, norms = (weights @ totals.flatten(3)).view_as(totals), weights @ norms
    else:
        totals, norms = totals.sum(2, keepdim=True), norms.sum(2, keepdim=True)
    counts = blocks.critical.sum(-1, dtype=torch.int32)
    most = int(counts.max())
    columns = blocks.critical.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)[..., :most]
    sparse, linear = torch.empty_like(q), torch.empty_like(q)
    _forward[(batch * heads * count,)](
        *(t.contiguous() for t in (q, k, v, features, totals, norms)),
        columns.to(torch.int32).contiguous(), counts, layout.valid.sum(1, dtype=torch.int32),
        sparse, linear,
        count, totals.shape[2], most, dim**-0.5 * 1.4426950408889634, EPSILON,
        T=width, TILE=max(16, triton.next_power_of_2(width)), D=dim, HALF=int(q.dtype != torch.float32),
    )  # fmt: skip
    return sparse, linear


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, blocks: BlockMap, layout: Layout, feature: str, over: str):
        ctx.save_for_backward(q, k, v)
        ctx.settings = (blocks, layout, feature, over)
        return _launch(q, k, v, *ctx.settings)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *grads: Tensor):
        inputs = [t.detach().requires_grad_() for t in ctx.saved_tensors]
        with torch.enable_grad():
            outputs = torch_impl.attend(*inputs, *ctx.settings)
        return *torch.autograd.grad(outputs, inputs, grads), None, None, None, None


def attend(
    q: Tensor, k: Tensor, v: Tensor, blocks: BlockMap, layout: Layout, feature: str = "elu", linear_over: str = "all"
) -> tuple[Tensor, Tensor]:
    """As `torch_impl.attend`, for tiles (B, H, blocks, T, D) ; D is a power of 2, at least 16."""
    return _Attend.apply(q, k, v, blocks, layout, feature, linear_over)
