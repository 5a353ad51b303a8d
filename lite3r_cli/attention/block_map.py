"""Which key blocks each query block attends to exactly, which the linear branch sees, and which nobody does.

    pooled   pool(Q) · pool(K)ᵀ / √D, pooling by the mean                                     (SLA, arXiv 2509.24006)
    mass     mean over a query block of softmax(log n + q·k̄ / √D + ½ Σ q_c² var_c(k) / D)      (see `torch_summary.py`)

The blocks of the highest scores are critical, those of the lowest dropped, the rest goes to the linear branch. `mass`
is the share of the softmax that a key block has, as its summary tells, over some of the queries: their mean is a query
that nobody asks, and a block that some of them need badly must not lose to one that all of them hardly need.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lite3r_cli.attention.gather import CHUNK_ELEMENTS
from lite3r_cli.attention.tiling import TokenTiling

SCORES = ("pooled", "mass")
SAMPLED = 3  # one of so many queries tells the mass: neither a row nor a column of common rectangles


@dataclass(frozen=True, eq=False)
class BlockMap:
    """Both (B, H, query blocks, key blocks) bool and disjoint; blocks in neither are dropped."""

    critical: Tensor
    linear: Tensor

    @property
    def skipped(self) -> Tensor:
        """1 − computed key blocks / all key blocks, a scalar; protected blocks count as computed."""
        return 1 - self.critical.float().mean()


def block_map(
    q: Tensor, k: Tensor, layout: TokenTiling, keep_ratio: float, drop_ratio: float = 0.0, scores: str = "pooled"
) -> BlockMap:
    """The map by `scores`, one of SCORES, for tiles q, k (B, H, blocks, T, D), each in the blocks that `layout` has for
    it.

    `keep_ratio` of all pairs of blocks are critical, the protected keys and the rows that see everything among them:
    equally many, rounded down, for each other query block; at least one, and all the protected ones. `drop_ratio` of
    the key blocks, rounded down, are dropped as far as there are others left.
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
    """(B, H, query blocks, key blocks): times the number of queries that were asked, which changes no order."""
    means, spreads = (t.flatten(0, 1) for t in layout.keys.moments(k))
    weigh = layout.keys.lengths.log().to(means.dtype).expand(*means.shape[:2])[..., None]
    far = torch.cat([means, spreads, weigh], dim=-1).to(q.dtype).mT  # (heads, 2D + 1, key blocks)
    asked, there = q[:, :, :, ::SAMPLED].flatten(0, 1) * q.shape[-1] ** -0.5, layout.valid[:, ::SAMPLED, None]
    some = asked.shape[0] * asked.shape[2] * means.shape[1]  # logits of one block for all heads
    step, memory = max(1, CHUNK_ELEMENTS.get(q.device.type, 2**24) * 2 // some), None
    found = []
    for first in range(0, layout.blocks, step):
        x = asked[:, first : first + step]
        near = torch.cat([x, x.square() / 2, torch.ones_like(x[..., :1])], dim=-1).flatten(1, 2)
        if memory is None or memory[0].shape[1] != near.shape[1]:  # fresh memory costs more than its use
            memory = [near.new_empty(*near.shape[:2], far.shape[-1]) for _ in range(2)]
        weights = torch.softmax(torch.bmm(near, far, out=memory[0]), -1, out=memory[1])
        found.append((weights.unflatten(1, x.shape[1:3]) * there[first : first + step]).sum(2, dtype=means.dtype))
    result: Tensor = torch.cat(found, dim=1).unflatten(0, q.shape[:2])
    return result


def kept_blocks(layout: TokenTiling, keep_ratio: float) -> int:
    """How many key blocks an ordinary query block keeps, so that with the rows that keep all it is `keep_ratio`."""
    keys = layout.keys
    return kept_count(layout.blocks, layout.exact_blocks, keys.blocks, keys.most_protected, keep_ratio)


def kept_count(rows: int, exact: int, keys: int, most_protected: int, keep_ratio: float) -> int:
    """Of `keys` key blocks, how many each of `rows` query blocks keeps that is not one of the `exact` ones, which keep
    all, so that `keep_ratio` of all pairs is kept: rounded down, at least one, and no fewer than may be protected.
    """
    share = (keep_ratio * rows - exact) * keys / max(1, rows - exact) if exact else keep_ratio * keys
    return min(keys, max(1, int(share), most_protected))


def _marked(scores: Tensor, count: int, largest: bool) -> Tensor:
    chosen = scores.topk(count, dim=-1, largest=largest, sorted=False).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, chosen, True)
