"""LingBot-Map's cache of keys and values on the fast path: its memory layout is that of `cache.py`.

The number of visible keys and the slots of the cache that a step writes are read on the device. While the cache fills,
one kernel attends to as many keys as there are; once the anchors and the window are full, their keys are a fixed number
for torch's attention, and the kernel adds the others (`growing_attention`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lite3r_cli.attention.packed import PackedPlan
from lite3r_cli.engine.layers import FastBlock, Together, Tokens
from lite3r_cli.engine.operators import Operators
from lite3r_cli.engine.sparse_layers import SparsePlan
from lite3r_cli.engine.twins import Operand
from lite3r_cli.layers.dense import dense_with_lse
from lite3r_cli.networks.lingbot_map.cache import SPECIALS, Room

WHOLE = 128  # rows: cuDNN's attention is 1 % faster without a ragged last tile of queries


class CachedBlock(FastBlock):
    """A block across frames. With a `ring` it attends to its cache; without, tokens attend to each other, and their
    keys and values are `kept` in these slots.
    """

    cache: Tensor  # (2, H, tokens, D): keys and values
    ring: Ring | None = None
    kept: Sequence[tuple[int, int | None]] = ()  # per frame its first slot, and where its old special tokens go

    def _plan_across(self, tokens: Tokens) -> SparsePlan | PackedPlan | None:
        return super()._plan_across(tokens) if self.ring is None else None

    def _rows(self, tokens: int) -> int:
        return tokens if self.ring is None else -(-tokens // WHOLE) * WHOLE

    def _attend(self, heads: Tensor, group: Together, reference: Tensor | None, ops: Operators) -> Operand:
        if self.ring is None:
            if self.kept:
                tokens = heads[1:] if group.plan is None else heads[1:, :, group.plan.place.long()]
                for (start, target), part in zip(self.kept, tokens.chunk(len(self.kept), dim=2)):
                    if target is not None:
                        self.cache[:, :, target : target + SPECIALS] = self.cache[:, :, start : start + SPECIALS]
                    self.cache[:, :, start : start + part.shape[2]] = part
            return super()._attend(heads, group, reference, ops)
        out = self.ring.attend(heads, self.cache, ops)
        return ops.merge_heads(out, None, self.ring.tokens, self.proj.fp8)


class Ring:
    """Which slots of a cache a step reads and writes, on the device: the memory layout is that of `cache.py`."""

    def __init__(self, room: Room, tokens: int, device: torch.device):
        self.room, self.tokens = room, tokens
        self.stored = 0
        self.end = 0  # slots in use
        self.whole = (room.anchors + room.window) * tokens  # slots of frames that are kept in full
        self.slots = torch.zeros(2, dtype=torch.long, device=device)  # the first slot of the frame, of evicted tokens
        self.keys, self.rest = (torch.zeros(1, dtype=torch.int32, device=device) for _ in range(2))
        self.full = self.evicts = False

    def turn(self, keep: bool) -> None:
        """Point at the slots of the next step; `keep` stores its frame."""
        self.full = self.stored >= self.room.anchors + self.room.window
        self.evicts = self.full and keep
        seen = self.end + (SPECIALS if self.evicts else self.tokens)
        start, target = self.store() if keep else (self.end, None)
        self.slots[0].fill_(start)
        if target is not None:
            self.slots[1].fill_(target)
        self.keys.fill_(seen)
        self.rest.fill_(max(0, seen - self.whole))

    def store(self) -> tuple[int, int | None]:
        """Count another stored frame. Returns its first slot, and the one for the special tokens of the frame that was
        there; None if there was none.
        """
        room, n, end = self.room, self.stored, self.end
        start = (n if n < room.anchors else room.anchors + (n - room.anchors) % room.window) * self.tokens
        self.stored = n + 1
        if n < room.anchors + room.window:
            self.end = start + self.tokens
            return start, None
        self.end = end + SPECIALS
        return start, end

    def attend(self, heads: Tensor, cache: Tensor, ops: Operators) -> Tensor:
        """q, k, v (3, H, rows, D) of a frame, of whose rows the first P are its tokens → attention to the cache (2, H,
        tokens, D) and the frame (H, rows, D).
        """
        ops.store_tokens(heads[1:, :, : self.tokens], cache, self.slots, SPECIALS if self.evicts else 0)
        q, (k, v) = heads[0], cache
        if not self.full:
            return ops.growing_attention(q, k, v, self.keys)
        most = dense_with_lse(q[None], k[None, :, : self.whole], v[None, :, : self.whole])
        return ops.growing_attention(q, k[:, self.whole :], v[:, self.whole :], self.rest, (most[0][0], most[1][0]))
