"""What a stream keeps of the frames before: keys and values, as they were computed when each frame was current.

In full: the first frames for ever, the anchors, and the latest ones, the window. Of every other frame the special
tokens. All of it lies in one piece of memory, in no order of time, which attention does not need:

    | anchors | window, a ring | special tokens of older frames | a frame that is not kept |

so that what is visible is always one slice, and storing a frame copies its own tokens and six of the one it replaces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

SPECIALS = 6  # tokens of a frame before its patches: camera, four registers, scale


@dataclass(frozen=True)
class Room:
    """How much a cache holds, in frames."""

    anchors: int  # the first ones, in full
    window: int  # the latest ones, in full
    frames: int  # all that will be stored

    def tokens(self, of_frame: int) -> int:
        """How many keys there is room for, a current frame included."""
        whole = min(self.frames, self.anchors + self.window)
        return (whole + 1) * of_frame + SPECIALS * (self.frames - whole)


class Cache(Protocol):
    """Keys and values of the frames stored so far, of one attention layer."""

    def store(self, k: Tensor, v: Tensor) -> None:
        """Keep a frame's keys and values, (B, H, P, D) each."""
        ...

    def visible(self) -> tuple[Tensor, Tensor]:
        """What a frame that is stored sees: all there is."""
        ...

    def visible_with(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """What a frame that is not stored sees: all there is, and itself."""
        ...


class FrameCache:
    """The cache of one layer across frames of P tokens each, special tokens first."""

    def __init__(self, room: Room):
        self.room, self.stored, self.end = room, 0, 0
        self._both: Tensor | None = None  # (2, B, H, tokens, D): keys and values

    def store(self, k: Tensor, v: Tensor) -> None:
        """Keep a frame; the oldest one of a full window keeps its special tokens alone."""
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
        """Views into the cache, (B, H, tokens, D) each."""
        assert self._both is not None  # a frame was stored before
        k, v = self._both[..., : self.end, :]
        return k, v

    def visible_with(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Views into the cache, behind whose end the frame lies until the next one is stored."""
        both, end = self._ready(k), self.end + k.shape[2]
        both[0, :, :, self.end : end], both[1, :, :, self.end : end] = k, v
        k, v = both[..., :end, :]
        return k, v

    def _ready(self, k: Tensor) -> Tensor:
        if self._both is None:
            self._both = k.new_empty(2, *k.shape[:2], self.room.tokens(k.shape[2]), k.shape[3])
        return self._both


class TokenCache:
    """The cache of one layer over one token a frame; nothing is ever left out."""

    def __init__(self, frames: int):
        self.frames, self.stored = frames, 0
        self._both: Tensor | None = None

    def store(self, k: Tensor, v: Tensor) -> None:
        """Keep the tokens of one or several frames."""
        both, end = self._ready(k), self.stored + k.shape[2]
        both[0, :, :, self.stored : end], both[1, :, :, self.stored : end] = k, v
        self.stored = end

    def visible(self) -> tuple[Tensor, Tensor]:
        """Views into the cache."""
        assert self._both is not None
        k, v = self._both[..., : self.stored, :]
        return k, v

    def visible_with(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Views into the cache, behind whose end the token lies until the next one is stored."""
        both, end = self._ready(k), self.stored + k.shape[2]
        both[0, :, :, self.stored : end], both[1, :, :, self.stored : end] = k, v
        k, v = both[..., :end, :]
        return k, v

    def _ready(self, k: Tensor) -> Tensor:
        if self._both is None:
            self._both = k.new_empty(2, *k.shape[:2], self.frames + 1, k.shape[3])
        return self._both


def meet_cached(block: torch.nn.Module, x: Tensor, rope: object, cache: Cache, keep: bool) -> Tensor:
    """A transformer block over one frame's tokens (B, P, C), whose attention sees what the cache shows; `keep`: the
    frame is stored first.
    """
    q, k, v = block.attn.project(block.norm1(x), rope)  # type: ignore[operator, union-attr]
    if keep:
        cache.store(k, v)
    keys, values = cache.visible() if keep else cache.visible_with(k, v)
    x = x + block.ls1(block.attn.merge(block.attn.meet(q, keys, values)))  # type: ignore[operator, union-attr]
    result: Tensor = x + block.ls2(block.mlp(block.norm2(x)))  # type: ignore[operator]
    return result


def meet_each_other(block: torch.nn.Module, x: Tensor, rope: object) -> tuple[Tensor, Tensor, Tensor]:
    """A transformer block over the tokens of several frames (B, S·P, C) that all see each other → the tokens, and keys
    and values (B, H, S·P, D) to store.
    """
    q, k, v = block.attn.project(block.norm1(x), rope)  # type: ignore[operator, union-attr]
    x = x + block.ls1(block.attn.merge(block.attn.mix(q, k, v)))  # type: ignore[operator, union-attr]
    return x + block.ls2(block.mlp(block.norm2(x))), k, v  # type: ignore[operator]
