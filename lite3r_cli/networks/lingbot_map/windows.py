"""Chain the windows of a stream into one scene: a similarity transform aligns each window with the previous one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lite3r_cli.layers.heads import pose
from lite3r_cli.networks.lingbot_map.plan import StreamPlan

if TYPE_CHECKING:
    from lite3r_cli.networks.lingbot_map.network import FrameOutput

SMALLEST_DEPTH = 1.1920929e-7  # pixels with less depth are not used for the scale
SCALES = (1e-3, 1e3)  # limits of the scale of a window


@dataclass(frozen=True)
class Part:
    """Cameras and depth of consecutive frames."""

    vectors: Tensor  # (B, S, 9): world_from_cam centre, quaternion (scalar last), vertical and horizontal field of view
    depth: Tensor  # (B, S, H, W)
    confidence: Tensor  # (B, S, H, W)
    is_key: Tensor  # (S,) bool, frames that were stored

    def __len__(self) -> int:
        return self.vectors.shape[1]

    def __getitem__(self, some: slice) -> Part:
        return Part(self.vectors[:, some], self.depth[:, some], self.confidence[:, some], self.is_key[some])

    @staticmethod
    def joined(parts: list[Part]) -> Part:
        """Concatenate parts."""
        vectors, depth, confidence = (
            torch.cat([getattr(p, name) for p in parts], 1) for name in ("vectors", "depth", "confidence")
        )
        return Part(vectors, depth, confidence, torch.cat([p.is_key for p in parts]))

    def moved(self, by: Moved) -> Part:
        """The part transformed by a similarity to another world frame and scale."""
        centre = by.scale[:, None, None] * (self.vectors[..., :3] @ by.rotation.mT) + by.translation[:, None]
        rotation = by.rotation[:, None] @ pose.rotation_from_quaternion(self.vectors[..., 3:7])
        quaternion = pose.quaternion_from_rotation(rotation)
        vectors = torch.cat([centre, quaternion, self.vectors[..., 7:]], dim=-1)
        return Part(vectors, by.scale[:, None, None, None] * self.depth, self.confidence, self.is_key)


@dataclass(frozen=True)
class Moved:
    """A similarity transform per scene of a batch: X → s R X + t."""

    scale: Tensor  # (B,)
    rotation: Tensor  # (B, 3, 3)
    translation: Tensor  # (B, 3)

    @classmethod
    def nowhere(cls, part: Part) -> Moved:
        """The identity."""
        batch, like = len(part.vectors), part.vectors
        return cls(like.new_ones(batch), torch.eye(3).to(like).expand(batch, -1, -1), like.new_zeros(batch, 3))


def fit(before: Part, now: Part) -> Moved:
    """The similarity that maps the first frames of a window, `now`, to the last frames of the previous, already aligned
    window, `before`. Frame by frame they show the same images.

    The scale is the lower median of the depth ratios over all frames that both windows stored; the last of these frames
    gives rotation and translation.
    """
    count = min(len(before), len(now))
    if not count:
        return Moved.nowhere(now)
    before, now = before[:count], now[:count]
    both = (before.is_key & now.is_key).nonzero()[:, 0].tolist() or [0]
    scale = torch.stack([_scale(a, b) for a, b in zip(before.depth[:, both], now.depth[:, both])])
    a, b = before.vectors[:, both[-1]], now.vectors[:, both[-1]]
    rotation = pose.rotation_from_quaternion(a[:, 3:7]) @ pose.rotation_from_quaternion(b[:, 3:7]).mT
    translation = a[:, :3] - scale[:, None] * (rotation @ b[:, :3, None])[..., 0]
    return Moved(scale, rotation, translation)


def _scale(before: Tensor, now: Tensor) -> Tensor:
    usable = before.isfinite() & now.isfinite() & (now.abs() > SMALLEST_DEPTH)
    if not usable.any():
        return before.new_ones(())
    return (before[usable] / now[usable]).median().clamp(*SCALES)


class Chain:
    """Chains the windows of `count` frames while they arrive. `moves` are the transforms of the windows so far.

    `ready_on`: the CUDA stream on which they are ready, and then the parts; None: the current one.
    """

    def __init__(self, plan: StreamPlan, count: int, ready_on: torch.cuda.Stream | None = None):
        self.ready_on = ready_on
        self.windows, self.overlap = plan.windows(count), plan.overlap_of(count)
        self.moves: list[Moved] = []

    def stitched(self, outputs: Iterable[tuple[FrameOutput, bool]]) -> Iterator[Part]:
        """Raw outputs in order, with flags whether each begins a window → every frame once, in order.

        Frames of an overlap are taken from the later window. A window is held back until its overlap is complete.
        """
        number, done = -1, 0  # index of the window, and how many of its frames have arrived
        before: Part | None = None  # the last frames of the previous window, aligned
        waiting: list[Part] = []
        for output, begins in outputs:
            if begins:
                if number >= 0:
                    with torch.cuda.stream(self.ready_on):
                        before = Part.joined(waiting) if waiting else None
                number, done, waiting = number + 1, 0, []
            part = Part(
                output.vectors[-1], output.depth, output.confidence, torch.full((len(output.time),), output.stored)
            )
            done += len(part)
            if len(self.windows) == 1:
                yield part
                continue
            with torch.cuda.stream(self.ready_on):
                if len(self.moves) <= number:  # the window is not aligned yet
                    waiting.append(part)
                    if number and done < min(self.overlap, len(self.windows[number])):
                        continue
                    raw = Part.joined(waiting)
                    self.moves.append(fit(before, raw) if before is not None else Moved.nowhere(raw))
                    ready, waiting = raw.moved(self.moves[-1]), []
                else:
                    ready = part.moved(self.moves[-1])
            yield from self._given(number, done, ready, waiting)

    def _given(self, number: int, done: int, ready: Part, waiting: list[Part]) -> Iterator[Part]:
        """Yield the frames of `ready` that no later window contains; append the rest to `waiting`. The last frame of
        `ready` is frame number `done` of its window.
        """
        last = number == len(self.windows) - 1
        end = len(self.windows[number]) - (0 if last else self.overlap)
        given = max(0, min(len(ready), end - (done - len(ready))))
        if given:
            yield ready[:given]
        if given < len(ready):
            waiting.append(ready[given:])
