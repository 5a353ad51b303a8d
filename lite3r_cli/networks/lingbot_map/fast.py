"""LingBot-Map on the fast path: every step of a stream has the same shapes and runs as one CUDA graph.

The number of visible keys and the slots of the cache that a step writes are read on the device. While the cache fills,
one kernel attends to as many keys as there are; once the anchors and the window are full, their keys are a fixed number
for torch's attention, and the kernel adds the others (`growing_attention`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lite3r_cli.attention.packed import PackedPlan
from lite3r_cli.engine.fast_heads import FastDepthHead
from lite3r_cli.engine.fast_outputs import FastOutput
from lite3r_cli.engine.layers import Engine, FastBlock, Norm, Prepared, Settings, Together, Tokens, encode
from lite3r_cli.engine.operators import Operators, operators
from lite3r_cli.engine.packing import Packing, Shape
from lite3r_cli.engine.patches import Patches
from lite3r_cli.engine.runner import Stepwise
from lite3r_cli.engine.sparse_layers import SparsePlan
from lite3r_cli.engine.twins import Operand
from lite3r_cli.layers.dense import dense_with_lse
from lite3r_cli.layers.image_encoder import REGISTERS
from lite3r_cli.layers.vit import NeighboursTable, RopeTable, patch_positions, resize_position_embedding, rope_table
from lite3r_cli.networks.base import FrameAnswer, Prediction
from lite3r_cli.networks.lingbot_map.cache import SPECIALS, Room
from lite3r_cli.networks.lingbot_map.fast_camera import FastCameras
from lite3r_cli.networks.lingbot_map.network import FrameOutput, LingBotMap, angles
from lite3r_cli.networks.lingbot_map.plan import StreamPlan
from lite3r_cli.networks.lingbot_map.streaming import padded_prediction, streamed

EAGER_STEPS = 2  # of each kind before its graph is captured: kernels are compiled, libraries choose algorithms


class CachedBlock(FastBlock):
    """A block across frames. With a `ring` it attends to its cache; without, tokens attend to each other, and their
    keys and values are `kept` in these slots.
    """

    cache: Tensor  # (2, H, tokens, D): keys and values
    ring: Ring | None = None
    kept: Sequence[tuple[int, int | None]] = ()  # per frame its first slot, and where its old special tokens go

    def _plan_across(self, tokens: Tokens) -> SparsePlan | PackedPlan | None:
        return super()._plan_across(tokens) if self.ring is None else None

    def _attend(self, heads: Tensor, group: Together, reference: Tensor | None, ops: Operators) -> Operand:
        if self.ring is None:
            if self.kept:
                tokens = heads[1:] if group.plan is None else heads[1:, :, group.plan.place.long()]
                for (start, target), part in zip(self.kept, tokens.chunk(len(self.kept), dim=2)):
                    if target is not None:
                        self.cache[:, :, target : target + SPECIALS] = self.cache[:, :, start : start + SPECIALS]
                    self.cache[:, :, start : start + part.shape[2]] = part
            return super()._attend(heads, group, reference, ops)
        out = self.ring.attend(heads, self.cache, ops)
        return ops.merge_heads(out, None, out.shape[1], self.proj.fp8)


class Ring:
    """Which slots of a cache a step reads and writes, on the device: the memory layout is that of `cache.py`."""

    def __init__(self, room: Room, tokens: int, device: torch.device):
        self.room, self.tokens = room, tokens
        self.stored = 0
        self.end = 0  # slots in use
        self.whole = (room.anchors + room.window) * tokens  # slots of frames that are kept in full
        self.frame = torch.arange(tokens, device=device)
        self.into, self.source, self.target = (self.frame[:n].clone() for n in (tokens, SPECIALS, SPECIALS))
        self.keys, self.rest = (torch.zeros(1, dtype=torch.int32, device=device) for _ in range(2))
        self.full = self.evicts = False

    def turn(self, keep: bool) -> None:
        """Point at the slots of the next step; `keep` stores its frame."""
        self.full = self.stored >= self.room.anchors + self.room.window
        self.evicts = self.full and keep
        seen = self.end + (SPECIALS if self.evicts else self.tokens)
        start, target = self.store() if keep else (self.end, None)
        torch.add(self.frame, start, out=self.into)
        if target is not None:
            torch.add(self.frame[:SPECIALS], start, out=self.source)
            torch.add(self.frame[:SPECIALS], target, out=self.target)
        self.keys.fill_(seen)
        self.rest.fill_(max(0, seen - self.whole))

    def store(self) -> tuple[int, int | None]:
        """Count another stored frame. Returns its first slot, and the one for the special tokens of the frame that was
        there; None if there was none.
        """
        room, n, end = self.room, self.stored, self.end
        start = (n if n < room.anchors else room.anchors + (n - room.anchors) % room.window) * self.tokens
        self.stored = n + 1
        if n < room.anchors + room.window:
            self.end = start + self.tokens
            return start, None
        self.end = end + SPECIALS
        return start, end

    def attend(self, heads: Tensor, cache: Tensor, ops: Operators) -> Tensor:
        """q, k, v (3, H, P, D) of a frame → attention to the cache (2, H, tokens, D) and the frame (H, P, D)."""
        if self.evicts:
            cache.index_copy_(2, self.target, cache.index_select(2, self.source))
        cache.index_copy_(2, self.into, heads[1:])
        q, (k, v) = heads[0], cache
        if not self.full:
            return ops.growing_attention(q, k, v, self.keys)
        most = dense_with_lse(q[None], k[None, :, : self.whole], v[None, :, : self.whole])
        return ops.growing_attention(q, k[:, self.whole :], v[:, self.whole :], self.rest, (most[0][0], most[1][0]))


class FastLingBotMap(Stepwise):
    """The fast form of a loaded LingBot-Map; the original may be freed afterwards."""

    def __init__(self, model: LingBotMap, settings: Settings):
        aggregator, encoder, config = model.aggregator, model.aggregator.patch_embed, model.config
        self.config, self.settings, self.patch_size, self.plan = config, settings, model.patch_size, model.plan
        self.device = aggregator.camera_token.device
        self.engine = Engine(settings, operators(self.device, settings.kernels))
        self.patches = Patches(encoder.patch_embed, settings.dtype, settings.kernels)
        self.position = encoder.pos_embed.detach().float()
        self.first = torch.cat([encoder.cls_token + encoder.pos_embed[:, :1], encoder.register_tokens], dim=1).detach()
        special = torch.cat([aggregator.camera_token, aggregator.register_token], dim=2)[0].detach()
        self.special, self.scale = special, aggregator.scale_token[0].detach()  # (2, 5, C), (2, 1, C)
        self.encoder = [FastBlock(b, settings) for b in encoder.blocks]
        self.encoder_norm = Norm.of(encoder.norm)
        self.order = NeighboursTable.axial_order(config.dim // config.heads).to(self.device)
        last = config.pairs - 1
        self.near = [FastBlock(b, settings, i == last) for i, b in enumerate(aggregator.frame_blocks)]
        self.across = [CachedBlock(b, settings, i == last, self.order) for i, b in enumerate(aggregator.global_blocks)]
        self.head = FastDepthHead(model.depth_head, settings)
        self.cameras = FastCameras(model.camera_head, settings)
        self._prepared: dict[tuple[int, int, int], dict[str, Any]] = {}
        self._stream: FastStream | None = None

    # -- the interface of a runner -----------------------------------------------------------------------------------

    def __call__(self, images: Sequence[Tensor]) -> FastOutput:
        """As `predict`, for images of one size."""
        found = self.predict(images)
        shape = Shape.of(images)
        packing = Packing.of(shape, self.patch_size, SPECIALS)
        maps = torch.stack(found.depth).to(self.device), torch.stack(found.confidence).to(self.device)
        return FastOutput.of(packing, [maps], found.cam_from_world.to(self.device), found.K.to(self.device))

    @torch.inference_mode()
    def predict(self, images: Sequence[Tensor]) -> Prediction:
        """See `LingBotMap.predict`."""
        return padded_prediction(self.stream, images)

    @torch.inference_mode()
    def stream(self, frames: Iterable[Tensor], count: int) -> Iterator[FrameAnswer]:
        """See `LingBotMap.stream`."""
        plan = self.plan or StreamPlan.for_frames(count)
        yield from streamed(self.begin, frames, count, plan, self.device)

    def begin(self, plan: StreamPlan, count: int) -> FastStream:
        """A pass over `count` frames. The caches and graphs of the pass before are used again where they suffice."""
        before = self._stream
        if before is None or before.plan != plan or before.room.frames < plan.stored(count):
            self._stream = before = FastStream(self, plan, count)
        before.restart()
        return before

    def skipped(self, shape: Shape) -> float:
        """The share of key blocks that the first frames skip when they attend to each other."""
        plan = self.plan or StreamPlan.for_frames(shape.views)
        prepared = self.fixed(min(plan.first, shape.views), *shape.sizes[0])["tokens"]
        total = 0.0
        for layer in self.across:
            found = prepared.plans.across(layer.sparse)
            if found is not None and layer.sparse is not None:
                total += found.skipped(layer.sparse.ratio(found))
        return total / len(self.across)

    def forget(self) -> None:
        """Free caches, graphs and prepared tensors."""
        self._stream = None
        self._prepared.clear()

    # -- the network -------------------------------------------------------------------------------------------------

    def fixed(self, frames: int, height: int, width: int) -> dict[str, Any]:
        """What depends only on the number of frames at once and their size."""
        key = frames, height, width
        if key not in self._prepared:
            shape, device = Shape.equal(frames, height, width), self.device
            prepared = Prepared.of(shape, self.patch_size, SPECIALS, self.settings, device)
            grid = prepared.packing.buckets[0].grid
            within = patch_positions(*grid, SPECIALS, device)
            self._prepared[key] = {
                "tokens": prepared,
                "encoder": Prepared.of(shape, self.patch_size, 1 + REGISTERS, self.settings, device, reference=False),
                "within": [rope_table(within, self.config.dim // self.config.heads, published=True)],
                "embeddings": [resize_position_embedding(self.position[:, 1:], *grid, antialias=True)[0].float()],
                "reference": torch.zeros((), dtype=torch.long, device=device),
            }
        return self._prepared[key]

    def run(self, images: Tensor, first_pass: bool, across: RopeTable) -> tuple[list[Tensor], Tensor]:
        """Frames (S, 3, H, W) → the maps for `depth`, and the camera features (1, S, 2C). The blocks across frames have
        been told what to attend to; `across` is their RoPE table.
        """
        engine, fixed = self.engine, self.fixed(len(images), images.shape[2], images.shape[3])
        tokens = self._encode(images, first_pass, fixed)
        tokens.ropes, tokens.ropes_across, tokens.reference = fixed["within"], [across], fixed["reference"]
        (frames,) = tokens.frames()
        maps: list[Tensor] = []
        camera = frames
        operand = self.near[0].start(tokens.x, engine)
        for i, (near, far) in enumerate(zip(self.near, self.across)):
            operand = near.within(tokens, operand, engine, far.norm1)
            before = frames.clone() if i in self.config.taps else None
            after = self.near[i + 1].norm1 if i + 1 < len(self.near) else None
            operand = far.across(tokens, operand, engine, after)
            if before is not None:
                maps.append(self.head.project(len(maps), before, frames, SPECIALS, engine))
                camera = torch.cat([before[:, 0], frames[:, 0]], dim=-1)  # the last pair is among the taps
        return maps, camera.float()[None]

    def depth(self, maps: list[Tensor], height: int, width: int) -> tuple[Tensor, Tensor]:
        """The maps of `run` for frames of this size → depth and confidence (S, H, W)."""
        return self.head.decode(maps, height // self.patch_size, width // self.patch_size)

    def _encode(self, images: Tensor, first_pass: bool, fixed: dict[str, Any]) -> Tokens:
        engine = self.engine
        inner = self.patches.tokens([images], fixed["embeddings"], self.first[0], fixed["encoder"])
        encode(self.encoder, self.encoder_norm, inner, engine)
        prepared: Prepared = fixed["tokens"]
        tokens = Tokens(inner.x.new_empty(prepared.packing.tokens, inner.x.shape[1]), prepared)
        (frames,), (seen,) = tokens.frames(), inner.frames()
        frames[:, : SPECIALS - 1] = self.special[1].to(frames.dtype)
        if first_pass:
            frames[0, : SPECIALS - 1] = self.special[0].to(frames.dtype)
        frames[:, SPECIALS - 1] = self.scale[0 if first_pass else 1].to(frames.dtype)
        frames[:, SPECIALS:] = seen[:, 1 + REGISTERS :]
        return tokens


class FastStream:
    """One pass over frames of one size, as `network.Stream`. `restart` begins another with the same memory."""

    def __init__(self, form: FastLingBotMap, plan: StreamPlan, count: int):
        self.form, self.plan = form, plan
        self.room = Room(plan.anchors, plan.window, plan.stored(count))
        self.size: tuple[int, int] | None = None
        self.ring: Ring | None = None
        self.image: Tensor | None = None  # (1, 3, H, W), the input of the graphs
        self.time = torch.zeros((), dtype=torch.float64, device=form.device)
        self.graphs: dict[tuple[bool, bool], tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...]]] = {}
        self.steps: dict[tuple[bool, bool], int] = {}
        self.beside = torch.cuda.Stream(form.device) if form.device.type == "cuda" else None

    def restart(self) -> None:
        """Forget all frames, not the memory for them."""
        if self.ring is not None:
            self.ring.stored = self.ring.end = 0
            self.form.cameras.stored = 0

    def first(self, images: Tensor, keep: bool = True) -> FrameOutput:
        """Process the first frames (1, F, 3, H, W) in [0, 1] together; `keep` stores them for later frames."""
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
        return FrameOutput([vectors], depth[None], confidence[None], [], range(count), count * ring.tokens, keep)

    def next(self, image: Tensor, keep: bool) -> FrameOutput:
        """Process the next frame (1, 1, 3, H, W); `keep` stores it for later frames."""
        ring, form, given = self.ring, self.form, self.image
        assert ring is not None and given is not None
        now = ring.stored
        self.time.fill_(now)
        ring.turn(keep)
        form.cameras.turn(keep)
        for block in form.across:
            block.ring = ring
        given.copy_(image[0])
        depth, confidence, vectors = self._step((ring.full, ring.evicts))
        keys = ring.end if keep else ring.end + ring.tokens
        return FrameOutput([vectors], depth[None], confidence[None], [], range(now, now + 1), keys, keep)

    def _step(self, kind: tuple[bool, bool]) -> tuple[Tensor, ...]:
        """One step; `kind` is the state of the ring that its kernels depend on."""
        if self.form.device.type != "cuda":
            return self._run()
        if kind not in self.graphs:
            self.steps[kind] = self.steps.get(kind, 0) + 1
            if self.steps[kind] <= EAGER_STEPS:
                return self._run()
            torch.cuda.synchronize(self.form.device)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):  # records the step without running it
                self.graphs[kind] = graph, self._run()
        graph, found = self.graphs[kind]
        graph.replay()
        return tuple(each.clone() for each in found)

    def _run(self) -> tuple[Tensor, ...]:
        assert self.image is not None and self.size is not None
        maps, camera = self.form.run(self.image, False, self._table(self.time[None]))
        with _forked(self.beside):  # a chain of small kernels, which leaves most of the GPU to the depth head
            vectors = self.form.cameras.step(camera, self.plan.rounds)
        depth, confidence = self.form.depth(maps, *self.size)
        if self.beside is not None:
            torch.cuda.current_stream(self.form.device).wait_stream(self.beside)
        return depth, confidence, vectors

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
        self.size, self.graphs, self.steps = size, {}, {}
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


@contextmanager
def _forked(stream: torch.cuda.Stream | None) -> Iterator[None]:
    """What is inside runs on `stream` after all that was launched before; None: on the current stream."""
    if stream is None:
        yield
        return
    stream.wait_stream(torch.cuda.current_stream(stream.device))
    with torch.cuda.stream(stream):
        yield
