"""Which patches show the scene. Those that show none of it (masked, transparent, a bar, a frame) are no keys of
attention: no token learns from them. They stay queries, so that the dense heads find sound tokens beside the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Keys = list[tuple[list[int], Tensor | None]]  # views of a bucket, and the keys that they share; None: all tokens


@dataclass(frozen=True, eq=False)
class Seen:
    """Of the views of each bucket, the patches that show the scene: (S_b, N) bool, one at least in every view."""

    buckets: list[Tensor]

    @classmethod
    def of(
        cls, masks: Sequence[Tensor | None] | None, groups: Sequence[Sequence[int]], grids: Sequence[tuple[int, int]]
    ) -> Seen | None:
        """From pixels to leave out, (H, W) bool of each view or None; None if no patch lies in them as a whole.

        `groups` are the views of each bucket, `grids` its patches (rows, columns).
        """
        if masks is None or all(mask is None for mask in masks):
            return None
        buckets = []
        for group, (rows, columns) in zip(groups, grids):
            seen = torch.ones(len(group), rows * columns, dtype=torch.bool)
            for row, i in zip(seen, group):
                mask = masks[i]
                if mask is not None:
                    size = mask.shape[0] // rows
                    row &= ~mask.cpu().view(rows, size, columns, size).all(3).all(1).flatten()
                    row[0] |= not row.any()  # attention needs a key
            buckets.append(seen)
        return None if all(bool(seen.all()) for seen in buckets) else cls(buckets)

    @staticmethod
    def rows(seen: Seen | None, buckets: int) -> Sequence[Tensor | None]:
        """`seen.buckets`, or as many None where everything is seen."""
        return [None] * buckets if seen is None else seen.buckets

    @property
    def counts(self) -> list[int]:
        """Patches of each view that show the scene, in the order of the buckets."""
        return [n for seen in self.buckets for n in seen.sum(1).tolist()]

    def across(self, tokens: Sequence[int], device: torch.device) -> Tensor:
        """Keys of attention across all views, whose tokens are packed bucket by bucket, `tokens` of a view in each."""
        parts, start = [], 0
        for seen, count in zip(self.buckets, tokens):
            parts.append(start + _keys(seen, count))
            start += len(seen) * count
        return torch.cat(parts).to(device)


def keys_within(seen: Tensor, tokens: int, device: torch.device) -> Keys:
    """Keys of attention within views that show the patches `seen` (S, N), `tokens` of each, the special ones first;
    views with the same ones together.
    """
    together: dict[bytes, list[int]] = {}
    for i, row in enumerate(seen):
        together.setdefault(row.numpy().tobytes(), []).append(i)
    return [
        (views, None if seen[views[0]].all() else _keys(seen[views[:1]], tokens).to(device))
        for views in together.values()
    ]


def _keys(seen: Tensor, tokens: int) -> Tensor:
    """Special tokens and the patches `seen` (S, N), of views with `tokens` each that follow one another."""
    special = seen.new_ones(len(seen), tokens - seen.shape[1])
    return torch.cat([special, seen], dim=1).flatten().nonzero()[:, 0]
