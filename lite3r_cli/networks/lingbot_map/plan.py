"""How a stream of so many frames is seen: at once or in windows, and which frames are kept."""

from __future__ import annotations

import math
from dataclasses import dataclass

KEPT_IN_TRAINING = 320  # frames; with more in one cache the authors saw quality fall
DIRECT = 1000  # frames; more are seen in windows


@dataclass(frozen=True)
class StreamPlan:
    """The defaults are the authors'."""

    first: int = 8  # frames that are seen together at the start
    anchors: int = 8  # of the stored ones, the first, kept in full for ever
    window: int = 64  # of the stored ones, the latest, kept in full
    interval: int = 1  # every so-manieth frame is stored, a key frame
    rounds: int = 4  # of the camera head
    cut: int | None = None  # stored frames of a window; None: one window
    overlap: int | None = None  # frames that neighbouring windows share; None: as many as `first`

    @classmethod
    def for_frames(cls, count: int) -> StreamPlan:
        """For so many frames: as the authors' program chooses, and as they advise beyond `DIRECT`."""
        if count <= DIRECT:
            return cls(interval=1 if count <= KEPT_IN_TRAINING else math.ceil(count / KEPT_IN_TRAINING))
        return cls(interval=2, cut=128, overlap=32)

    def is_key(self, i: int) -> bool:
        """Whether frame i of a window, behind the first ones, is stored."""
        return self.interval <= 1 or (i - self.first) % self.interval == 0

    def stored(self, count: int) -> int:
        """How many of a window's frames are stored."""
        first = min(self.first, count)
        return first + -(-(count - first) // max(self.interval, 1))

    def overlap_of(self, count: int) -> int:
        """Frames that neighbouring windows of `count` frames in all share."""
        first = min(self.first, count)
        return 0 if count <= 1 else min(first if self.overlap is None else self.overlap, count - 1)

    def windows(self, count: int) -> list[range]:
        """The frames of each window, the last one up to the end."""
        if self.cut is None:
            return [range(count)]
        first = min(self.first, count)
        length = min(first + max(self.cut - first, 0) * max(self.interval, 1), count)
        if length == count:
            return [range(count)]
        step = max(length - self.overlap_of(count), 1)
        starts = range(0, count, step)
        last = next(k for k, start in enumerate(starts) if start + length >= count)
        return [range(start, min(start + length, count)) for start in starts[: last + 1]]
