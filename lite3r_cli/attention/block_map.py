"""Which key blocks each query block attends to exactly, which the linear branch sees, and which nobody does.

The scores are those of SLA (arXiv 2509.24006): P = softmax(pool(Q) · pool(K)ᵀ / √D), pooling by the mean. The highest
are critical, the lowest dropped, the rest goes to the linear branch. Only the order matters: no softmax is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lite3r_cli.attention.layout import Layout
from lite3r_cli.errors import UsageError


@dataclass(frozen=True, eq=False)
class BlockMap:
    """Both (B, H, query blocks, key blocks) bool and disjoint; blocks in neither are dropped."""

    critical: Tensor
    linear: Tensor

    @property
    def skipped(self) -> Tensor:
        """1 − computed key blocks / all key blocks, a scalar; protected blocks count as computed."""
        return 1 - self.critical.float().mean()


def block_map(q: Tensor, k: Tensor, layout: Layout, keep_ratio: float, drop_ratio: float = 0.0) -> BlockMap:
    """The map for tiles q, k (B, H, blocks, T, D).

    `keep_ratio` of the key blocks are critical, rounded down, at least one, the protected ones among them (all of
    those, should they be more); `drop_ratio` of them, rounded down, are dropped as far as there are others left.
    """
    with torch.no_grad():
        scores = layout.means(q) @ layout.means(k).transpose(-1, -2) / q.shape[-1] ** 0.5
        blocks, protected = layout.blocks, int(layout.protected.sum())
        count = min(blocks, max(1, int(keep_ratio * blocks), protected))
        scores = scores.masked_fill(layout.protected, torch.inf)
        critical = _marked(scores, count, largest=True)
        dropped = _marked(scores.masked_fill(critical, torch.inf), min(int(drop_ratio * blocks), blocks - count), False)
        critical = critical | layout.exact[:, None]
        return BlockMap(critical, ~critical & ~dropped)


def _marked(scores: Tensor, count: int, largest: bool) -> Tensor:
    chosen = scores.topk(count, dim=-1, largest=largest, sorted=False).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, chosen, True)


def keep_everything(q: Tensor, k: Tensor) -> BlockMap:
    """The map of dense attention for tiles (B, H, blocks, T, D)."""
    critical = torch.ones(*q.shape[:3], k.shape[2], dtype=torch.bool, device=q.device)
    return BlockMap(critical, ~critical)


def keep_schedule(layers: int, keep_ratio: float, dense: Sequence[int] = ()) -> tuple[float, ...]:
    """One keep ratio for each of `layers` layers with mean `keep_ratio`; those in `dense` (negative: from the end)
    keep everything, the others share what is left. Raises UsageError if nothing is.
    """
    full = {i % layers for i in dense if -layers <= i < layers}
    if len(full) != len(set(dense)):
        raise UsageError(f"of {layers} sparse layers there are not these: {', '.join(map(str, dense))}")
    rest = layers - len(full)
    share = (keep_ratio * layers - len(full)) / rest if rest else keep_ratio
    if not 0 < share <= 1:
        raise UsageError(f"a mean keep ratio of {keep_ratio} leaves nothing beside {len(full)} dense layers")
    return tuple(1.0 if i in full else share for i in range(layers))
