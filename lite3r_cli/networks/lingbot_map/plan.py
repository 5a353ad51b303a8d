"""How a stream is processed: in one pass or in windows, and which frames are stored in the cache."""

from __future__ import annotations

import math
from dataclasses import dataclass

KEPT_IN_TRAINING = 320  # frames in one cache; the authors report lower quality with more
DIRECT = 1000  # longer streams are processed in windows


@dataclass(frozen=True)
class StreamPlan:
    """Parameters of a stream. The defaults are the authors'."""

    first: int = 8  # frames processed together at the start
    anchors: int = 8  # first stored frames, whose tokens are all kept permanently
    window: int = 64  # latest stored frames, whose tokens are all kept
    interval: int = 1  # every `interval`-th frame is a key frame and is stored
    rounds: int = 4  # rounds of the camera head
    cut: int | None = None  # stored frames per window; None: one window
    overlap: int | None = None  # frames shared by neighbouring windows; None: `first`

    @classmethod
    def for_frames(cls, count: int) -> StreamPlan:
        """The plan for `count` frames: the choice of the authors' program, and their advice for more than DIRECT."""
        if count <= DIRECT:
            return cls(interval=1 if count <= KEPT_IN_TRAINING else math.ceil(count / KEPT_IN_TRAINING))
        return cls(interval=2, cut=128, overlap=32)

    def is_key(self, i: int) -> bool:
        """Whether frame i ≥ `first` of a window is stored."""
        return self.interval <= 1 or (i - self.first) % self.interval == 0

    def stored(self, count: int) -> int:
        """How many frames of a window of `count` frames are stored."""
        first = min(self.first, count)
        return first + -(-(count - first) // max(self.interval, 1))

    def overlap_of(self, count: int) -> int:
        """Frames shared by neighbouring windows of a stream of `count` frames."""
        first = min(self.first, count)
        return 0 if count <= 1 else min(first if self.overlap is None else self.overlap, count - 1)

    def windows(self, count: int) -> list[range]:
        """The frames of each window of a stream of `count` frames."""
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
