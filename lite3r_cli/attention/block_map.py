"""For each query block: which key blocks get exact attention, which the linear branch, and which are dropped.

    pooled   pool(Q) · pool(K)ᵀ / √D, pooling by the mean                                     (SLA, arXiv 2509.24006)
    mass     mean over a query block of softmax(log n + q·k̄ / √D + ½ Σ q_c² var_c(k) / D)      (see `torch_summary.py`)

Key blocks with the highest scores are critical (exact attention), those with the lowest are dropped, and all others go
to the linear branch. `mass` estimates from the summary of a key block which share of the softmax the block gets,
averaged over a sample of the queries. It does not use the mean query, because then a block that matters to all queries
a little would win against a block that matters to a few queries a lot.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lite3r_cli.attention.gather import CHUNK_ELEMENTS
from lite3r_cli.attention.tiling import TokenTiling

SCORES = ("pooled", "mass")
SAMPLED = 3  # `mass` uses every third query: in common tile shapes these are neither one row nor one column


@dataclass(frozen=True, eq=False)
class BlockMap:
    """Two masks (B, H, query blocks, key blocks) bool. They do not overlap; blocks in neither of them are dropped."""

    critical: Tensor
    linear: Tensor

    @property
    def skipped(self) -> Tensor:
        """1 − computed key blocks / all key blocks, a scalar; protected blocks count as computed."""
        return 1 - self.critical.float().mean()


def block_map(
    q: Tensor, k: Tensor, layout: TokenTiling, keep_ratio: float, drop_ratio: float = 0.0, scores: str = "pooled"
) -> BlockMap:
    """The masks for tiles q, k (B, H, blocks, T, D) of `layout`; `scores` is one of SCORES.

    The share `keep_ratio` of all pairs of blocks is critical. It includes the protected keys and the query blocks that
    attend to everything. Every other query block gets the same number of key blocks, see `kept_count`. The share
    `drop_ratio` of the key blocks, rounded down, is dropped; critical blocks are never dropped.
    """
    with torch.no_grad():
        keys = layout.keys
        order = mass(q, k, layout) if scores == "mass" else layout.means(q) @ keys.means(k).mT  # only the order matters
        count = kept_blocks(layout, keep_ratio)
        protected = keys.protected.unflatten(-1, (1, 1, -1))  # (1, 1, blocks) or (B, 1, 1, blocks)
        order = order.masked_fill(protected, torch.inf)
        critical = _marked(order, count, largest=True)
        free = min(int(drop_ratio * keys.blocks), keys.blocks - count)
        dropped = _marked(order.masked_fill(critical, torch.inf), free, False)
        critical = critical | layout.exact[:, None]
        return BlockMap(critical, ~critical & ~dropped)


def mass(q: Tensor, k: Tensor, layout: TokenTiling) -> Tensor:
    """The `mass` score of tiles q, k (B, H, blocks, T, D): (B, H, query blocks, key blocks).

    The result is the sum over the sampled queries; dividing by their number would not change the order of the blocks.
    One product gives all three terms of a logit: [q / √D, ½ q² / D, 1] · [k̄, var(k), log n].
    """
    means, spreads = (t.flatten(0, 1) for t in layout.keys.moments(k))
    log_lengths = layout.keys.lengths.log().to(means.dtype).expand(*means.shape[:2])[..., None]
    summaries = torch.cat([means, spreads, log_lengths], dim=-1).to(q.dtype).mT  # (heads, 2D + 1, key blocks)
    sampled, valid = q[:, :, :, ::SAMPLED].flatten(0, 1) * q.shape[-1] ** -0.5, layout.valid[:, ::SAMPLED, None]
    per_block = sampled.shape[0] * sampled.shape[2] * means.shape[1]  # logits of one query block, all heads
    step, buffers = max(1, CHUNK_ELEMENTS.get(q.device.type, 2**24) * 2 // per_block), None
    found = []
    for first in range(0, layout.blocks, step):
        x = sampled[:, first : first + step]
        queries = torch.cat([x, x.square() / 2, torch.ones_like(x[..., :1])], dim=-1).flatten(1, 2)
        if buffers is None or buffers[0].shape[1] != queries.shape[1]:  # allocating costs more than the product
            buffers = [queries.new_empty(*queries.shape[:2], summaries.shape[-1]) for _ in range(2)]
        weights = torch.softmax(torch.bmm(queries, summaries, out=buffers[0]), -1, out=buffers[1])
        found.append((weights.unflatten(1, x.shape[1:3]) * valid[first : first + step]).sum(2, dtype=means.dtype))
    result: Tensor = torch.cat(found, dim=1).unflatten(0, q.shape[:2])
    return result


def kept_blocks(layout: TokenTiling, keep_ratio: float) -> int:
    """How many key blocks each query block keeps, except those that attend to everything; see `kept_count`."""
    keys = layout.keys
    return kept_count(layout.blocks, layout.exact_blocks, keys.blocks, keys.most_protected, keep_ratio)


def kept_count(rows: int, exact: int, keys: int, most_protected: int, keep_ratio: float) -> int:
    """How many of `keys` key blocks each ordinary query block keeps. `exact` of the `rows` query blocks keep all.

        (keep_ratio · rows − exact) · keys / (rows − exact)

    is rounded down, so that at most the share `keep_ratio` of all pairs is kept. The result is at least 1 and at least
    `most_protected`.
    """
    share = (keep_ratio * rows - exact) * keys / max(1, rows - exact) if exact else keep_ratio * keys
    return min(keys, max(1, int(share), most_protected))


def _marked(scores: Tensor, count: int, largest: bool) -> Tensor:
    chosen = scores.topk(count, dim=-1, largest=largest, sorted=False).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, chosen, True)
