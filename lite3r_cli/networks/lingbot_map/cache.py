"""The key-value cache of a stream: keys and values of earlier frames, as computed when each frame was the current one.

All tokens are kept for the first frames (anchors, permanently) and for the latest frames (window); for all other frames
only the special tokens. The memory layout is not ordered by time, because attention does not need the order:

    | anchors | window, a ring buffer | special tokens of older frames | a frame that is not stored |

The visible keys are thus always one slice, and storing a frame copies only its tokens and six of the frame it replaces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

SPECIALS = 6  # special tokens of a frame: camera, four registers, scale


@dataclass(frozen=True)
class Room:
    """The capacity of a cache, in frames."""

    anchors: int  # first frames, with all tokens
    window: int  # latest frames, with all tokens
    frames: int  # all frames that will be stored

    def tokens(self, of_frame: int) -> int:
        """The capacity in tokens, including the current frame, for frames of `of_frame` tokens."""
        whole = min(self.frames, self.anchors + self.window)
        return (whole + 1) * of_frame + SPECIALS * (self.frames - whole)


class Cache(Protocol):
    """Keys and values of the frames stored so far, for one attention layer."""

    def store(self, k: Tensor, v: Tensor) -> None:
        """Store a frame's keys and values, (B, H, P, D) each."""
        ...

    def visible(self) -> tuple[Tensor, Tensor]:
        """All stored keys and values, for a frame that has been stored."""
        ...

    def visible_with(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """All stored keys and values plus `k`, `v`, for a frame that is not stored."""
        ...


class FrameCache:
    """The cache of one cross-frame layer, for frames of P tokens each, special tokens first."""

    def __init__(self, room: Room):
        self.room, self.stored, self.end = room, 0, 0
        self._both: Tensor | None = None  # (2, B, H, tokens, D): keys and values

    def store(self, k: Tensor, v: Tensor) -> None:
        """Store a frame. If the window is full, only the special tokens of its oldest frame remain."""
        room, size = self.room, k.shape[2]
        both = self._ready(k)
        n = self.stored
        slot = n if n < room.anchors else room.anchors + (n - room.anchors) % room.window
        start = slot * size
        if n >= room.anchors + room.window:
            both[..., self.end : self.end + SPECIALS, :] = both[..., start : start + SPECIALS, :]
            self.end += SPECIALS
        else:
            self.end = start + size
        both[0, :, :, start : start + size], both[1, :, :, start : start + size] = k, v
        self.stored += 1

    def visible(self) -> tuple[Tensor, Tensor]:
        """Tensor views of the cache, (B, H, tokens, D) each."""
        assert self._both is not None  # `store` comes first
        k, v = self._both[..., : self.end, :]
        return k, v

    def visible_with(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Tensor views of the cache. The frame is written after its end, until the next frame is stored."""
        both, end = self._ready(k), self.end + k.shape[2]
        both[0, :, :, self.end : end], both[1, :, :, self.end : end] = k, v
        k, v = both[..., :end, :]
        return k, v

    def _ready(self, k: Tensor) -> Tensor:
        if self._both is None:
            self._both = k.new_empty(2, *k.shape[:2], self.room.tokens(k.shape[2]), k.shape[3])
        return self._both


class TokenCache:
    """The cache of one camera head layer: one token per frame, all of them kept."""

    def __init__(self, frames: int):
        self.frames, self.stored = frames, 0
        self._both: Tensor | None = None

    def store(self, k: Tensor, v: Tensor) -> None:
        """Store the tokens of one or several frames, (B, H, frames, D) each."""
        both, end = self._ready(k), self.stored + k.shape[2]
        both[0, :, :, self.stored : end], both[1, :, :, self.stored : end] = k, v
        self.stored = end

    def visible(self) -> tuple[Tensor, Tensor]:
        """Tensor views of the cache, (B, H, frames, D) each."""
        assert self._both is not None
        k, v = self._both[..., : self.stored, :]
        return k, v

    def visible_with(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Tensor views of the cache. The token is written after its end, until the next one is stored."""
        both, end = self._ready(k), self.stored + k.shape[2]
        both[0, :, :, self.stored : end], both[1, :, :, self.stored : end] = k, v
        k, v = both[..., :end, :]
        return k, v

    def _ready(self, k: Tensor) -> Tensor:
        if self._both is None:
            self._both = k.new_empty(2, *k.shape[:2], self.frames + 1, k.shape[3])
        return self._both


def meet_cached(block: torch.nn.Module, x: Tensor, rope: object, cache: Cache, keep: bool) -> Tensor:
    """Run a transformer block over one frame's tokens (B, P, C); attention is over the cache and the frame itself. With
    `keep` the frame is stored in the cache.
    """
    q, k, v = block.attn.project(block.norm1(x), rope)  # type: ignore[operator, union-attr]
    if keep:
        cache.store(k, v)
    keys, values = cache.visible() if keep else cache.visible_with(k, v)
    x = x + block.ls1(block.attn.merge(block.attn.meet(q, keys, values)))  # type: ignore[operator, union-attr]
    result: Tensor = x + block.ls2(block.mlp(block.norm2(x)))  # type: ignore[operator]
    return result


def meet_each_other(block: torch.nn.Module, x: Tensor, rope: object) -> tuple[Tensor, Tensor, Tensor]:
    """Run a transformer block over the tokens of several frames (B, S·P, C), which all attend to each other. Returns
    the tokens, and the keys and values (B, H, S·P, D) to store.
    """
    q, k, v = block.attn.project(block.norm1(x), rope)  # type: ignore[operator, union-attr]
    x = x + block.ls1(block.attn.merge(block.attn.mix(q, k, v)))  # type: ignore[operator, union-attr]
    return x + block.ls2(block.mlp(block.norm2(x))), k, v  # type: ignore[operator]
