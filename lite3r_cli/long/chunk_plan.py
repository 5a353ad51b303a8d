"""Divides a sequence of views into overlapping chunks that are predicted together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

CHUNK, SUBSET, SKIP, LOOP = "chunk", "subset", "skip", "loop"  # kinds of passes
MAIN = (CHUNK, SUBSET)  # kinds whose views form the scene: neighbours in order, or overlapping pictures
OVERLAP = 1 / 3  # share of a chunk that the next one repeats
LEAST_OVERLAP = 8  # views, if a chunk has so many
WIDE = 4  # number of chunks that a coarse pass spans


@dataclass(frozen=True)
class Pass:
    """Views that are predicted together."""

    kind: str  # CHUNK, SUBSET, SKIP or LOOP
    views: tuple[int, ...]  # positions in the sequence

    def as_dict(self) -> dict[str, Any]:
        """For files."""
        return {"kind": self.kind, "views": list(self.views)}


@dataclass(frozen=True)
class ChunkPlan:
    """The chunks of a sequence."""

    views: int
    size: int  # views of a chunk
    overlap: int  # smallest number of views that neighbouring chunks share
    chunks: tuple[Pass, ...]
    reason: str  # for the size

    def sentence(self) -> str:
        """The message before the prediction."""
        what = "subsets" if self.chunks[0].kind == SUBSET else "chunks"
        return (
            f"{self.views} views in {len(self.chunks)} {what} of {self.size} that share {self.overlap} ({self.reason})"
        )


def overlap_of(size: int) -> int:
    """Views that chunks of `size` share: a third, at least `LEAST_OVERLAP` but never more than half."""
    return max(1, min(max(LEAST_OVERLAP, round(size * OVERLAP)), size // 2))


def plan_chunks(count: int, size: int, reason: str, overlap: int | None = None) -> ChunkPlan:
    """Chunks of `size` of `count` views, spread evenly: the last one is as long as the others."""
    size = min(size, count)
    overlap = min(overlap_of(size) if overlap is None else overlap, size - 1)
    number = 1 if size == count else -(-(count - overlap) // (size - overlap))
    starts = [0] if number == 1 else [round(k * (count - size) / (number - 1)) for k in range(number)]
    return ChunkPlan(count, size, overlap, tuple(Pass(CHUNK, tuple(range(s, s + size))) for s in starts), reason)


def coarse_passes(plan: ChunkPlan, size: int | None = None) -> list[Pass]:
    """Passes over every few views, each across `WIDE` chunks and half of the next group's. They connect distant chunks,
    so that errors do not accumulate. None if there are fewer chunks.
    """
    chunks = [p.views for p in plan.chunks]
    if len(chunks) < WIDE:
        return []
    size = size or plan.size
    passes: list[Pass] = []
    for first in range(0, len(chunks) - 1, WIDE // 2):
        reach = chunks[first : first + WIDE]
        if len(reach) <= WIDE // 2 and passes:
            break
        start, stop = reach[0][0], reach[-1][-1]
        step = (stop - start) / (size - 1)
        passes.append(Pass(SKIP, tuple(sorted({round(start + k * step) for k in range(size)}))))
    return passes


def owners(chunks: Sequence[Pass], count: int) -> list[int]:
    """For each view the chunk in which it is farthest from both ends, the first one if several; for subsets the first
    one, because later ones borrow it.
    """
    best: list[tuple[int, int]] = [(-1, -1)] * count
    for number, each in enumerate(chunks):
        for place, view in enumerate(each.views):
            inside = 0 if each.kind == SUBSET else min(place, len(each.views) - 1 - place)
            if inside > best[view][0]:
                best[view] = (inside, number)
    return [number for _, number in best]
