"""A loaded network on the fast path: converted once, prepared and (on a GPU) captured as a graph for each input
shape.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor

from lite3r_cli.engine.layers import Engine, Settings
from lite3r_cli.engine.operators import operators
from lite3r_cli.engine.outputs import FastOutput, Shape

WARM_UPS = 2  # before a graph is captured: kernels are compiled and libraries choose theirs


class FastNetwork(Protocol):
    """A network's form for this engine; the `fast` of its Family makes one of a loaded network."""

    def prepare(self, shape: Shape, device: torch.device) -> dict[str, Any]:
        """What a shape needs and no image changes; its `plan` is the SparsePlan across views, or None."""
        ...

    def run(self, images: Tensor, fixed: dict[str, Any], engine: Engine) -> FastOutput:
        """The answer for images (S, 3, H, W) float32 in [0, 1] on the device; `fixed` is of `prepare`."""
        ...

    def keep_ratios(self) -> list[float]:
        """Of each layer across views; 1 for a dense one."""
        ...


class FastRunner:
    """`networks/fast_form.py` makes one of a loaded network."""

    def __init__(self, network: FastNetwork, settings: Settings, device: torch.device):
        self.network, self.settings, self.device = network, settings, device
        self.engine = Engine(settings, operators(device, settings.kernels))
        self._prepared: dict[Shape, dict] = {}
        self._graphs: dict[Shape, tuple[torch.cuda.CUDAGraph, Tensor, FastOutput]] = {}

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> FastOutput:
        """Images (S, 3, H, W) float32 in [0, 1] on the device. The output is valid until the next call of its shape."""
        if self.device.type != "cuda" or not self.settings.graphs:
            return self.eager(images)
        shape = Shape(len(images), *images.shape[-2:])
        if shape not in self._graphs:
            self._graphs[shape] = self._capture(images, shape)
        graph, given, output = self._graphs[shape]
        given.copy_(images)
        graph.replay()
        return output

    @torch.inference_mode()
    def eager(self, images: Tensor, stage: Callable[[str], AbstractContextManager] | None = None) -> FastOutput:
        """The same without a graph; `stage(name)` is entered around each part."""
        shape = Shape(len(images), *images.shape[-2:])
        engine = self.engine if stage is None else Engine(self.settings, self.engine.operators, stage)
        return self.network.run(images, self._fixed(shape), engine)

    def forget(self) -> None:
        """Free the graphs and what was prepared."""
        self._graphs.clear()
        self._prepared.clear()

    def skipped(self, shape: Shape) -> float:
        """1 − computed / all pairs of query groups and key tiles, over all layers across views."""
        plan = self._fixed(shape)["plan"]
        ratios = self.network.keep_ratios()
        return 0.0 if plan is None else sum(0.0 if r == 1 else plan.skipped(r) for r in ratios) / len(ratios)

    def _fixed(self, shape: Shape) -> dict:
        if shape not in self._prepared:
            with torch.inference_mode():
                self._prepared[shape] = self.network.prepare(shape, self.device)
        return self._prepared[shape]

    def _capture(self, images: Tensor, shape: Shape) -> tuple[torch.cuda.CUDAGraph, Tensor, FastOutput]:
        given = images.clone()
        self._fixed(shape)
        beside = torch.cuda.Stream(self.device)
        beside.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(beside):
            for _ in range(WARM_UPS):
                self.eager(given)
        torch.cuda.current_stream(self.device).wait_stream(beside)
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()  # what the warm-up took would stay beside the graph's own memory
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = self.eager(given)
        return graph, given, output
