"""Tiles of keys and values gathered for some query tiles at a time, few enough to stay in the cache."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK_ELEMENTS = {"cpu": 2**18, "cuda": 2**27}  # of the keys gathered at a time; on a CPU by each thread


def chunks(columns: Tensor, tile: int, width: int) -> Iterator[slice]:
    """Slices of the rows of `columns` (R, kept), so short that their keys, `tile` tokens of `width` each, stay in the
    cache.
    """
    rows, kept = columns.shape
    step = max(1, CHUNK_ELEMENTS.get(columns.device.type, 2**24) // (kept * tile * width))
    if columns.device.type == "cpu":
        step *= torch.get_num_threads()
    return (slice(first, first + step) for first in range(0, rows, step))


def gather(table: Tensor, columns: Tensor, buffer: Tensor | None = None) -> Tensor:
    """Tiles (all, T, D) at `columns` (R, kept) → (R, 1, kept·T, D), in a buffer's memory where one is given."""
    rows = columns.flatten()
    out = None if buffer is None else buffer[: len(rows)]
    picked = torch.index_select(table.flatten(1), 0, rows, out=out)
    return picked.view(len(columns), 1, -1, table.shape[-1])


def gathered_bias(mask: Tensor, columns: Tensor) -> Tensor:
    """Additive mask (all, T) of the tiles at `columns` (R, kept) → (R, 1, 1, kept·T)."""
    return mask.index_select(0, columns.flatten()).view(len(columns), 1, 1, -1)
