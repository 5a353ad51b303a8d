"""MapAnything on the fast path. The scene token is the first row of the token buffer: a bucket of its own, which blocks
within views leave as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lite3r_cli.attention.tiling import Frames
from lite3r_cli.engine.fast_outputs import FastOutput
from lite3r_cli.engine.layers import Engine, FastBlock, Norm, Prepared, Settings, Tokens, encode, normed
from lite3r_cli.engine.operators import biased
from lite3r_cli.engine.packing import Bucket, Packing, Shape
from lite3r_cli.engine.patches import Patches
from lite3r_cli.engine.runner import FastForm, Known
from lite3r_cli.engine.sparse_layers import Plans
from lite3r_cli.engine.twins import Operand
from lite3r_cli.layers.heads import pose
from lite3r_cli.layers.vit import resize_position_embedding
from lite3r_cli.networks.base import KnownCameras
from lite3r_cli.networks.map_anything.conditions import conditions_from, embed_given, prepare
from lite3r_cli.networks.map_anything.fast_head import FastDenseHead
from lite3r_cli.networks.map_anything.heads import DenseMaps
from lite3r_cli.networks.map_anything.mask import intrinsics_from_rays, shows_surface
from lite3r_cli.networks.map_anything.network import (
    POSITION_OFFSET,
    SMALLEST_FOCAL,
    MapAnything,
    frames_of,
)

GIVEN = (
    "ray_dirs_encoder",
    "depth_encoder",
    "depth_scale_encoder",
    "cam_rot_encoder",
    "cam_trans_encoder",
    "cam_trans_scale_encoder",
)


@dataclass(frozen=True)
class ScenePacking(Packing):
    """The scene token in the first row, then the tokens of all views."""

    @classmethod
    def around(cls, inner: Packing) -> ScenePacking:
        """The packing of the same views after one more row."""
        views = [replace(bucket, start=bucket.start + 1) for bucket in inner.buckets]
        return cls((Bucket((inner.views,), (0, 0), 1, 0), *views), inner.specials)

    @property
    def frames(self) -> tuple[Frames, ...]:
        """The scene token counts as a special token of the first view, as on the ordinary path."""
        views = self.buckets[1:]
        return tuple(frames_of([len(b.views) for b in views], [b.grid for b in views], self.specials))


class FastMapAnything(FastForm):
    """The fast form of a loaded MapAnything; the original may be freed afterwards."""

    def __init__(self, model: MapAnything, settings: Settings):
        encoder, sharing, config = model.encoder.model, model.info_sharing, model.config
        self.config, self.settings, self.patch_size, self.specials = config, settings, model.patch_size, model.specials
        self.patches = Patches(encoder.patch_embed, settings.dtype, settings.kernels)
        self.position = encoder.pos_embed.detach().float()
        self.first = (encoder.cls_token + encoder.pos_embed[:, :1])[0].detach()  # (1, E)
        self.encoder = [FastBlock(b, settings) for b in encoder.blocks]
        self.encoder_norm = Norm.of(encoder.norm) if isinstance(encoder.norm, nn.LayerNorm) else None
        self.fusion_norm, self.norm = Norm.of(model.fusion_norm_layer), Norm.of(sharing.norm)
        self.project: tuple[Tensor, Tensor] | None = None  # from the encoder's width to that of the blocks
        if isinstance(sharing.proj_embed, nn.Linear):
            weight, bias = biased(sharing.proj_embed)
            self.project = weight.to(settings.dtype), bias.to(settings.dtype)
        self.scene, self.mark = model.scale_token.detach()[None], sharing.view_pos_table.detach()  # (1, E), (1, C)
        blocks = sharing.self_attention_blocks
        self.layers = [FastBlock(b, settings, exact_projection=i >= len(blocks) - 2) for i, b in enumerate(blocks)]
        self.layers_across = [layer for i, layer in enumerate(self.layers) if config.is_global(i)]
        self.head = FastDenseHead(model.dense_head, settings)
        self.pose_head, self.scale_head = (
            copy.deepcopy(part).float().eval() for part in (model.pose_head, model.scale_head)
        )
        self.given = {name: copy.deepcopy(getattr(model, name)).float().eval() for name in GIVEN}

    def prepare(self, shape: Shape, device: torch.device) -> tuple[Prepared, dict[str, Any]]:
        """What depends only on the image sizes: packings, position embeddings, the reference view."""
        inner = Prepared.of(shape, self.patch_size, self.specials, self.settings, device)
        packing = ScenePacking.around(inner.packing)
        plans = Plans(packing, self.settings.query_tiles, self.settings.crossover, device)
        numbers = torch.arange(packing.tokens, device=device, dtype=torch.int32)
        prepared = replace(inner, packing=packing, whole=packing, plans=plans, numbers=numbers)
        grids = [bucket.grid for bucket in inner.packing.buckets]
        return prepared, {
            "views": inner,
            "encoder": Prepared.of(shape, self.patch_size, 1, self.settings, device, reference=False),
            "embeddings": [
                resize_position_embedding(self.position[:, 1:], *grid, offset=POSITION_OFFSET)[0].float()
                for grid in grids
            ],
            "first": torch.zeros((), dtype=torch.long, device=device),
        }

    def known(self, cameras: KnownCameras, prepared: Prepared) -> Known:
        """The encoding of all known values (patches of all views, E), and the index of the reference view."""
        images = [torch.empty(3, int(h), int(w), device="meta") for h, w in prepared.sizes.tolist()]
        given = prepare(*conditions_from(cameras, images, self.scene.device))
        told = []
        for bucket in prepared.packing.buckets[1:]:
            shape = (len(bucket.views), bucket.grid[0] * bucket.grid[1], self.config.encoder_dim)
            told.append(embed_given(self.given, list(bucket.views), given).expand(1, *shape)[0].flatten(0, 1))
        return torch.cat(told), torch.tensor(given.reference, device=self.scene.device)

    def run(
        self, images: Sequence[Tensor], known: Known | None, prepared: Prepared, fixed: dict[str, Any], engine: Engine
    ) -> FastOutput:
        """Images (S_b, 3, H, W) of each size, float32 in [0, 1], on the device."""
        inner: Prepared = fixed["views"]
        with engine.stage("encoder"):
            first, fused = self._encode(images, known, fixed, Engine(engine.settings, engine.operators))
        reference = fixed["first"] if known is None else known[1]
        maps = [[self.head.project(0, part)] for part in fused]
        tokens = self._tokens(first, fused, reference, prepared, inner)
        del first, fused
        last, scene = self._share(tokens, maps, engine)
        del tokens
        with engine.stage("heads"):
            metric = self.scale_head(scene.float())
            found = [self._cameras(part) for part in last]
            quaternion, translation = (inner.by_view(list(parts)) for parts in zip(*found))
            decoded = [self._decode(each, b.grid, metric) for each, b in zip(maps, inner.packing.buckets)]
        with engine.stage("input and output"):
            rotation = pose.rotation_from_quaternion(quaternion)
            K = inner.by_view([intrinsics for _, _, intrinsics in decoded])
            poses = pose.invert_rigid(rotation, translation * metric)
            return FastOutput.of(inner.packing, [(depth, sure) for depth, sure, _ in decoded], poses, K)

    # -- tokens -----------------------------------------------------------------------------------------------------

    def _encode(
        self, images: Sequence[Tensor], known: Known | None, fixed: dict[str, Any], engine: Engine
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Per bucket: the class tokens (S_b, 1, E), and the patch tokens with what is known (S_b, N, E), normed."""
        tokens = self.patches.tokens(images, fixed["embeddings"], self.first, fixed["encoder"])
        encode(self.encoder, self.encoder_norm, tokens, engine)
        first = [frames[:, :1].clone() for frames in tokens.frames()]
        start = 0
        if known is not None:
            for frames in tokens.frames():
                patches = frames[:, 1:]
                count = patches.shape[0] * patches.shape[1]
                patches += known[0][start : start + count].view_as(patches).to(patches.dtype)
                start += count
        tokens.x = normed(tokens.x, self.fusion_norm, engine)
        return first, [frames[:, 1:] for frames in tokens.frames()]

    def _tokens(
        self, first: list[Tensor], fused: list[Tensor], reference: Tensor, prepared: Prepared, inner: Prepared
    ) -> Tokens:
        """The tokens that the blocks start with: the scene token, then those of each view, the reference view marked.
        `reference` is its index, a scalar.
        """

        def fitted(x: Tensor) -> Tensor:
            return x if self.project is None else F.linear(x, *self.project)

        like = fused[0]
        x = torch.empty(prepared.packing.tokens, self.config.dim, device=like.device, dtype=like.dtype)
        tokens = Tokens(x, prepared)
        x[:1] = fitted(self.scene.to(like.dtype))
        for frames, a, b, views in zip(tokens.frames()[1:], first, fused, inner.order):
            if self.specials:
                frames[:, : self.specials] = fitted(a)
            marked = (views == reference)[:, None, None] * self.mark
            torch.add(fitted(b), marked, out=frames[:, self.specials :])
            if self.specials:
                frames[:, : self.specials] += marked.to(like.dtype)
        tokens.reference = inner.places.index_select(0, reference[None])[0]
        return tokens

    def _share(self, tokens: Tokens, maps: list[list[Tensor]], engine: Engine) -> tuple[list[Tensor], Tensor]:
        """Run the blocks and append the projected taps of each bucket to `maps`. Returns the last patch tokens of each
        bucket (S_b, N, C) and the scene token (1, C), all normed.
        """

        def patches() -> list[Tensor]:
            rows = normed(tokens.x, self.norm, engine)
            return [bucket.frames(rows)[:, self.specials :] for bucket in tokens.packing.buckets[1:]]

        def tap(parts: list[Tensor]) -> None:
            with engine.stage("heads"):
                for found, part in zip(maps, parts):
                    found.append(self.head.project(len(found), part))

        with engine.stage("linear layers"):
            operand = self.layers[0].start(tokens.x, engine)
        for i, layer in enumerate(self.layers):
            after = self.layers[i + 1].norm1 if i + 1 < len(self.layers) else None
            if self.config.is_global(i):
                operand = layer.across(tokens, operand, engine, after)
            else:
                scene = tokens.x[:1].clone()
                operand = layer.within(tokens, operand, engine, after)
                _put_back(scene, tokens, operand, engine, after)
            if i in self.config.taps:
                tap(patches())
        last = patches()
        tap(last)
        return last, normed(tokens.x[:1], self.norm, engine)

    # -- outputs ----------------------------------------------------------------------------------------------------

    def _cameras(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Patch tokens (S, N, C) → world_from_cam quaternion (S, 4) and translation (S, 3), without metric scale."""
        step = self.settings.head_frames
        parts = [self.pose_head(tokens[i : i + step].float()) for i in range(0, len(tokens), step)]
        quaternion, translation = (torch.cat(column) for column in zip(*parts))
        return quaternion, translation

    def _decode(self, maps: list[Tensor], grid: tuple[int, int], metric: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Projected maps of S views → z-depth in metres, 0 for sky and edges; confidence, (S, H, W) both; K."""
        parts = []
        for first in range(0, len(maps[0]), self.settings.head_frames):
            raw = self.head.decode([m[first : first + self.settings.head_frames] for m in maps], *grid)
            found = DenseMaps.of(raw[None]).of_scene(0)
            K = pose.centres_at_half(intrinsics_from_rays(found.rays))
            for axis in (0, 1):  # not by a list of indices, which a graph capture cannot copy to the device
                K[:, axis, axis].clamp_(min=SMALLEST_FOCAL)
            points = found.rays * found.depth[..., None] * metric
            kept = torch.stack([shows_surface(p, logit > 0) for p, logit in zip(points, found.logit)])
            parts.append((torch.where(kept, points[..., 2], 0.0).clamp(min=0), found.confidence, K))
        depth, confidence, K = (torch.cat(column) for column in zip(*parts))
        return depth, confidence, K


def _put_back(scene: Tensor, tokens: Tokens, operand: Operand, engine: Engine, after: Norm | None) -> None:
    """Restore the scene token (1, C), and its row of the operand that the norm `after` made."""
    tokens.x[:1] = scene
    if after is None:
        return
    found = engine.operators.norm_quant(scene, after.weight, after.bias, after.eps, engine.settings.fp8)
    for target, values in zip(operand, found):
        if target is not None and values is not None:
            target[:1] = values
