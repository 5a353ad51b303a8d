"""A pass over the frames of a stream on the fast path. Every step has the same shapes and runs as two CUDA graphs.

The heads, of which the camera head is a chain of small kernels, run on a stream of their own (`heads_stream`) beside
the blocks of the next frame. All answers are ready on that stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lite3r_cli.layers.vit import RopeTable
from lite3r_cli.networks.lingbot_map.cache import SPECIALS, Room
from lite3r_cli.networks.lingbot_map.fast_cache import Ring
from lite3r_cli.networks.lingbot_map.network import FrameOutput, angles
from lite3r_cli.networks.lingbot_map.plan import StreamPlan

if TYPE_CHECKING:
    from lite3r_cli.networks.lingbot_map.fast import FastLingBotMap

EAGER_RUNS = 2  # before a graph is captured: kernels are compiled, libraries choose algorithms


class FastStream:
    """One pass over frames of one size, as `network.Stream`. `restart` begins another with the same memory."""

    def __init__(self, form: FastLingBotMap, plan: StreamPlan, count: int):
        self.form, self.plan = form, plan
        self.room = Room(plan.anchors, plan.window, plan.stored(count))
        self.size: tuple[int, int] | None = None
        self.ring: Ring | None = None
        self.image: Tensor | None = None  # (1, 3, H, W), the input of the blocks
        self.time = torch.zeros((), dtype=torch.float64, device=form.device)
        self.blocks: dict[tuple[bool, bool], Replayed] = {}  # by the state of the ring that their kernels depend on
        self.features: list[Tensor] = []  # the input of the heads: four maps, and the camera features
        self.heads = Replayed(self._run_heads, form.heads_stream)

    def restart(self) -> None:
        """Forget all frames, not the memory for them."""
        if self.ring is not None:
            self.ring.stored = self.ring.end = 0
            self.form.cameras.stored = 0

    def first(self, images: Tensor, keep: bool = True) -> FrameOutput:
        """Process the first frames (1, F, 3, H, W) in [0, 1] together; `keep` stores them for later frames."""
        if self.form.heads_stream is not None:  # the heads of the pass before use the same caches
            torch.cuda.current_stream(self.form.device).wait_stream(self.form.heads_stream)
        self._make_room(images)
        ring, form, count = self.ring, self.form, images.shape[1]
        assert ring is not None
        kept = [ring.store() for _ in range(count)] if keep else []
        for block in form.across:
            block.ring, block.kept = None, kept
        table = self._table(torch.arange(count, device=form.device, dtype=torch.float64))
        maps, camera = form.run(images[0], True, table)
        depth, confidence = form.depth(maps, *images.shape[-2:])
        vectors = form.cameras.together(camera, self.plan.rounds, keep)
        if form.heads_stream is not None:
            form.heads_stream.wait_stream(torch.cuda.current_stream(form.device))
            for answer in (depth, confidence, vectors):
                answer.record_stream(form.heads_stream)
        return FrameOutput([vectors], depth[None], confidence[None], [], range(count), count * ring.tokens, keep)

    def next(self, image: Tensor, keep: bool) -> FrameOutput:
        """Process the next frame (1, 1, 3, H, W); `keep` stores it for later frames."""
        ring, form, given = self.ring, self.form, self.image
        assert ring is not None and given is not None
        now = ring.stored
        self.time.fill_(now)
        ring.turn(keep)
        for block in form.across:
            block.ring = ring
        given.copy_(image[0])
        kind = ring.full, ring.evicts
        self._hand_over(self.blocks.setdefault(kind, Replayed(self._run_blocks, form.blocks_stream))())
        with torch.cuda.stream(form.heads_stream):
            form.cameras.turn(keep)
            depth, confidence, vectors = (answer.clone() for answer in self.heads())
        keys = ring.end if keep else ring.end + ring.tokens
        return FrameOutput([vectors], depth[None], confidence[None], [], range(now, now + 1), keys, keep)

    def _run_blocks(self) -> tuple[Tensor, ...]:
        """The features of the frame `image`."""
        assert self.image is not None
        maps, camera = self.form.run(self.image, False, self._table(self.time[None]))
        return *maps, camera

    def _hand_over(self, found: Sequence[Tensor]) -> None:
        """Copy the features to where the heads read them, once those of the frame before have done so."""
        if not self.features:
            self.features = [torch.empty_like(each) for each in found]
        stream = self.form.heads_stream
        if stream is not None:
            torch.cuda.current_stream(stream.device).wait_stream(stream)
        for target, value in zip(self.features, found):
            target.copy_(value)
        if stream is not None:
            stream.wait_stream(torch.cuda.current_stream(stream.device))

    def _run_heads(self) -> tuple[Tensor, ...]:
        """Depth, confidence and pose vectors from `features`."""
        assert self.size is not None
        *maps, camera = self.features
        return *self.form.depth(maps, *self.size), self.form.cameras.step(camera, self.plan.rounds)

    def _table(self, times: Tensor) -> RopeTable:
        """The RoPE table of blocks across frames for these times (S,), with channels as `rope_table` has them."""
        assert self.size is not None
        patch = self.form.patch_size
        angle = angles(times, self.size[0] // patch, self.size[1] // patch)[:, self.form.order]
        return angle.cos().float(), angle.sin().float()

    def _make_room(self, images: Tensor) -> None:
        """Caches for frames of the size of `images` (…, H, W)."""
        form, size = self.form, (images.shape[-2], images.shape[-1])
        if self.size == size:
            return
        self.size, self.blocks, self.features = size, {}, []
        self.heads = Replayed(self._run_heads, form.heads_stream)
        tokens = SPECIALS + (size[0] // form.patch_size) * (size[1] // form.patch_size)
        self.ring = Ring(self.room, tokens, form.device)
        heads = form.config.heads
        for block in form.across:
            block.cache = torch.zeros(
                2, heads, self.room.tokens(tokens), form.config.dim // heads, dtype=form.settings.dtype,
                device=form.device,
            )  # fmt: skip
        self.image = torch.zeros(1, 3, *size, device=form.device)
        form.cameras.make_room(self.room.frames, self.plan.rounds)


class Replayed:
    """A function of no arguments that reads and writes fixed tensors: on a GPU, after a few runs, a CUDA graph. What it
    returns is overwritten by the next call.

    The graph is captured on `stream`, of which its kernels have the priority. The libraries have one work space per
    stream: graphs that run beside each other must be captured on different ones.
    """

    def __init__(self, run: Callable[[], tuple[Tensor, ...]], stream: torch.cuda.Stream | None = None):
        self.run, self.stream, self.runs = run, stream, 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.found: tuple[Tensor, ...] = ()

    def __call__(self) -> tuple[Tensor, ...]:
        if self.graph is None:
            self.runs += 1
            if self.runs <= EAGER_RUNS or not self.found[0].is_cuda:
                self.found = self.run()
                return self.found
            torch.cuda.synchronize(self.found[0].device)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, stream=self.stream):  # records without running
                self.found = self.run()
        self.graph.replay()
        return self.found
