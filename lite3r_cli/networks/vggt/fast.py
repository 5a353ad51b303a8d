"""VGGT on the fast path: tokens as rows (T, C) that every block changes in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lite3r_cli.engine.fast_heads import FastDepthHead, fast_camera_head
from lite3r_cli.engine.fast_outputs import FastOutput
from lite3r_cli.engine.layers import Engine, FastBlock, Norm, Prepared, Settings, Tokens, encode
from lite3r_cli.engine.packing import Shape
from lite3r_cli.engine.patches import Patches
from lite3r_cli.engine.runner import FastForm, Known
from lite3r_cli.layers.heads import pose
from lite3r_cli.layers.view_shards import first_view
from lite3r_cli.layers.vit import patch_positions, resize_position_embedding, rope_table
from lite3r_cli.networks.vggt.network import SPECIALS, VGGT


class FastVGGT(FastForm):
    """The fast form of a loaded VGGT; the original may be freed afterwards."""

    def __init__(self, model: VGGT, settings: Settings):
        aggregator, encoder = model.aggregator, model.aggregator.patch_embed
        self.config, self.settings, self.patch_size = model.config, settings, model.patch_size
        self.patches = Patches(encoder.patch_embed, settings.dtype, settings.kernels)
        self.position = encoder.pos_embed.detach().float()
        self.first = torch.cat([encoder.cls_token + encoder.pos_embed[:, :1], encoder.register_tokens], dim=1).detach()
        self.special = torch.cat([aggregator.camera_token, aggregator.register_token], dim=2)[0].detach()  # (2, 5, C)
        self.encoder = [FastBlock(b, settings) for b in encoder.blocks]
        self.encoder_norm = Norm.of(encoder.norm)
        self.layers_within, self.layers_across = (
            [FastBlock(b, settings, exact_projection=b is blocks[-1]) for b in blocks]
            for blocks in (aggregator.frame_blocks, aggregator.global_blocks)
        )
        self.head = FastDepthHead(model.depth_head, settings)
        self.camera_head = fast_camera_head(model.camera_head, settings)

    def prepare(self, shape: Shape, device: torch.device) -> tuple[Prepared, dict[str, Any]]:
        """What depends only on the image sizes: packing, RoPE tables, position embeddings."""
        prepared = Prepared.of(shape, self.patch_size, SPECIALS, self.settings, device)
        head_dim = self.config.dim // self.config.heads
        ropes, embeddings, specials = [], [], []
        for bucket in prepared.packing.buckets:
            positions = patch_positions(*bucket.grid, SPECIALS, device)
            ropes.append(rope_table(positions, head_dim, published=True))
            embeddings.append(resize_position_embedding(self.position[:, 1:], *bucket.grid, antialias=True)[0].float())
            kinds = [min(first_view() + view, 1) for view in bucket.views]
            specials.append(self.special[kinds].to(self.settings.dtype))
        first = torch.tensor(prepared.whole.places[0], device=device)
        places = [patch_positions(*bucket.grid, SPECIALS, device) for bucket in prepared.whole.buckets]
        across = [rope_table(each, head_dim, published=True) for each in places]
        fixed = {"ropes": ropes, "across": across, "embeddings": embeddings, "specials": specials, "first": first}
        return prepared, fixed

    def run(
        self, images: Sequence[Tensor], known: Known | None, prepared: Prepared, fixed: dict[str, Any], engine: Engine
    ) -> FastOutput:
        """Images (S_b, 3, H, W) of each size, float32 in [0, 1], on the device."""
        with engine.stage("encoder"):
            tokens = self._encode(images, prepared, fixed, Engine(engine.settings, engine.operators))
        tokens.ropes, tokens.ropes_across = fixed["ropes"], fixed["across"]
        tokens.reference = fixed["first"]
        maps, camera = self._aggregate(tokens, engine)
        del tokens
        with engine.stage("heads"):
            vectors = self.camera_head(prepared.by_view(camera).float()[None])[-1][0]
            grids = [bucket.grid for bucket in prepared.packing.buckets]
            decoded = [self.head.decode(each, *grid) for each, grid in zip(maps, grids)]
        with engine.stage("input and output"):
            return FastOutput.of(prepared.packing, decoded, *pose.cameras(vectors, prepared.sizes))

    def _encode(self, images: Sequence[Tensor], prepared: Prepared, fixed: dict[str, Any], engine: Engine) -> Tokens:
        """Run the image encoder; the special tokens of the result are those of the aggregator."""
        tokens = self.patches.tokens(images, fixed["embeddings"], self.first[0], prepared)
        encode(self.encoder, self.encoder_norm, tokens, engine)
        for frames, specials in zip(tokens.frames(), fixed["specials"]):
            frames[:, :SPECIALS] = specials
        return tokens

    def _aggregate(self, tokens: Tokens, engine: Engine) -> tuple[list[list[Tensor]], list[Tensor]]:
        """Per bucket: the projected taps, (S_b, N, C_i) each, and the camera tokens (S_b, 2C) after the last pair."""
        config, last = self.config, len(self.layers_within) - 1
        frames = tokens.frames()
        maps: list[list[Tensor]] = [[] for _ in frames]
        camera: list[Tensor] = []
        with engine.stage("linear layers"):
            operand = self.layers_within[0].start(tokens.x, engine)
        for i, (within, across) in enumerate(zip(self.layers_within, self.layers_across)):
            operand = within.within(tokens, operand, engine, across.norm1)
            near = [each.clone() for each in frames] if i in config.taps else None
            after = self.layers_within[i + 1].norm1 if i < last else None
            operand = across.across(tokens, operand, engine, after)
            if near is not None:
                with engine.stage("heads"):
                    for found, a, b in zip(maps, near, frames):
                        found.append(self.head.project(len(found), a, b, SPECIALS, engine))
                    # the last pair is among the taps
                    camera = [torch.cat([a[:, 0], b[:, 0]], dim=-1) for a, b in zip(near, frames)]
            del near
        return maps, camera
