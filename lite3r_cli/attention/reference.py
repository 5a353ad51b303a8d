"""The formula of sparse-linear attention (SLA, arXiv 2509.24006), O(N²) and written to be read. Tests compare all back
ends with it.

    O = softmax(q kᵀ / √D, critical keys only) v  +  W · φ(q) Σ φ(k)ᵀ v / (φ(q) · Σ φ(k) + 1e-6)
        sparse branch                                linear branch

q, k, v are (B, H, N, D); φ is a feature map; W (D, D) is learned and shared by the heads. `both_branches` computes the
two branches for any choice of critical keys. `published` is the form of Lite3R's checkpoints (arXiv 2605.11354): blocks
are runs of 64 tokens; each query block keeps the key blocks with the highest mean-pooled scores as critical; the linear
branch covers all tokens, with φ = elu + 1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lite3r_cli.attention.features import FEATURES

BLOCK = 64
EPSILON = 1e-6


def block_means(x: Tensor, block: int = BLOCK) -> Tensor:
    """(B, H, N, D) → (B, H, ⌈N / block⌉, D), the mean of each block; the last block may be shorter."""
    return torch.stack([part.mean(dim=2) for part in x.split(block, dim=2)], dim=2)


def kept_blocks(q: Tensor, k: Tensor, keep_ratio: float, block: int = BLOCK) -> Tensor:
    """Mask (B, H, query blocks, key blocks) of the critical key blocks: those with the highest pooled scores, the share
    `keep_ratio` rounded down, at least one.
    """
    scores = block_means(q.float(), block) @ block_means(k.float(), block).transpose(-1, -2) / q.shape[-1] ** 0.5
    count = max(1, int(keep_ratio * scores.shape[-1]))
    chosen = scores.softmax(-1).topk(count, dim=-1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, chosen, True)


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """φ(q) Σ φ(k)ᵀ v / (φ(q) · Σ φ(k) + ε) over all tokens in O(N), φ = elu + 1; (B, H, N, D) each, float32 sums."""
    q, k = F.elu(q.float()) + 1, F.elu(k.float()) + 1
    return ((q @ (k.transpose(-1, -2) @ v.float())) / (q @ k.sum(dim=2)[..., None] + EPSILON)).to(v.dtype)


def dense_and_linear(q: Tensor, k: Tensor, v: Tensor, weight: Tensor) -> Tensor:
    """`published` with every key kept: dense attention plus the linear branch in O(N).

    q, k, v (B, H, N, D), `weight` W (D, D) → (B, H, N, D) in the dtype of v.
    """
    return F.scaled_dot_product_attention(q, k, v) + linear_attention(q, k, v) @ weight.T


def published(q: Tensor, k: Tensor, v: Tensor, weight: Tensor, keep_ratio: float = 1.0, block: int = BLOCK) -> Tensor:
    """Attention of Lite3R's checkpoints (arXiv 2605.11354): q, k, v (B, H, N, D), `weight` W (D, D) → (B, H, N, D)."""
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
    """The sparse and the linear branch (B, H, N, D), the linear one before W.

    `critical` and `linear` (B, H, N, N) are masks over (query, key): exact attention over the critical keys, linear
    attention over the linear ones. `feature` names φ. `summary` (B, H, N, blocks, N) is a mask of keys that the sparse
    branch sees as one token per block, in the same softmax as the critical keys (formula in `torch_summary.py`).
    """
    scale = q.shape[-1] ** -0.5
    logits = (q @ k.transpose(-1, -2) * scale).masked_fill(~critical, -torch.inf)
    if summary is not None:
        count = summary.sum(-1)  # (B, H, N, blocks)
        average = summary.to(q.dtype) / count.clamp(min=1)[..., None]
        mean = average @ k[:, :, None]  # (B, H, N, blocks, D)
        variance = average @ k[:, :, None].square() - mean.square()
        first, second = mean @ q[..., None] * scale, variance @ q[..., None].square() * scale**2 / 2
        block_logits = (first + second)[..., 0] + count.log()  # −inf for an empty block
        weights = torch.cat([logits, block_logits], dim=-1).softmax(-1)
        exact, summarised = weights.split([k.shape[2], count.shape[-1]], dim=-1)
        sparse = exact @ v + (summarised[..., None, :] @ (average @ v[:, :, None]))[..., 0, :]
    else:
        sparse = logits.softmax(-1) @ v
    phi = FEATURES[feature]
    weights = (phi(q) @ phi(k).transpose(-1, -2)).masked_fill(~linear, 0)
    return sparse, weights @ v / (weights.sum(-1, keepdim=True) + EPSILON)
