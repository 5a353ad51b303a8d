"""Gather the key and value tiles of a few query tiles at a time, so that they stay in the cache."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK_ELEMENTS = {"cpu": 2**18, "cuda": 2**27}  # elements of gathered keys at a time; on a CPU per thread


def chunks(columns: Tensor, tile: int, width: int) -> Iterator[slice]:
    """Slices over the rows of the block table `columns` (R, kept), short enough that the gathered keys stay in the
    cache. A key tile has `tile` tokens of `width` channels.
    """
    rows, kept = columns.shape
    step = max(1, CHUNK_ELEMENTS.get(columns.device.type, 2**24) // (kept * tile * width))
    if columns.device.type == "cpu":
        step *= torch.get_num_threads()
    return (slice(first, first + step) for first in range(0, rows, step))


def gather(table: Tensor, columns: Tensor, buffer: Tensor | None = None) -> Tensor:
    """Tiles of `table` (all, T, D) at `columns` (R, kept) → (R, 1, kept·T, D), written into `buffer` if given."""
    rows = columns.flatten()
    out = None if buffer is None else buffer[: len(rows)]
    picked = torch.index_select(table.flatten(1), 0, rows, out=out)
    return picked.view(len(columns), 1, -1, table.shape[-1])


def gathered_bias(mask: Tensor, columns: Tensor) -> Tensor:
    """Rows of the additive mask (all, T) at `columns` (R, kept) → (R, 1, 1, kept·T)."""
    return mask.index_select(0, columns.flatten()).view(len(columns), 1, 1, -1)
