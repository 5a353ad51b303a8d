"""Matches of descriptors: mutual nearest neighbours that pass the ratio test both ways (Lowe, IJCV 2004).

Descriptors are integers, and so are their products, which are exact in float32 and in any order: the answer does not
depend on threads or on the instructions of the processor. One product of two pictures is enough: the second-best match
of a row is at least the best one of another group of columns. Where the ratio test passes with that bound, the group of
the best one is looked at again; so are blocks of rows for the columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import torch
from torch import Tensor

from ..layers.lone_threads import lone_threads

_SQUARE = 512.0**2  # squared length of a descriptor
_RATIO = 0.8  # of the distances to the best and the second-best descriptor
_FARTHEST = 0.7  # largest distance of a match, as a share of the length
_ROWS, _COLUMNS = 64, 128  # of a block that stays in the cache of a core, and of a group in it
_ZERO = 128  # what makes uint8 fit into int8


@dataclass(frozen=True)
class Described:
    """Descriptors (N, 128) uint8 of one picture, ready to be compared."""

    descriptors: np.ndarray

    @cached_property
    def rows(self) -> Tensor:
        """(N, 128) uint8."""
        return torch.from_numpy(np.ascontiguousarray(self.descriptors))

    @cached_property
    def columns(self) -> Tensor:
        """(M, 128) uint8 with zeros up to a multiple of `_COLUMNS`."""
        return torch.nn.functional.pad(self.rows, (0, 0, 0, -len(self.rows) % _COLUMNS))

    @cached_property
    def sums(self) -> Tensor:
        """(N, 1) float32: what the products of the rows with columns less `_ZERO` lack."""
        return _ZERO * self.rows.sum(dim=1, keepdim=True).float()

    @cached_property
    def packed(self) -> Tensor:
        """The columns for products of bytes."""
        return _packed(self.columns)

    def __len__(self) -> int:
        return len(self.descriptors)


Pair = tuple[int, int]  # numbers of two pictures
Each = Callable[[Callable[[Pair], np.ndarray], Iterable[Pair]], Iterable[np.ndarray]]  # applies a function to pairs


def on_all_cores(function: Callable[[Pair], np.ndarray], pairs: Iterable[Pair]) -> Iterable[np.ndarray]:
    """The results of `function` in order, found by threads beside each other."""
    return lone_threads(torch.get_num_threads()).map(function, pairs)


def match_pairs(pictures: Sequence[Described], pairs: Sequence[Pair], each: Each = on_all_cores) -> list[np.ndarray]:
    """For each pair of pictures the rows (M, 2) int64 of their descriptors that match, sorted."""
    return list(each(lambda pair: matches(pictures[pair[0]], pictures[pair[1]]), pairs))


@torch.inference_mode()
def matches(first: Described, second: Described) -> np.ndarray:
    """The rows (M, 2) int64 of two pictures' descriptors that match, sorted."""
    if min(len(first), len(second)) < 2:
        return np.zeros((0, 2), np.int64)
    of_groups, of_blocks = _maxima(first, second)
    two, groups = of_groups.topk(2, dim=1) if of_groups.shape[1] > 1 else _alone(of_groups)
    rows = torch.nonzero(_clear(two[:, 0], two[:, 1])).flatten()
    best, near, column = _within(first.rows, second.columns, rows, groups[rows, 0], _COLUMNS)
    keep = _clear(best, torch.maximum(near, two[rows, 1]))
    rows, column, best = rows[keep], column[keep], best[keep]
    two, blocks = of_blocks[:, column].T.topk(2, dim=1) if len(of_blocks) > 1 else _alone(of_blocks[:, column].T)
    mutual = torch.nonzero((two[:, 0] == best) & _clear(best, two[:, 1])).flatten()
    rows, column, two, blocks = rows[mutual], column[mutual], two[mutual], blocks[mutual, 0]
    best, near, row = _within(second.columns, first.rows, column, blocks, _ROWS)
    keep = (row == rows) & _clear(best, torch.maximum(near, two[:, 1]))
    return torch.stack([rows[keep], column[keep]], dim=1).numpy()


