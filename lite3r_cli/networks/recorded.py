"""Repeated predictions of equal shape as one CUDA graph.

The kernels of `mini` with 8 views take a few milliseconds on a large GPU, and with the 60 of a chunk a few dozen.
Python launches them one by one, which takes several times as long if other threads want the interpreter's lock at every
launch. A recorded prediction is launched at once; it runs the same kernels on the same operands, so its results are the
same bits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from ..engine.packing import Shape
from .base import Network, Prediction

BEFORE = 2  # predictions of a shape before it is recorded, which takes as long as two predictions
# Pixels of all views of a prediction: scenes of a batch, larger ones of which keep a GPU busy for longer than launches
IN_BATCH = 2**22
IN_CHUNKS = 2**24  # chunks of a long set, beside which many threads read and write
MOST_SHAPES = 4  # each graph keeps its memory: up to 1 GB for `mini` and 2^22 pixels
_ROOM = 2  # free memory of the device that a graph needs, in that of everything so far
T = TypeVar("T")


@dataclass(frozen=True)
class OnDevice:
    """What a network computes on its device."""

    depth: list[Tensor]  # as in Prediction
    confidence: list[Tensor]
    cameras: tuple[Tensor, ...]  # as the network stores them


@runtime_checkable
class TwoSteps(Protocol):
    """A network whose `predict` consists of two steps. `compute` launches the same operations for images of equal
    shapes, all of one size, and waits for none of them.
    """

    def compute(self, images: Sequence[Tensor]) -> OnDevice:
        """The first step of `predict`."""
        ...

    def collect(self, computed: OnDevice, sizes: Sequence[tuple[int, int]]) -> Prediction:
        """The second one: the prediction for images of these sizes (H, W)."""
        ...


@dataclass(frozen=True)
class _Recorded:
    graph: torch.cuda.CUDAGraph
    images: Tensor  # (S, 3, H, W), read by the graph
    maps: tuple[Tensor, Tensor]  # (S, H, W) each, written by it
    cameras: tuple[Tensor, ...]


class Recorder(Generic[T]):
    """Records the predictions of a network whose weights stay where they are, each with a fact about it; those of more
    than `most` pixels are not recorded.
    """

    def __init__(self, network: Network, device: torch.device, most: int) -> None:
        self._network = network if device.type == "cuda" and isinstance(network, TwoSteps) else None
        self._device, self._most = device, most
        self._facts: dict[Shape, T] = {}
        self._times: Counter[Shape] = Counter()  # without a graph
        self._recorded: dict[Shape, _Recorded] = {}

    def note(self, images: Sequence[Tensor], fact: T) -> None:
        """These images were predicted without a graph."""
        shape = Shape.of(images)
        self._facts[shape] = fact
        self._times[shape] += 1

    def predict(self, images: Sequence[Tensor]) -> tuple[Prediction, T] | None:
        """The prediction for images (3, H, W) on the device with the fact, if a graph runs it."""
        shape = Shape.of(images)
        if self._network is None or (shape not in self._recorded and not self._is_due(shape)):
            return None
        if shape not in self._recorded:
            self._recorded[shape] = _record(self._network, torch.stack(list(images)))
        recorded = self._recorded[shape]
        torch.stack(list(images), out=recorded.images)
        recorded.graph.replay()
        depth, confidence, *cameras = (each.clone() for each in (*recorded.maps, *recorded.cameras))
        computed = OnDevice(list(depth), list(confidence), tuple(cameras))
        return self._network.collect(computed, shape.sizes), self._facts[shape]

    def _is_due(self, shape: Shape) -> bool:
        pixels = sum(height * width for height, width in shape.sizes)
        suitable = len(set(shape.sizes)) == 1 and pixels <= self._most
        due = suitable and self._times[shape] >= BEFORE and len(self._recorded) < MOST_SHAPES
        return due and self._has_room()

    def _has_room(self) -> bool:
        """Whether a graph, which takes as much memory as a prediction, leaves as much for others."""
        free, _ = torch.cuda.mem_get_info(self._device)
        return free >= _ROOM * torch.cuda.memory_reserved(self._device)

    def forget(self) -> None:
        """Free the memory of the graphs."""
        self._recorded.clear()
        self._times.clear()


def _record(network: TwoSteps, images: Tensor) -> _Recorded:
    """The graph of `network.compute(images)`, and where its results are after a replay."""

    def run() -> tuple[Tensor, ...]:
        found = network.compute(list(images))
        return torch.stack(found.depth), torch.stack(found.confidence), *found.cameras

    current, beside = torch.cuda.current_stream(), torch.cuda.Stream()
    beside.wait_stream(current)
    with torch.cuda.stream(beside):
        run()  # libraries prepare themselves for this stream, which a graph cannot contain
    current.wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    # other threads use the GPU meanwhile: only this one has to keep to what a graph can contain
    with torch.cuda.graph(graph, stream=beside, capture_error_mode="thread_local"):
        depth, confidence, *cameras = run()
    return _Recorded(graph, images, (depth, confidence), tuple(cameras))
