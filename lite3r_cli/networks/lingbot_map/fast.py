"""LingBot-Map on the fast path; `fast_cache.py` is its attention across frames, `fast_stream.py` the steps of a
stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from lite3r_cli.engine.fast_heads import FastDepthHead
from lite3r_cli.engine.fast_outputs import FastOutput
from lite3r_cli.engine.layers import Engine, FastBlock, Norm, Prepared, Settings, Tokens, encode
from lite3r_cli.engine.operators import operators
from lite3r_cli.engine.packing import Packing, Shape
from lite3r_cli.engine.patches import Patches
from lite3r_cli.engine.runner import Stepwise
from lite3r_cli.layers.image_encoder import REGISTERS
from lite3r_cli.layers.vit import NeighboursTable, RopeTable, patch_positions, resize_position_embedding, rope_table
from lite3r_cli.networks.base import FrameAnswer, Prediction
from lite3r_cli.networks.lingbot_map.cache import SPECIALS
from lite3r_cli.networks.lingbot_map.fast_cache import CachedBlock
from lite3r_cli.networks.lingbot_map.fast_camera import FastCameras
from lite3r_cli.networks.lingbot_map.fast_stream import FastStream
from lite3r_cli.networks.lingbot_map.network import LingBotMap
from lite3r_cli.networks.lingbot_map.plan import StreamPlan
from lite3r_cli.networks.lingbot_map.streaming import padded_prediction, streamed


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
        on_gpu = self.device.type == "cuda"
        self.blocks_stream = torch.cuda.Stream(self.device, priority=-1) if on_gpu else None  # before the heads
        self.heads_stream = torch.cuda.Stream(self.device) if on_gpu else None
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
        yield from streamed(self.begin, frames, count, plan, self.device, self.heads_stream)

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
