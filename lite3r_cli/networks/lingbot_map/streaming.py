"""A stream of frames: windows and their overlap, one answer per frame, images of several sizes as one stream.

The network is what `begin` starts: a pass with `first` and `next`, on the ordinary or the fast path. On a GPU the
answer of a frame is copied to the host while the next frame is computed; nothing else waits for the GPU.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from lite3r_cli.errors import UsageError
from lite3r_cli.layers.heads import pose
from lite3r_cli.networks.base import FrameAnswer, Prediction
from lite3r_cli.networks.lingbot_map.plan import StreamPlan
from lite3r_cli.networks.lingbot_map.windows import Chain, Part

if TYPE_CHECKING:
    from lite3r_cli.networks.lingbot_map.network import FrameOutput


class Pass(Protocol):
    """One pass over the frames of a window."""

    def first(self, images: Tensor, keep: bool = True) -> FrameOutput:
        """Process the first frames (B, F, 3, H, W) in [0, 1] together; `keep` stores them for later frames."""
        ...

    def next(self, image: Tensor, keep: bool) -> FrameOutput:
        """Process the next frame (B, 1, 3, H, W); `keep` stores it for later frames."""
        ...


Begin = Callable[[StreamPlan, int], Pass]  # plan and number of frames → a pass over them


def outputs(begin: Begin, frames: Iterable[Tensor], count: int, plan: StreamPlan) -> Iterator[tuple[FrameOutput, bool]]:
    """Process `count` frames (B, 3, H, W). Yields the raw outputs in order, one for all frames of a first pass, each
    with a flag whether it begins a window.
    """
    source = Replayed(frames, plan.overlap_of(count) if plan.cut is not None else 0)
    for window in plan.windows(count):
        stream = begin(plan, len(window))
        first = min(plan.first, len(window))
        yield stream.first(torch.stack(list(islice(source, first)), dim=1)), True
        for i, frame in enumerate(islice(source, len(window) - first), first):
            yield stream.next(frame[:, None], plan.is_key(i)), False
        source.go_back()


def streamed(
    begin: Begin, frames: Iterable[Tensor], count: int, plan: StreamPlan, device: torch.device,
    ready_on: torch.cuda.Stream | None = None,
) -> Iterator[FrameAnswer]:  # fmt: skip
    """One answer per frame, in order, for the first `count` frames (3, H, W), all of one size. Raises UsageError for
    others, and at the end of too few.

    `ready_on`: the CUDA stream on which the outputs of a pass are ready; None: the current one.
    """
    if count < 1:
        raise UsageError(f"a stream has at least one frame, not {count}")
    raw = outputs(begin, (frame[None] for frame in _of_one_size(frames, count, device)), count, plan)
    waiting: deque[_Copied] = deque()
    for part in Chain(plan, count, ready_on).stitched(raw):
        with torch.cuda.stream(ready_on):
            waiting.append(_Copied(part))
        if len(waiting) > (device.type == "cuda"):
            yield from waiting.popleft().answers()
    for copied in waiting:
        yield from copied.answers()


def padded_prediction(
    stream: Callable[[Iterable[Tensor], int], Iterator[FrameAnswer]], images: Sequence[Tensor]
) -> Prediction:
    """The prediction for images (3, H, W) as a stream in this order; images smaller than the largest are padded with
    white.
    """
    sizes = [(image.shape[1], image.shape[2]) for image in images]  # once, because each image may be made on demand
    height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
    depth, confidence, poses, K = [], [], [], []
    answers = stream((_padded(image, height, width) for image in images), len(images))
    for (rows, columns), answer in zip(sizes, answers, strict=True):
        top, left = _corner(rows, columns, height, width)
        window = (slice(top, top + rows), slice(left, left + columns))
        depth.append(answer.depth[window].clone())
        confidence.append(answer.confidence[window].clone())
        shifted = answer.K.clone()
        shifted[:2, 2] -= torch.tensor([left, top], dtype=torch.float32)
        poses.append(answer.cam_from_world)
        K.append(shifted)
    return Prediction(depth, confidence, torch.stack(poses), torch.stack(K))


class _Copied:
    """The answers for the frames of a part (first scene of the batch), on their way to the host."""

    def __init__(self, part: Part):
        self.ready = None
        tensors = [part.vectors[0], part.depth[0], part.confidence[0]]
        if part.depth.is_cuda:  # the memory must be pinned, or the copy waits for the frame
            host = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in tensors]
            tensors = [h.copy_(t, non_blocking=True) for h, t in zip(host, tensors)]
            self.ready = torch.cuda.Event()
            self.ready.record()
        self.tensors = tensors

    def answers(self) -> Iterator[FrameAnswer]:
        """One answer per frame, once they are there."""
        if self.ready is not None:
            self.ready.synchronize()
        vectors, depth, confidence = (t.cpu() for t in self.tensors)
        size = torch.tensor(depth.shape[-2:], dtype=torch.float32)
        poses = pose.invert_rigid(pose.rotation_from_quaternion(vectors[:, 3:7]), vectors[:, :3])
        K = pose.usable_intrinsics(vectors[:, 7:], size.expand(len(vectors), 2))
        for i in range(len(vectors)):
            yield FrameAnswer(depth[i], confidence[i], poses[i], K[i])


class Replayed:
    """An iterator over frames that can go back by `shared` frames, the overlap of two windows."""

    def __init__(self, frames: Iterable[Tensor], shared: int):
        self._source = iter(frames)
        self._again: Iterator[Tensor] = iter(())
        self._latest: deque[Tensor] = deque(maxlen=shared)

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        frame = next(self._again, None)
        frame = next(self._source) if frame is None else frame
        self._latest.append(frame)
        return frame

    def go_back(self) -> None:
        """Repeat the latest `shared` frames."""
        self._again = iter(list(self._latest))


def _of_one_size(frames: Iterable[Tensor], count: int, device: torch.device) -> Iterator[Tensor]:
    size, seen = None, 0
    for frame in frames:
        seen += 1
        size = size or frame.shape
        if frame.shape != size:
            raise UsageError(
                f"the frames of a stream must have one size, not {tuple(size[1:])} and {tuple(frame.shape[1:])}"
            )
        yield frame.to(device)
    if seen < count:
        raise UsageError(f"the stream ended after {seen} of {count} frames: windows and memory are planned for all")


def _corner(rows: int, columns: int, height: int, width: int) -> tuple[int, int]:
    """First row and column of an image that is centred in a larger one, with the authors' rounding."""
    return (height - rows) // 2, (width - columns) // 2


def _padded(image: Tensor, height: int, width: int) -> Tensor:
    if image.shape[1:] == (height, width):
        return image
    top, left = _corner(image.shape[1], image.shape[2], height, width)
    whole = image.new_ones(3, height, width)
    whole[:, top : top + image.shape[1], left : left + image.shape[2]] = image
    return whole
