"""Which patches show the scene. Patches without scene content (masked, transparent, black bars, frames) are not used as
keys of attention. They stay queries, because the dense heads need a token for every patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Keys = list[tuple[list[int], Tensor | None]]  # views of a bucket with the same keys, and these keys; None: all tokens


@dataclass(frozen=True, eq=False)
class Seen:
    """A mask (S_b, N) per bucket of the patches that show the scene. At least one patch per view is True."""

    buckets: list[Tensor]

    @classmethod
    def of(
        cls, masks: Sequence[Tensor | None] | None, groups: Sequence[Sequence[int]], grids: Sequence[tuple[int, int]]
    ) -> Seen | None:
        """From one mask (H, W) per view, True for pixels to ignore; a patch is ignored if all its pixels are. Returns
        None if no patch is ignored.

        `groups` are the views of each bucket, `grids` the patch rows and columns of each bucket.
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
                    row[0] |= not row.any()  # attention needs at least one key
            buckets.append(seen)
        return None if all(bool(seen.all()) for seen in buckets) else cls(buckets)

    @staticmethod
    def rows(seen: Seen | None, buckets: int) -> Sequence[Tensor | None]:
        """The masks of `buckets` buckets; None for each if `seen` is None."""
        return [None] * buckets if seen is None else seen.buckets

    @property
    def counts(self) -> list[int]:
        """The number of patches that show the scene, per view, in the order of the buckets."""
        return [n for seen in self.buckets for n in seen.sum(1).tolist()]

    def across(self, tokens: Sequence[int], device: torch.device) -> Tensor:
        """Indices of the keys in the packed sequence of all views. `tokens` is the number per view in each bucket."""
        parts, start = [], 0
        for seen, count in zip(self.buckets, tokens):
            parts.append(start + _keys(seen, count))
            start += len(seen) * count
        return torch.cat(parts).to(device)


def keys_within(seen: Tensor, tokens: int, device: torch.device) -> Keys:
    """Keys of attention within views, for the patch mask `seen` (S, N). A view has `tokens` tokens, special ones first.
    Views with equal masks are grouped.
    """
    together: dict[bytes, list[int]] = {}
    for i, row in enumerate(seen):
        together.setdefault(row.numpy().tobytes(), []).append(i)
    return [
        (views, None if seen[views[0]].all() else _keys(seen[views[:1]], tokens).to(device))
        for views in together.values()
    ]


def _keys(seen: Tensor, tokens: int) -> Tensor:
    """Indices of the special tokens and of the patches in `seen` (S, N), for consecutive views of `tokens` tokens."""
    special = seen.new_ones(len(seen), tokens - seen.shape[1])
    return torch.cat([special, seen], dim=1).flatten().nonzero()[:, 0]
