"""Depth-Anything-3 on the fast path: cameras come from the camera tokens, not from rays; takes known cameras."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lite3r_cli.engine.fast_heads import FastDepthHead
from lite3r_cli.engine.fast_outputs import FastOutput
from lite3r_cli.engine.layers import Engine, FastBlock, Norm, Prepared, Settings, Tokens
from lite3r_cli.engine.packing import Shape
from lite3r_cli.engine.patches import Patches
from lite3r_cli.engine.runner import FastForm, Known
from lite3r_cli.layers.heads import pose
from lite3r_cli.layers.vit import patch_positions, resize_position_embedding, rope_table
from lite3r_cli.networks.base import KnownCameras, Prediction
from lite3r_cli.networks.da3.network import DA3, POSITION_OFFSET, encode_known, with_known
from lite3r_cli.networks.da3.reference_view import choose_reference


class FastDA3(FastForm):
    """The fast form of a loaded Depth-Anything-3; the original may be freed afterwards."""

    def __init__(self, model: DA3, settings: Settings):
        encoder = model.trunk
        self.config, self.settings, self.patch_size = model.config, settings, model.patch_size
        self.reference_view = model.reference_view
        self.patches = Patches(encoder.patch_embed, settings.dtype, settings.kernels)
        self.position = encoder.pos_embed.detach().float()
        self.first = (encoder.cls_token + encoder.pos_embed[:, :1])[0].detach()
        self.camera_token = encoder.camera_token[0].detach()  # (2, C): reference view, every other view
        self.blocks = [
            FastBlock(b, settings, exact_projection=i >= len(encoder.blocks) - 2) for i, b in enumerate(encoder.blocks)
        ]
        self.layers_across = [block for i, block in enumerate(self.blocks) if self.config.is_global(i)]
        self.norm = Norm.of(encoder.norm)
        self.head = FastDepthHead(model.head, settings)
        self.camera, self.camera_encoder = (
            copy.deepcopy(part).float().eval() for part in (model.cam_dec, model.cam_enc)
        )

    def prepare(self, shape: Shape, device: torch.device) -> tuple[Prepared, dict[str, Any]]:
        """What depends only on the image sizes: packing, RoPE tables, position embeddings."""
        prepared = Prepared.of(shape, self.patch_size, 1, self.settings, device)
        head_dim = self.config.dim // self.config.heads
        positions = [patch_positions(*bucket.grid, 1, device) for bucket in prepared.packing.buckets]
        of_all = [patch_positions(*bucket.grid, 1, device) for bucket in prepared.whole.buckets]
        grids = [bucket.grid for bucket in prepared.packing.buckets]
        return prepared, {
            "within": [rope_table(each, head_dim, published=True) for each in positions],
            "across": [rope_table(each.clamp(max=1), head_dim, published=True) for each in of_all],
            "embeddings": [
                resize_position_embedding(self.position[:, 1:], *grid, offset=POSITION_OFFSET)[0].float()
                for grid in grids
            ],
            "views": torch.arange(prepared.whole.views, device=device),
        }

    def known(self, cameras: KnownCameras, prepared: Prepared) -> Known:
        """The camera tokens (S, C) of known cameras."""
        return (self.camera_encoder(encode_known(cameras, prepared.sizes))[0],)

    def with_known(self, prediction: Prediction, cameras: KnownCameras) -> Prediction:
        """The prediction adapted to the known cameras, see `network.with_known`."""
        return with_known(prediction, cameras)

    def run(
        self, images: Sequence[Tensor], known: Known | None, prepared: Prepared, fixed: dict[str, Any], engine: Engine
    ) -> FastOutput:
        """See `FastForm.run`; `known` (S, C) replaces the camera tokens."""
        with engine.stage("encoder"):
            tokens = self.patches.tokens(images, fixed["embeddings"], self.first, prepared)
        maps, camera = self._run_blocks(tokens, None if known is None else known[0], fixed, engine)
        del tokens
        with engine.stage("heads"):
            vectors = self.camera(prepared.by_view(camera).float())
            grids = [bucket.grid for bucket in prepared.packing.buckets]
            decoded = [self.head.decode(each, *grid) for each, grid in zip(maps, grids)]
        with engine.stage("input and output"):
            poses = pose.invert_rigid(pose.rotation_from_quaternion(vectors[:, 3:7]), vectors[:, :3])
            K = pose.usable_intrinsics(vectors[:, 7:], prepared.sizes)
            return FastOutput.of(prepared.packing, decoded, poses, K)

    def _run_blocks(
        self, tokens: Tokens, known: Tensor | None, fixed: dict[str, Any], engine: Engine
    ) -> tuple[list[list[Tensor]], list[Tensor]]:
        """Per bucket: the projected taps, (S_b, N, C_i) each, and the camera features (S_b, 2C)."""
        config, last = self.config, len(self.blocks) - 1
        frames = near = tokens.frames()
        maps: list[list[Tensor]] = [[] for _ in frames]
        reference = torch.zeros((), dtype=torch.long, device=tokens.x.device)
        operand = self.blocks[0].start(tokens.x, engine)
        for i, block in enumerate(self.blocks):
            if i == config.alternate_from - 1 and known is None:
                classes = tokens.prepared.by_view([each[:, 0] for each in frames])
                reference = choose_reference(classes[None], self.reference_view)[0]
            if i == config.alternate_from:  # the previous block did not apply this block's norm
                self._place_camera_tokens(tokens, known, reference, fixed)
                operand = block.start(tokens.x, engine)
            after = None if i in (last, config.alternate_from - 1) else self.blocks[i + 1].norm1
            across = config.is_global(i)
            operand = (block.across if across else block.within)(tokens, operand, engine, after)
            if not across and (i + 1 in config.taps or i in config.taps):
                near = [each.clone() for each in frames]
            if i in config.taps:
                with engine.stage("heads"):
                    for found, a, b in zip(maps, near, frames):
                        found.append(self._project(len(found), a, b, engine))
        return maps, [torch.cat([a[:, 0], b[:, 0]], dim=-1) for a, b in zip(near, frames)]

    def _place_camera_tokens(
        self, tokens: Tokens, known: Tensor | None, reference: Tensor, fixed: dict[str, Any]
    ) -> None:
        """Replace the class tokens by camera tokens. From here on there are RoPE and a reference view."""
        tokens.ropes, tokens.ropes_across = fixed["within"], fixed["across"]
        tokens.reference = tokens.prepared.places.index_select(0, reference[None])[0]
        if known is None:
            of_reference, of_others = self.camera_token
            known = torch.where((fixed["views"] == reference)[:, None], of_reference, of_others)
        for frames, views in zip(tokens.frames(), tokens.prepared.order):
            frames[:, 0] = known[views].to(frames.dtype)

    def _project(self, i: int, near: Tensor, frames: Tensor, engine: Engine) -> Tensor:
        norm = self.norm
        far, _ = engine.operators.norm_quant(frames.flatten(0, 1), norm.weight, norm.bias, norm.eps, False)
        return self.head.project(i, near, far.view_as(frames), 1, engine)
