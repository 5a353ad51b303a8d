"""Run a network's fast form. For each input shape it is prepared once and, on a GPU, captured as a CUDA graph."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from lite3r_cli.engine.fast_outputs import FastOutput
from lite3r_cli.engine.layers import Engine, FastBlock, Prepared, Settings
from lite3r_cli.engine.operators import operators
from lite3r_cli.engine.packing import Shape
from lite3r_cli.errors import BackendError
from lite3r_cli.layers.view_shards import Shards, current
from lite3r_cli.runtime import current as on_device

Known = tuple[Tensor, ...]  # the encoding of known cameras and depth: what the form of the network needs
WARM_UPS = 2  # runs before a graph capture, in which kernels are compiled and libraries choose algorithms


class FastForm(ABC):
    """The fast form of a loaded network, made by the network's `fast.py`. The original may be freed afterwards."""

    settings: Settings
    layers_across: Sequence[FastBlock]  # the blocks with attention across views

    @abstractmethod
    def prepare(self, shape: Shape, device: torch.device) -> tuple[Prepared, dict[str, Any]]:
        """What depends only on the image sizes: the common part, and the network's own tensors by name."""

    @abstractmethod
    def run(
        self, images: Sequence[Tensor], known: Known | None, prepared: Prepared, fixed: dict[str, Any], engine: Engine
    ) -> FastOutput:
        """Predict from images (S_b, 3, H, W) of each size, float32 in [0, 1], on the device. `known` is the result of
        the method of that name, `fixed` the second part of `prepare`.
        """

    def known(self, cameras: Any, prepared: Prepared) -> Known:
        """The encoding of known cameras for the blocks. Raises BackendError if the network takes none."""
        raise BackendError(f"fast path: {type(self).__name__} takes no known cameras")

    def with_known(self, prediction: Any, cameras: Any) -> Any:
        """The prediction adapted to known cameras, as the network's `predict` does it."""
        return prediction


class Stepwise(ABC):
    """A fast form that takes images one after the other and keeps its own graphs. It is its own runner."""

    settings: Settings

    @abstractmethod
    def __call__(self, images: Sequence[Tensor]) -> FastOutput:
        """Predict from images (3, H, W) of one size, float32 in [0, 1] on the device."""

    @abstractmethod
    def predict(self, images: Sequence[Tensor]) -> Any:
        """The network's `predict`, for images of any sizes."""

    @abstractmethod
    def skipped(self, shape: Shape) -> float:
        """1 − computed / all pairs of query groups and key tiles where attention is sparse."""

    @abstractmethod
    def forget(self) -> None:
        """Free all graphs and prepared tensors."""

    def eager(
        self, images: Sequence[Tensor], stage: Callable[[str], AbstractContextManager] | None = None
    ) -> FastOutput:
        """Predict; stages of single steps are not timed."""
        return self(images)


class FastRunner:
    """Runs a fast form on its device, for images of any sizes."""

    def __init__(self, form: FastForm, device: torch.device):
        self.form, self.settings, self.device = form, form.settings, device
        self.engine = Engine(self.settings, operators(device, self.settings.kernels))
        self._prepared: dict[tuple[Shape, Shards | None], tuple[Prepared, dict[str, Any]]] = {}
        self._graphs: dict[tuple[Shape, int], tuple[torch.cuda.CUDAGraph, list[Tensor], FastOutput]] = {}

    @torch.inference_mode()
    def __call__(self, images: Sequence[Tensor], cameras: Any = None) -> FastOutput:
        """Predict from images (3, H, W) each, or (S, 3, H, W), float32 in [0, 1] on the device; `cameras` as in the
        network's `predict`. The output is valid until the next call with the same shape.
        """
        with on_device(self.device):
            return self._answer(images, cameras)

    def _answer(self, images: Sequence[Tensor], cameras: Any) -> FastOutput:
        shape = Shape.of(images)
        known = None if cameras is None else self.form.known(cameras, self._fixed(shape)[0])
        stacks = shape.stacks(images)
        if self.device.type != "cuda" or not self.settings.graphs or current() is not None:
            return self._run(stacks, known, shape, self.engine)
        kind = shape, 0 if known is None else len(known)
        if kind not in self._graphs:
            self._graphs[kind] = self._capture(stacks, known, shape)
        graph, given, output = self._graphs[kind]
        for target, value in zip(given, [*stacks, *(known or ())]):
            target.copy_(value)
        graph.replay()
        return output

    @torch.inference_mode()
    def eager(
        self, images: Sequence[Tensor], stage: Callable[[str], AbstractContextManager] | None = None
    ) -> FastOutput:
        """Predict without a CUDA graph. `stage(name)` is a context that is entered around each part, for timing."""
        shape = Shape.of(images)
        engine = self.engine if stage is None else Engine(self.settings, self.engine.operators, stage)
        with on_device(self.device):
            return self._run(shape.stacks(images), None, shape, engine)

    def forget(self) -> None:
        """Free all graphs and prepared tensors."""
        self._graphs.clear()
        self._prepared.clear()

    def skipped(self, shape: Shape) -> float:
        """1 − computed / all pairs of query groups and key tiles, the mean over all cross-view layers."""
        plans, total = self._fixed(shape)[0].plans, 0.0
        for layer in self.form.layers_across:
            plan = plans.across(layer.sparse)
            if plan is not None and layer.sparse is not None:
                total += plan.skipped(layer.sparse.ratio(plan))
        return total / len(self.form.layers_across)

    def _run(self, stacks: Sequence[Tensor], known: Known | None, shape: Shape, engine: Engine) -> FastOutput:
        return self.form.run(stacks, known, *self._fixed(shape), engine)

    def _fixed(self, shape: Shape) -> tuple[Prepared, dict[str, Any]]:
        key = shape, current()
        if key not in self._prepared:
            with torch.inference_mode():
                self._prepared[key] = self.form.prepare(shape, self.device)
        return self._prepared[key]

    def _capture(
        self, stacks: Sequence[Tensor], known: Known | None, shape: Shape
    ) -> tuple[torch.cuda.CUDAGraph, list[Tensor], FastOutput]:
        given = [stack.clone() for stack in stacks]
        told = None if known is None else tuple(each.clone() for each in known)
        self._fixed(shape)
        beside = torch.cuda.Stream(self.device)
        beside.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(beside):
            for _ in range(WARM_UPS):
                self._run(given, told, shape, self.engine)
        torch.cuda.current_stream(self.device).wait_stream(beside)
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()  # the graph has its own memory pool; free the warm-up's
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = self._run(given, told, shape, self.engine)
        return graph, [*given, *(told or ())], output
