"""`mini` on the fast path: tokens as rows (T, C) that every block changes in place."""

from __future__ import annotations

import copy
import math
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
from lite3r_cli.layers.vit import patch_positions, resize_position_embedding, rope_table
from lite3r_cli.networks.base import KnownCameras
from lite3r_cli.networks.mini.known import CameraHints
from lite3r_cli.networks.mini.network import (
    LARGEST_LOG_CONFIDENCE,
    SKY,
    Mini,
    cam_from_world,
    intrinsics_from_log_focal,
)


class FastMini(FastForm):
    """The fast form of a loaded `mini`; the original may be freed afterwards."""

    def __init__(self, model: Mini, settings: Settings):
        self.config, self.settings, self.patch_size = model.config, settings, model.patch_size
        self.patches = Patches(model.patch_embed, settings.dtype, settings.kernels)
        self.position = model.pos_embed.detach().float()
        self.first = (model.cls_token + model.pos_embed[:, :1])[0].detach()
        self.camera_token = model.camera_token.detach()  # (2, C): reference view, every other view
        self.blocks = [
            FastBlock(b, settings, exact_projection=i >= len(model.blocks) - 2) for i, b in enumerate(model.blocks)
        ]
        self.layers_across = [block for i, block in enumerate(self.blocks) if self.config.is_global(i)]
        self.norm = Norm.of(model.norm)
        self.head = FastDepthHead(model.head, settings)
        self.camera = copy.deepcopy(model.camera).float().eval()
        self.known_camera = copy.deepcopy(model.known_camera).float().eval() if model.config.known_cameras else None

    def prepare(self, shape: Shape, device: torch.device) -> tuple[Prepared, dict[str, Any]]:
        """What depends only on the image sizes: packing, RoPE tables, position embeddings."""
        prepared = Prepared.of(shape, self.patch_size, 1, self.settings, device)
        head_dim, grids = self.config.dim // self.config.heads, [bucket.grid for bucket in prepared.packing.buckets]
        first = torch.arange(prepared.whole.views, device=device) == 0
        return prepared, {
            "ropes": [rope_table(patch_positions(*grid, 1, device), head_dim) for grid in grids],
            "across": [rope_table(patch_positions(*b.grid, 1, device), head_dim) for b in prepared.whole.buckets],
            "embeddings": [resize_position_embedding(self.position[:, 1:], *grid)[0].float() for grid in grids],
            "camera": torch.where(first[:, None], *self.camera_token),  # (S, C)
            "reference": torch.tensor(prepared.whole.places[0], device=device),
        }

    def known(self, cameras: KnownCameras, prepared: Prepared) -> Known:
        """The encoding (S, C) that is added to the camera tokens; of networks that ignore known cameras nothing."""
        if self.known_camera is None:
            return (torch.zeros_like(prepared.sizes[:, :1].float()),)
        return (self.known_camera(CameraHints.of(cameras, prepared.sizes))[0],)

    def run(
        self, images: Sequence[Tensor], known: Known | None, prepared: Prepared, fixed: dict[str, Any], engine: Engine
    ) -> FastOutput:
        """Images (S_b, 3, H, W) of each size, float32 in [0, 1], on the device."""
        with engine.stage("encoder"):
            tokens = self.patches.tokens(images, fixed["embeddings"], self.first, prepared)
        maps, camera = self._run_blocks(
            tokens, fixed["camera"] if known is None else fixed["camera"] + known[0], fixed, engine
        )
        del tokens
        with engine.stage("heads"):
            decoded_cameras = self.camera(prepared.by_view(camera).float()[None])
            rotation, centre, log_focal = (values[0] for values in decoded_cameras)
            grids = [bucket.grid for bucket in prepared.packing.buckets]
            decoded = [_without_sky(*self.head.decode(each, *grid)) for each, grid in zip(maps, grids)]
        with engine.stage("input and output"):
            K = intrinsics_from_log_focal(log_focal, *prepared.sizes.unbind(1))
            return FastOutput.of(prepared.packing, decoded, cam_from_world(rotation, centre), K)

    def _run_blocks(
        self, tokens: Tokens, camera_tokens: Tensor, fixed: dict[str, Any], engine: Engine
    ) -> tuple[list[list[Tensor]], list[Tensor]]:
        """Per bucket: the projected taps, (S_b, N, C_i) each, and the camera features (S_b, 2C)."""
        config, last = self.config, len(self.blocks) - 1
        frames = near = tokens.frames()
        maps: list[list[Tensor]] = [[] for _ in frames]
        camera: list[Tensor] = []
        operand = self.blocks[0].start(tokens.x, engine)
        for i, block in enumerate(self.blocks):
            if i == config.alternate_from:
                tokens.ropes, tokens.ropes_across = fixed["ropes"], fixed["across"]
                tokens.reference = fixed["reference"]
                for each, views in zip(frames, tokens.prepared.order):
                    each[:, 0] += camera_tokens[views].to(each.dtype)
                operand = block.start(tokens.x, engine)  # the previous block did not apply this block's norm
            after = None if i in (last, config.alternate_from - 1) else self.blocks[i + 1].norm1
            across = config.is_global(i)
            operand = (block.across if across else block.within)(tokens, operand, engine, after)
            if not across and (i + 1 in config.taps or i in config.taps):
                near = [self._normed(each, engine) for each in frames]
            if i in config.taps:
                with engine.stage("heads"):
                    far = [self._normed(each, engine) for each in frames]
                    for found, a, b in zip(maps, near, far):
                        found.append(self.head.project(len(found), a, b, 1, engine))
                    camera = [torch.cat([a[:, 0], b[:, 0]], dim=-1) for a, b in zip(near, far)]
        return maps, camera

    def _normed(self, frames: Tensor, engine: Engine) -> Tensor:
        norm = self.norm
        found, _ = engine.operators.norm_quant(frames.flatten(0, 1), norm.weight, norm.bias, norm.eps, False)
        return found.view_as(frames)


def _without_sky(depth: Tensor, confidence: Tensor) -> tuple[Tensor, Tensor]:
    """Depth and confidence of the head → as in `Mini.predict`: 0 for sky, and limited confidence. In place."""
    solid = depth < math.exp(SKY)
    return depth.mul_(solid), confidence.clamp_(max=1 + math.exp(LARGEST_LOG_CONFIDENCE)).mul_(solid)