def _maxima(first: Described, second: Described) -> tuple[Tensor, Tensor]:
    """The largest products of the rows of `first` with each group of columns of `second` (N, G), and of each block of
    rows with the columns (B, M).
    """
    count, width = len(first), len(second.columns)
    of_groups = torch.empty(count, width // _COLUMNS)
    of_blocks = torch.empty(-(-count // _ROWS), width)
    by_bytes = _bytes_work()
    columns = second.packed if by_bytes else second.columns.float().T
    for k, start in enumerate(range(0, count, _ROWS)):
        block = slice(start, min(start + _ROWS, count))
        if by_bytes:
            product = _product(first.rows[block], columns).add_(first.sums[block])
        else:
            product = first.rows[block].float() @ columns
        torch.amax(product.view(len(product), -1, _COLUMNS), dim=-1, out=of_groups[block])
        torch.amax(product, dim=0, out=of_blocks[k])
    return of_groups, of_blocks


def _alone(maxima: Tensor) -> tuple[Tensor, Tensor]:
    """The best (N, 2) and its number (N, 1) where there is only one group, (N, 1)."""
    return torch.cat([maxima, torch.zeros_like(maxima)], dim=1), torch.zeros(len(maxima), 1, dtype=torch.int64)


def _within(here: Tensor, there: Tensor, rows: Tensor, parts: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best and second-best product (K,) of `rows` (K,) of `here` with the rows of one part of `there` each, and the
    row of the best one. Parts have `size` rows.
    """
    best, near = torch.zeros(len(rows)), torch.zeros(len(rows))
    number = torch.zeros(len(rows), dtype=torch.int64)
    order = torch.argsort(parts, stable=True)
    which, counts = torch.unique_consecutive(parts[order], return_counts=True)
    for part, mine in zip(which.tolist(), order.split(counts.tolist()), strict=True):
        product = here[rows[mine]].float() @ there[part * size : (part + 1) * size].float().T
        two, at = product.topk(min(2, product.shape[1]), dim=1)
        best[mine], number[mine] = two[:, 0], part * size + at[:, 0]
        if two.shape[1] > 1:
            near[mine] = two[:, 1]
    return best, near, number


def _clear(best: Tensor, second: Tensor) -> Tensor:
    """Whether the best product (K,) is large enough and passes the ratio test against the second-best (K,)."""
    apart = (_SQUARE - best).clamp(min=0)
    return (apart < _RATIO**2 * (_SQUARE - second)) & (apart <= _FARTHEST**2 / 2 * _SQUARE)


def _packed(columns: Tensor) -> Tensor:
    """(M, 128) uint8 as oneDNN's weights."""
    found: Tensor = torch.ops.onednn.qlinear_prepack((columns.short() - _ZERO).char(), None)
    return found


def _product(rows: Tensor, packed: Tensor) -> Tensor:
    """(N, M) float32: rows (N, 128) uint8 times the packed columns less `_ZERO`, by instructions for bytes."""
    width = packed.shape[-1]
    scales, zeros = torch.ones(width), torch.zeros(width, dtype=torch.int64)
    found: Tensor = torch.ops.onednn.qlinear_pointwise(
        rows, 1.0, 0, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return found


@cache
def _bytes_work() -> bool:
    """Whether torch multiplies bytes exactly here: older processors add pairs of products in 16 bits."""
    rows = torch.tensor([[255] * 128, [0, 255] * 64, list(range(128))], dtype=torch.uint8)
    columns = torch.tensor([[255] * 128, [0] * 128, list(range(128, 256)), [3, 200] * 64], dtype=torch.uint8)
    try:
        found = _product(rows, _packed(columns)) + _ZERO * rows.sum(dim=1, keepdim=True).float()
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):  # this torch has no such operation
        return False
    return torch.equal(found, rows.float() @ columns.float().T)
