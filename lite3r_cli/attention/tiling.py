"""Which tokens share a block. A layout divides the tokens of a sequence into tiles of at most `block` slots.

Tokens are moved into tiles (B, H, blocks, T, D) before attention and back after it. Slots without a token hold zeros
and are masked. A block stays inside one frame. The special tokens (camera, register) of all frames share blocks of
their own, so that protecting them costs a few blocks instead of one per frame.

Keys may have smaller tiles than queries: large query tiles keep the matrix products efficient, and small key tiles
follow more closely which keys are needed. Such a layout holds a second one of the same tokens, `finer`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from itertools import pairwise, product
from typing import Any

import torch
from torch import Tensor

from lite3r_cli.attention.features import widened
from lite3r_cli.errors import UsageError

BLOCK = 64  # tokens
KEPT = 8  # layouts per cache: a layout of many views takes tens of megabytes of GPU memory
TILE_COST = 16  # cost of one more tile in slots, because many small tiles use a processor less well


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
class TokenTiling:
    """The slot of each token. An empty slot has an arbitrary token in `index` and False in `valid`.

    Counts are Python ints: reading them does not synchronise with a GPU.
    """

    index: Tensor  # (blocks, T) token in each slot
    valid: Tensor  # (blocks, T) bool
    protected: Tensor  # (blocks,) or (B, blocks) bool: key blocks that are critical to every query
    exact: Tensor  # (blocks,) bool: query blocks that attend to every key
    frame: Tensor  # (blocks,) the frame of each block; −1 for special tokens or without frames
    lengths: Tensor  # (blocks,) int32, tokens of each block; they are in its first slots
    slots: Tensor  # (tokens,) the occupied slots, indices into the flattened tiles
    occupants: Tensor  # (tokens,) the token in each of `slots`
    full: bool  # True if no slot is empty
    most_protected: int  # the largest number of protected key blocks that a query can have
    exact_blocks: int  # how many blocks are `exact`
    finer: TokenTiling | None = None  # the blocks of the keys; None: those of the queries

    @property
    def blocks(self) -> int:
        """The number of query blocks."""
        return self.index.shape[0]

    @property
    def keys(self) -> TokenTiling:
        """The blocks of the keys and values."""
        return self if self.finer is None else self.finer

    def to(self, device: torch.device | str) -> TokenTiling:
        """A copy with all tensors on `device`."""
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {k: v.to(device) for k, v in parts.items() if isinstance(v, Tensor | TokenTiling)}
        return replace(self, **moved)

    def with_reference(self, is_reference: Tensor) -> TokenTiling:
        """A copy whose protected frame is given by the mask `is_reference` (B, frames), one frame per row. The layout
        must have been made with a `reference`.
        """
        of_frames = is_reference[:, self.frame.clamp(min=0)] & (self.frame >= 0)
        finer = None if self.finer is None else self.finer.with_reference(is_reference)
        return replace(self, protected=(self.protected & (self.frame < 0)) | of_frames, finer=finer)

    def tiles(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v (B, H, N, D) → q in the tiles of this layout, k and v in those of `keys`."""
        return self.tile(q), self.keys.tile(k), self.keys.tile(v)

    def tile(self, x: Tensor) -> Tensor:
        """(B, H, N, D) → (B, H, blocks, T, D). Empty slots are zero, even if other tokens hold NaN."""
        tiles = x.index_select(2, self.index.flatten()).unflatten(2, self.index.shape)
        return tiles if self.full else torch.where(self.valid[:, :, None], tiles, tiles.new_zeros(()))

    def untile(self, tiles: Tensor, tokens: int) -> Tensor:
        """(B, H, blocks, T, D) → (B, H, tokens, D); tokens without a slot get zeros."""
        out = tiles.new_zeros(*tiles.shape[:2], tokens, tiles.shape[-1])
        return out.index_copy(2, self.occupants, tiles.flatten(2, 3).index_select(2, self.slots))

    def means(self, tiles: Tensor) -> Tensor:
        """(B, H, blocks, T, D) → (B, H, blocks, D): the mean over the tokens of each block."""
        return widened(tiles).sum(3) / self.lengths[:, None]

    def moments(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of each channel over the tokens of each block, both (B, H, blocks, D)."""
        means = self.means(tiles)
        apart = (widened(tiles) - means[:, :, :, None]).square() * self.valid[:, :, None]
        return means, apart.sum(3) / self.lengths[:, None]


@dataclass(frozen=True)
class _Blocks:
    """Some blocks of a layout. A block shorter than the width T is padded with its first token."""

    index: Tensor  # (blocks, T)
    lengths: Tensor  # (blocks,)
    frame: Tensor  # (blocks,)

    @classmethod
    def of(cls, pieces: Sequence[Sequence[int]], frame: int = -1) -> _Blocks:
        """One block for each piece, a list of tokens."""
        lengths = torch.tensor([len(piece) for piece in pieces])
        width = int(lengths.max())
        index = torch.tensor([[*piece, *[piece[0]] * (width - len(piece))] for piece in pieces])
        return cls(index, lengths, torch.full((len(pieces),), frame))

    def widened(self, width: int) -> Tensor:
        """`index` with `width` columns."""
        first = self.index[:, :1].expand(-1, width - self.index.shape[1])
        return torch.cat([self.index, first], dim=1)

    def in_frames(self, count: int, number: int, start: int, tokens: int, turn: bool) -> _Blocks:
        """These blocks of one frame, repeated for `count` frames of `tokens` tokens. The first frame has the number
        `number` and starts at token `start`. With `turn` the order of the blocks is reversed in every odd frame.
        """
        numbers = number + torch.arange(count)
        order = torch.arange(len(self.index)).expand(count, -1)
        if turn:
            order = torch.where((numbers % 2 == 1)[:, None], order.flip(1), order)
        shift = start + torch.arange(count)[:, None, None] * tokens
        frame = numbers[:, None].expand_as(order)
        return _Blocks((self.index[order] + shift).flatten(0, 1), self.lengths[order].flatten(), frame.flatten())


def _layout(
    parts: Sequence[_Blocks], shared: int, guarded: int | None, protect: bool, most_protected: int | None = None
) -> TokenTiling:
    """A layout of these blocks. With `protect` the first `shared` blocks are protected as keys and exact as queries,
    and the blocks of the frame `guarded` are protected as keys. `most_protected` is given if the protected frame may
    change later (`with_reference`).
    """
    width = max(part.index.shape[1] for part in parts)
    index = torch.cat([part.widened(width) for part in parts])
    lengths, frame = (torch.cat([getattr(part, name) for part in parts]) for name in ("lengths", "frame"))
    exact = (torch.arange(len(index)) < shared) & protect
    protected = exact if guarded is None or not protect else exact | (frame == guarded)
    valid = torch.arange(width) < lengths[:, None]
    slots = valid.flatten().nonzero()[:, 0]
    return TokenTiling(
        index=index,
        valid=valid,
        protected=protected,
        exact=exact,
        frame=frame,
        lengths=lengths.int(),
        slots=slots,
        occupants=index.flatten()[slots],
        full=len(slots) == index.numel(),
        most_protected=int(protected.sum()) if most_protected is None else most_protected,
        exact_blocks=shared if protect else 0,
    )


@lru_cache(maxsize=KEPT)
def packed_tiling(
    tokens: int, block: int = BLOCK, device: torch.device | None = None, key_block: int | None = None
) -> TokenTiling:
    """Runs of `block` tokens, the last one shorter, nothing protected: the blocks of `reference.py`. Cached."""
    if key_block not in (None, block):
        return replace(packed_tiling(tokens, block, device), finer=packed_tiling(tokens, key_block, device))
    with torch.inference_mode(False):  # a cached layout from a prediction must also work in training
        starts = torch.arange(0, tokens, block)
        lengths = (tokens - starts).clamp(max=block)
        inside = torch.arange(min(block, tokens))
        index = starts[:, None] + torch.where(inside < lengths[:, None], inside, 0)
        layout = _layout([_Blocks(index, lengths, torch.full_like(starts, -1))], 0, None, False)
        return layout if device is None else layout.to(device)


@lru_cache(maxsize=KEPT)
def frame_tiling(
    frames: tuple[Frames, ...],
    block: int = BLOCK,
    reference: int | None = 0,
    protect: bool = True,
    device: torch.device | None = None,
    key_block: int | None = None,
    walk: bool = False,
) -> TokenTiling:
    """Blocks that stay inside one frame. Their sizes differ by at most one token (runs), or one row and column (grids).

    `frames` are groups of equally sized frames in the order of the sequence. `reference` is the index, over all groups,
    of the frame whose keys are critical to every query; None for no such frame. Special tokens are critical as keys and
    attend to everything as queries. With `protect` False neither is protected, but the blocks are the same. `key_block`
    is the size of key blocks, None for `block`. With `walk` a grid has as few blocks as possible, see `_walked`.
    Cached.
    """
    if key_block not in (None, block):
        same = {"reference": reference, "protect": protect, "device": device, "walk": walk}
        return replace(frame_tiling(frames, block, **same), finer=frame_tiling(frames, key_block, **same))
    with torch.inference_mode(False):  # a cached layout from a prediction must also work in training
        parts: list[_Blocks] = []
        specials: list[Tensor] = []
        start = number = largest = 0
        for group in frames:
            cut = _walked if walk else _tiles
            pieces = cut(group.grid, block) if group.grid else _split(group.tokens - group.specials, block)
            largest = max(largest, len(pieces))
            # `turn`: the blocks on both sides of a frame boundary then cover the same image region
            patches = _Blocks.of(pieces).in_frames(group.count, number, start + group.specials, group.tokens, turn=walk)
            parts.append(patches)
            firsts = start + torch.arange(group.count)[:, None] * group.tokens
            specials.append((firsts + torch.arange(group.specials)).flatten())
            start, number = start + group.count * group.tokens, number + group.count
        tokens = torch.cat(specials).tolist()
        shared = [[tokens[i] for i in piece] for piece in _split(len(tokens), block)] if tokens else []
        if shared:
            parts.insert(0, _Blocks.of(shared))
        most = (len(shared) + (0 if reference is None else largest)) if protect else 0
        layout = _layout(parts, len(shared), reference, protect, most)
        return layout if device is None else layout.to(device)


def _split(length: int, most: int) -> list[range]:
    """range(length) in as few runs of at most `most` as possible; their sizes differ by at most one."""
    count = -(-length // most)
    edges = [length * i // count for i in range(count + 1)]
    return [range(a, b) for a, b in pairwise(edges)]


def _tiles(grid: tuple[int, int], block: int) -> list[list[int]]:
    """A grid in rectangles of at most `block` patches: close to squares, because neighbouring patches are similar, and
    with few empty slots.
    """
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


def _walked(grid: tuple[int, int], block: int) -> list[list[int]]:
    """A grid in as few blocks of at most `block` neighbouring patches as possible; sizes differ by at most one.

    The grid is divided into bands as high as a square block. The path runs through each band column by column, through
    every other band backwards, and is cut into runs. A block is thus a rectangle except for its first and last column
    and where the path turns. A GPU tile has a power of two of slots; with these blocks fewer slots are empty than with
    rectangles. That saves a quarter of the time (docs/performance.md), with a somewhat larger error at the same share
    of blocks (docs/method.md).
    """
    rows, columns = grid
    bands = _split(rows, max(1, round(math.sqrt(block))))
    walk = [
        r * columns + (columns - 1 - c if i % 2 else c)
        for i, band in enumerate(bands)
        for c in range(columns)
        for r in band
    ]
    return [[walk[i] for i in piece] for piece in _split(len(walk), block)]
