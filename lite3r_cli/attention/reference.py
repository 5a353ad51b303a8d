"""Sparse-linear attention as a formula (SLA, arXiv 2509.24006; Lite3R's form): O(N²), written to be read.

    O = softmax over the critical keys (q kᵀ / √D) v  +  W · φ(q) Σ φ(k)ᵀ v / (φ(q) · Σ φ(k) + 1e-6)

`both_branches` is the formula, for any choice of critical keys. `published` is the form of Lite3R's checkpoints in its
terms: blocks are runs of 64 tokens, the last one shorter; for each block of queries the key blocks of the highest
mean-pooled score are critical; the linear branch sees all tokens, φ = elu + 1, and W (D, D) is shared by the heads.
q, k, v are (B, H, N, D).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lite3r_cli.attention.features import FEATURES

BLOCK = 64
EPSILON = 1e-6


def block_means(x: Tensor, block: int = BLOCK) -> Tensor:
    """(B, H, N, D) → (B, H, ⌈N / block⌉, D), each block's mean over the tokens that it has."""
    return torch.stack([part.mean(dim=2) for part in x.split(block, dim=2)], dim=2)


def kept_blocks(q: Tensor, k: Tensor, keep_ratio: float, block: int = BLOCK) -> Tensor:
    """Which key blocks each query block attends to, (B, H, query blocks, key blocks) bool:
    the top `keep_ratio`, at least one.
    """
    scores = block_means(q.float(), block) @ block_means(k.float(), block).transpose(-1, -2) / q.shape[-1] ** 0.5
    count = max(1, int(keep_ratio * scores.shape[-1]))
    chosen = scores.softmax(-1).topk(count, dim=-1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, chosen, True)


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """φ(q) Σ φ(k)ᵀ v, normalised, over all tokens in O(N); (B, H, N, D) each, the sums in float32."""
    q, k = F.elu(q.float()) + 1, F.elu(k.float()) + 1
    return ((q @ (k.transpose(-1, -2) @ v.float())) / (q @ k.sum(dim=2)[..., None] + EPSILON)).to(v.dtype)


def dense_and_linear(q: Tensor, k: Tensor, v: Tensor, weight: Tensor) -> Tensor:
    """The published form with every key kept: dense attention, and the linear branch over all tokens in O(N).

    q, k, v (B, H, N, D), `weight` W (D, D) → (B, H, N, D) in v's precision.
    """
    return F.scaled_dot_product_attention(q, k, v) + linear_attention(q, k, v) @ weight.T


def published(q: Tensor, k: Tensor, v: Tensor, weight: Tensor, keep_ratio: float = 1.0, block: int = BLOCK) -> Tensor:
    """Lite3R's form (arXiv 2605.11354): q, k, v (B, H, N, D), `weight` W (D, D) → (B, H, N, D)."""
    critical = kept_blocks(q, k, keep_ratio, block).repeat_interleave(block, 2).repeat_interleave(block, 3)
    critical = critical[:, :, : q.shape[2], : k.shape[2]]
    sparse, linear = both_branches(q, k, v, critical, torch.ones_like(critical))
    return sparse + linear @ weight.T


def both_branches(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    critical: Tensor,
    linear: Tensor,
    feature: str = "elu",
    summary: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The formula for any partition of the pairs of tokens: `critical` and `linear` are (B, H, N, N) bool. Exact
    attention over the critical keys of each query, and linear attention over the linear ones (all True: over all).

    `summary` (B, H, N, blocks, N) bool: the keys that a query sees as one, block by block, beside the critical ones.
    """
    scale = q.shape[-1] ** -0.5
    logits = (q @ k.transpose(-1, -2) * scale).masked_fill(~critical, -torch.inf)
    if summary is not None:  # of each query (B, H, N, blocks): how many keys, their mean, variance, mean value
        count = summary.sum(-1)
        share = summary.to(q.dtype) / count.clamp(min=1)[..., None]
        mean = share @ k[:, :, None]  # (B, H, N, blocks, D)
        spread = share @ k[:, :, None].square() - mean.square()
        first, second = mean @ q[..., None] * scale, spread @ q[..., None].square() * scale**2 / 2
        extra = (first + second)[..., 0] + count.log()  # none of a block: −inf
        weights = torch.cat([logits, extra], dim=-1).softmax(-1)
        exact, far = weights.split([k.shape[2], count.shape[-1]], dim=-1)
        sparse = exact @ v + (far[..., None, :] @ (share @ v[:, :, None]))[..., 0, :]
    else:
        sparse = logits.softmax(-1) @ v
    phi = FEATURES[feature]
    weights = (phi(q) @ phi(k).transpose(-1, -2)).masked_fill(~linear, 0)
    return sparse, weights @ v / (weights.sum(-1, keepdim=True) + EPSILON)
