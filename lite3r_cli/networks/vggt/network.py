"""VGGT (arXiv 2503.11651): a DINOv2 encoder per view, then pairs of a block within a view and a block across all views.

Parameter names are those of the published checkpoint, without its track head, which needs query points. The first
view's camera is the world frame; it has camera and register tokens different from those of the other views.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lite3r_cli.attention.module import set_frames
from lite3r_cli.attention.tiling import Frames
from lite3r_cli.layers import buckets as bk
from lite3r_cli.layers.heads import pose
from lite3r_cli.layers.heads.dpt import DPTConfig, DPTHead
from lite3r_cli.layers.image_encoder import REGISTERS, ImageEncoder
from lite3r_cli.layers.seen import Seen
from lite3r_cli.layers.view_shards import first_view, sizes_of_all, whole
from lite3r_cli.layers.vit import Block, ModulesOf, patch_positions, rope_table
from lite3r_cli.networks.base import Network, Prediction
from lite3r_cli.networks.vggt.camera_head import CameraHead

SPECIALS = 1 + REGISTERS  # camera token, then registers


@dataclass(frozen=True)
class VGGTConfig:
    """Sizes of a VGGT (arXiv 2503.11651)."""

    dim: int = 1024
    pairs: int = 24  # pairs of a block within views and a block across views
    heads: int = 16
    encoder_depth: int = 24
    encoder_heads: int = 16
    taps: tuple[int, ...] = (4, 11, 17, 23)  # pairs whose outputs the dense heads use; includes the last pair
    head_features: int = 256
    head_stages: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    camera_depth: int = 4
    camera_heads: int = 16
    point_head: bool = True
    patch_size: int = 14
    position_grid: int = 37


VGGT_1B = VGGTConfig()


@dataclass(frozen=True)
class VGGTOutput:
    """The raw output for equally sized views, in the original conventions (pixel centres at integers)."""

    depth: Tensor  # (B, S, H, W)
    confidence: Tensor  # (B, S, H, W), above 1
    pose_rounds: list[Tensor]  # (B, S, 9) each: cam_from_world translation, quaternion, vertical and horizontal fov
    last_tokens: Tensor  # (B, S, 5 + N, 2C) after the last pair: within-view half, across-view half
    points: Tensor | None = None  # (B, S, H, W, 3) in the world frame
    points_confidence: Tensor | None = None  # (B, S, H, W), above 1


@dataclass(frozen=True)
class Features:
    """The input of the dense heads, for one bucket of views."""

    taps: list[Tensor]  # four of (B, S_b, N, 2C)
    grid: tuple[int, int]  # patches (h, w)


class Aggregator(nn.Module):
    """Image encoder, then pairs of a block within each view and one across all views."""

    def __init__(self, config: VGGTConfig):
        super().__init__()
        self.config = config
        dim = config.dim
        self.patch_embed = ImageEncoder(
            dim,
            config.encoder_depth,
            config.encoder_heads,
            config.patch_size,
            config.position_grid,
            mask_token=True,
        )
        self.camera_token = nn.Parameter(torch.randn(1, 2, 1, dim) * 1e-6)  # first view, every other view
        self.register_token = nn.Parameter(torch.randn(1, 2, REGISTERS, dim) * 1e-6)
        self.frame_blocks, self.global_blocks = (
            ModulesOf(
                Block(dim, config.heads, norm_eps=1e-5, qk_norm=True, layer_scale=0.01) for _ in range(config.pairs)
            )
            for _ in range(2)
        )

    def embed(self, images: Tensor, views: Sequence[int], seen: Tensor | None = None) -> Tensor:
        """Images (B, S_b, 3, H, W) in [0, 1] of the views with indices `views` → tokens (B, S_b, 5 + N, C)."""
        batch = len(images)
        patches = self.patch_embed(bk.normalise(images).flatten(0, 1), seen).unflatten(0, images.shape[:2])
        kind = torch.tensor([min(first_view() + i, 1) for i in views], device=images.device)
        special = torch.cat([self.camera_token, self.register_token], dim=2)[:, kind].expand(batch, -1, -1, -1)
        return torch.cat([special.to(patches.dtype), patches], dim=2)

    def forward(
        self,
        images: Sequence[Tensor],
        groups: Sequence[Sequence[int]],
        unseen: Sequence[Tensor | None] | None = None,
    ) -> tuple[list[Features], list[Tensor]]:
        """Images (B, S_b, 3, H, W) in [0, 1] per bucket, with view indices `groups`. `unseen` masks pixels without
        scene content (H, W) per view; patches of only such pixels are not used as keys.

        Returns the features of each bucket, and its special tokens after the last pair (B, S_b, 5, 2C).
        """
        config = self.config
        grids = [(im.shape[-2] // config.patch_size, im.shape[-1] // config.patch_size) for im in images]
        positions = [patch_positions(*grid, SPECIALS, images[0].device) for grid in grids]
        ropes = [rope_table(p, config.dim // config.heads, published=True) for p in positions]
        packed = bk.pack_ropes(ropes, [len(g) for g in groups])
        seen = Seen.of(unseen, groups, grids)
        rows = Seen.rows(seen, len(groups))
        x = [self.embed(im, views, row) for im, views, row in zip(images, groups, rows)]
        frames = (Frames(b.shape[1], b.shape[2], SPECIALS, grid) for b, grid in zip(x, grids))
        first = [i for group in groups for i in group].index(0)
        set_frames((block.attn for block in self.global_blocks), frames, first, x[0].device, seen)
        taps: list[list[Tensor]] = [[] for _ in x]
        for i, (within, across) in enumerate(zip(self.frame_blocks, self.global_blocks)):
            near = bk.run_each(within, x, ropes, seen)
            x = bk.run_packed(across, near, packed, seen)
            if i in config.taps:
                for tap, a, b in zip(taps, near, x):
                    tap.append(torch.cat([a[:, :, SPECIALS:], b[:, :, SPECIALS:]], dim=-1))
        special = [torch.cat([a[:, :, :SPECIALS], b[:, :, :SPECIALS]], dim=-1) for a, b in zip(near, x)]
        return [Features(*pair) for pair in zip(taps, grids)], special


class VGGT(Network):
    """The network. `head_frames` may be set before a prediction."""

    def __init__(self, config: VGGTConfig = VGGT_1B, name: str = "vggt"):
        super().__init__()
        self.name, self.config, self.patch_size = name, config, config.patch_size
        self.compute_dtype = torch.float32
        self.head_frames: int | None = None  # views that a dense head processes at a time; None: depends on the device
        dense = (2 * config.dim, config.head_features, config.head_stages)
        self.aggregator = Aggregator(config)
        self.camera_head = CameraHead(2 * config.dim, config.camera_depth, config.camera_heads)
        self.depth_head = DPTHead(DPTConfig(*dense, 2, relu_skip=True, double_position=True), config.patch_size)
        if config.point_head:
            self.point_head = DPTHead(DPTConfig(*dense, 4, relu_skip=True, double_position=True), config.patch_size)

    @property
    def trunk(self) -> nn.Module:
        """The part whose matrix products may run in half precision; the rest stays float32."""
        return self.aggregator

    def encode(
        self,
        images: Sequence[Tensor],
        groups: Sequence[Sequence[int]],
        unseen: Sequence[Tensor | None] | None = None,
    ) -> tuple[list[Features], list[Tensor]]:
        """Images (B, S_b, 3, H, W) in [0, 1] per bucket, with view indices `groups` → the features of each bucket for
        the heads, and the camera features.
        """
        with bk.trunk_precision(images[0].device, self.compute_dtype):
            result: tuple[list[Features], list[Tensor]] = self.aggregator(images, groups, unseen)
            return result

    def decode_depth(self, features: Features) -> tuple[Tensor, Tensor]:
        """Depth and confidence (above 1) of one bucket, each (B, S_b, H, W)."""
        depth, confidence = self._dense(self.depth_head, features).exp().unbind(2)
        return depth, 1 + confidence

    def decode_points(self, features: Features) -> tuple[Tensor, Tensor]:
        """World points (B, S_b, H, W, 3) and their confidence (B, S_b, H, W). Requires `config.point_head`."""
        raw = self._dense(self.point_head, features)
        points = raw[:, :, :3].permute(0, 1, 3, 4, 2)
        return points.sign() * points.abs().expm1(), 1 + raw[:, :, 3].exp()

    def _dense(self, head: DPTHead, features: Features) -> Tensor:
        grid = features.grid
        raw = bk.in_chunks(lambda t: head([x.float() for x in t], *grid), features.taps, self.head_frames)
        result: Tensor = raw.unflatten(0, features.taps[0].shape[:2])
        return result

    def forward(self, images: Tensor, points: bool = False) -> VGGTOutput:
        """The raw output for equally sized views (B, S, 3, H, W) in [0, 1]; `points` adds the point maps."""
        (features,), (special,) = self.encode([images], [range(images.shape[1])])
        rounds = self.camera_head(special[:, :, 0].float())
        point_map = self.decode_points(features) if points else (None, None)
        last = torch.cat([special, features.taps[-1]], dim=2)
        return VGGTOutput(*self.decode_depth(features), rounds, last, *point_map)

    @torch.inference_mode()
    def predict(self, images: Sequence[Tensor], unseen: Sequence[Tensor | None] | None = None) -> Prediction:
        """Depth and cameras of S images, each (3, H, W) float32 RGB in [0, 1], H and W multiples of the patch size.
        `unseen` masks pixels without scene content (H, W) per image; patches of only such pixels are not used as keys.
        """
        groups = bk.group_by_size(images)
        device = self.aggregator.camera_token.device
        stacks = [torch.stack([images[i] for i in g])[None].to(device) for g in groups]
        features, special = self.encode(stacks, groups, unseen)
        vectors = self.camera_head(whole(bk.in_view_order([t[:, :, 0].float() for t in special], groups)))[-1][0]
        size = torch.tensor(sizes_of_all(images), dtype=torch.float32, device=device)
        depth: list[Tensor] = [vectors.new_empty(0)] * len(images)
        confidence = list(depth)
        for group, bucket in zip(groups, features):
            for i, d, c in zip(group, *(self.placed(maps[0]) for maps in self.decode_depth(bucket))):
                depth[i], confidence[i] = d, c
        poses, K = pose.cameras(vectors, size)
        return Prediction(depth, confidence, poses.cpu(), K.cpu())
