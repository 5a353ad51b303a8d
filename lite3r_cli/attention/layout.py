"""Which tokens share a block. A layout is any partition of a sequence's tokens into tiles of at most `block` slots.

Tokens are moved into tiles (B, H, blocks, T, D) before attention and back after it; slots without a token hold zeros
and are masked. Blocks of multi-view tokens stay inside one frame, and the few special tokens of all frames (camera,
register) share blocks of their own, so that protecting them costs one block instead of one for each frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product

import torch
from torch import Tensor

from lite3r_cli.errors import UsageError

BLOCK = 64  # tokens
TILE_COST = 16  # of one more tile, in slots: many small ones keep a processor less busy


@dataclass(frozen=True)
class Frames:
    """Equally sized frames that follow one another in the sequence."""

    count: int
    tokens: int  # of one frame, the special ones first
    specials: int = 0  # camera and register tokens of one frame
    grid: tuple[int, int] | None = None  # rows and columns of the patches; None: blocks are runs of tokens

    def __post_init__(self) -> None:
        if self.count < 1 or not 0 <= self.specials < self.tokens:
            raise UsageError(f"not frames of tokens: {self}")
        if self.grid is not None and self.grid[0] * self.grid[1] != self.tokens - self.specials:
            raise UsageError(f"a grid of {self.grid[0]}×{self.grid[1]} has not {self.tokens - self.specials} patches")


@dataclass(frozen=True, eq=False)
class Layout:
    """One slot holds one token; `index` of an empty slot is any token, `valid` tells."""

    index: Tensor  # (blocks, T) token in each slot
    valid: Tensor  # (blocks, T) bool
    protected: Tensor  # (blocks,) bool: as keys, these are critical to every query
    exact: Tensor  # (blocks,) bool: as queries, these see every key

    @property
    def blocks(self) -> int:
        return self.index.shape[0]

    @cached_property
    def full(self) -> bool:
        """Whether there is no empty slot."""
        return bool(self.valid.all())

    @cached_property
    def slots(self) -> Tensor:
        """The occupied slots, (tokens,) indices into the flattened tiles."""
        with torch.inference_mode(False):  # kept, so that it must serve training too
            return self.valid.flatten().nonzero()[:, 0]

    @cached_property
    def occupants(self) -> Tensor:
        """The token in each of `slots`."""
        with torch.inference_mode(False):
            return self.index.flatten()[self.slots]

    def to(self, device: torch.device | str) -> Layout:
        return Layout(*(t.to(device) for t in (self.index, self.valid, self.protected, self.exact)))

    def tile(self, x: Tensor) -> Tensor:
        """(B, H, N, D) → (B, H, blocks, T, D), zeros in the empty slots whatever the tokens outside hold."""
        tiles = x.index_select(2, self.index.flatten()).unflatten(2, self.index.shape)
        return tiles if self.full else torch.where(self.valid[:, :, None], tiles, tiles.new_zeros(()))

    def untile(self, tiles: Tensor, tokens: int) -> Tensor:
        """(B, H, blocks, T, D) → (B, H, tokens, D); tokens without a slot get zeros."""
        out = tiles.new_zeros(*tiles.shape[:2], tokens, tiles.shape[-1])
        return out.index_copy(2, self.occupants, tiles.flatten(2, 3).index_select(2, self.slots))

    def means(self, tiles: Tensor) -> Tensor:
        """(B, H, blocks, T, D) → (B, H, blocks, D): each block's mean over the tokens that it has."""
        wide = tiles.to(torch.promote_types(tiles.dtype, torch.float32))
        return wide.sum(3) / self.valid.sum(1)[:, None]


def from_runs(runs: Sequence[Sequence[int]], protected: Sequence[bool], exact: Sequence[bool]) -> Layout:
    """A layout whose blocks hold these tokens."""
    width = max(len(run) for run in runs)
    padded = [[*run, *[run[0]] * (width - len(run))] for run in runs]
    with torch.inference_mode(False):  # layouts are kept: one first made in a prediction must serve training too
        valid = torch.arange(width) < torch.tensor([len(run) for run in runs])[:, None]
        return Layout(torch.tensor(padded), valid, torch.tensor(protected), torch.tensor(exact))


@lru_cache(maxsize=16)
def packed_layout(tokens: int, block: int = BLOCK) -> Layout:
    """Runs of `block` tokens, the last one shorter, nothing protected: the blocks of `reference.py`."""
    runs = [range(first, min(first + block, tokens)) for first in range(0, tokens, block)]
    return from_runs(runs, [False] * len(runs), [False] * len(runs))


@lru_cache(maxsize=16)
def frame_layout(
    frames: tuple[Frames, ...], block: int = BLOCK, reference: int | None = 0, protect: bool = True
) -> Layout:
    """Blocks that stay inside one frame, of sizes that differ by at most one (runs) or one row and column (a grid).

    `frames` are groups of equally sized frames in the order of the sequence; `reference` is the frame (counted over
    all groups) whose keys are critical to every query, None for no such frame. Special tokens are critical as keys
    and see everything as queries. Without `protect` nothing is, but the blocks are the same.
    """
    runs: list[list[int]] = []
    protected: list[bool] = []
    specials: list[int] = []
    start = number = 0
    for group in frames:
        for _ in range(group.count):
            specials += range(start, start + group.specials)
            first, patches = start + group.specials, group.tokens - group.specials
            pieces = _tiles(group.grid, block) if group.grid else _split(patches, block)
            runs += [[first + i for i in piece] for piece in pieces]
            protected += [protect and number == reference] * len(pieces)
            start, number = start + group.tokens, number + 1
    if specials:
        blocks = [[specials[i] for i in piece] for piece in _split(len(specials), block)]
        runs, protected = blocks + runs, [protect] * len(blocks) + protected
        return from_runs(runs, protected, [protect] * len(blocks) + [False] * (len(runs) - len(blocks)))
    return from_runs(runs, protected, [False] * len(runs))


def _split(length: int, most: int) -> list[range]:
    """`length` in as few runs of at most `most` as possible, of sizes that differ by at most one."""
    count = -(-length // most)
    edges = [length * i // count for i in range(count + 1)]
    return [range(a, b) for a, b in zip(edges, edges[1:])]


def _tiles(grid: tuple[int, int], block: int) -> list[list[int]]:
    """A grid in rectangles of at most `block` patches, near squares (neighbours pool well) with few empty slots."""
    rows, columns = grid

    def badness(cuts: tuple[int, int]) -> float:
        height, width = -(-rows // cuts[0]), -(-columns // cuts[1])
        if height * width > block:
            return math.inf
        cost = cuts[0] * cuts[1] * (height * width + TILE_COST)
        return cost * (1 + abs(math.log2(height / width)) / 16)

    down, along = min(product(range(1, rows + 1), range(1, columns + 1)), key=badness)
    bands, strips = _split(rows, -(-rows // down)), _split(columns, -(-columns // along))
    return [[r * columns + c for r in band for c in strip] for band, strip in product(bands, strips)]
