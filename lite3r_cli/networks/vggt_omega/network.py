"""VGGT-Ω: an image encoder per view, then pairs of a block within a view and a block across views.

Five of the 24 blocks across views attend only among special tokens (register attention), the others among all tokens.
They have no RoPE: the blocks within views have already encoded positions in the tokens. Parameter names are those of
the published checkpoints. The first view's camera is the world frame; its special tokens differ from those of other
views.
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
from lite3r_cli.layers.heads.dpt import DPTConfig
from lite3r_cli.layers.seen import Seen
from lite3r_cli.layers.vit import ModulesOf
from lite3r_cli.networks.base import Network, Prediction
from lite3r_cli.networks.vggt_omega.parts import (
    ImageEncoder16,
    OneRoundCameraHead,
    PixelShuffleHead,
    RopePeriods,
    block,
    key_bias_mask,
    rope_periods,
)

REGISTERS = 16
SPECIALS = 1 + REGISTERS  # camera token, then registers


@dataclass(frozen=True)
class VGGTOmegaConfig:
    """Sizes of a VGGT-Ω."""

    dim: int = 1024
    pairs: int = 24  # pairs of a block within views and a block across views
    heads: int = 16
    encoder_depth: int = 24
    encoder_heads: int = 16
    register_pairs: tuple[int, ...] = (2, 6, 9, 14, 20)  # pairs whose cross-view block uses only special tokens
    taps: tuple[int, ...] = (4, 11, 17, 23)  # pairs whose outputs the dense head uses; includes the last pair
    head_features: int = 256
    head_stages: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    camera_depth: int = 4
    camera_heads: int = 16
    patch_size: int = 16

    @property
    def global_pairs(self) -> tuple[int, ...]:
        """The pairs whose cross-view block uses all tokens."""
        return tuple(i for i in range(self.pairs) if i not in self.register_pairs)


OMEGA_1B = VGGTOmegaConfig()


@dataclass(frozen=True)
class Tapped:
    """The input of the dense head, for one bucket of views."""

    taps: list[Tensor]  # four of (B, S_b, N, 2C)
    grid: tuple[int, int]  # patches (h, w)


@dataclass(frozen=True)
class OmegaOutput:
    """The raw output for equally sized views, in the original conventions (pixel centres at integers)."""

    depth: Tensor  # (B, S, H, W)
    confidence: Tensor  # (B, S, H, W), above 1
    vectors: Tensor  # (B, S, 9): cam_from_world translation, quaternion, vertical and horizontal field of view
    special: Tensor  # (B, S, 17, 2C), special tokens after the last pair: within-view half, across-view half


class OmegaAggregator(nn.Module):
    """Image encoder, then pairs of a block within each view and a block across views (all tokens or special tokens)."""

    def __init__(self, config: VGGTOmegaConfig):
        super().__init__()
        self.config = config
        dim = config.dim
        self.patch_embed = ImageEncoder16(dim, config.encoder_depth, config.encoder_heads, config.patch_size)
        self.camera_token = nn.Parameter(torch.randn(1, 2, 1, dim) * 1e-6)  # first view, every other view
        self.register_token = nn.Parameter(torch.randn(1, 2, REGISTERS, dim) * 1e-6)
        self.rope_embed = RopePeriods(dim // config.heads)
        self.frame_blocks, self.inter_frame_blocks = (
            ModulesOf(block(dim, config.heads, qk_norm=True) for _ in range(config.pairs)) for _ in range(2)
        )

    def embed(self, images: Tensor, views: Sequence[int], seen: Tensor | None = None) -> Tensor:
        """Images (B, S_b, 3, H, W) in [0, 1] of the views with indices `views` → tokens (B, S_b, 17 + N, C)."""
        patches = self.patch_embed(bk.normalise(images).flatten(0, 1), seen).unflatten(0, images.shape[:2])
        kind = torch.tensor([min(i, 1) for i in views], device=images.device)
        special = torch.cat([self.camera_token, self.register_token], dim=2)[:, kind].expand(len(images), -1, -1, -1)
        return torch.cat([special.to(patches.dtype), patches], dim=2)

    def forward(
        self,
        images: Sequence[Tensor],
        groups: Sequence[Sequence[int]],
        unseen: Sequence[Tensor | None] | None = None,
    ) -> tuple[list[Tapped], list[Tensor]]:
        """Images (B, S_b, 3, H, W) in [0, 1] per bucket, with view indices `groups`. `unseen` masks pixels without
        scene content (H, W) per view; patches of only such pixels are not used as keys.

        Returns the features of each bucket, and its special tokens after the last pair (B, S_b, 17, 2C).
        """
        config = self.config
        grids = [(im.shape[-2] // config.patch_size, im.shape[-1] // config.patch_size) for im in images]
        ropes = [self.rope_embed.table(*grid, SPECIALS) for grid in grids]
        seen = Seen.of(unseen, groups, grids)
        rows = Seen.rows(seen, len(groups))
        x = [self.embed(im, views, row) for im, views, row in zip(images, groups, rows)]
        frames = (Frames(b.shape[1], b.shape[2], SPECIALS, grid) for b, grid in zip(x, grids))
        first = [i for group in groups for i in group].index(0)
        across = (pair.attn for i, pair in enumerate(self.inter_frame_blocks) if i in config.global_pairs)
        set_frames(across, frames, first, x[0].device, seen)
        taps: list[list[Tensor]] = [[] for _ in x]
        for i, (within, between) in enumerate(zip(self.frame_blocks, self.inter_frame_blocks)):
            near = bk.run_each(within, x, ropes, seen)
            if i in config.register_pairs:
                special = bk.run_packed(between, [b[:, :, :SPECIALS] for b in near], None)
                x = [torch.cat([s, b[:, :, SPECIALS:]], dim=2) for s, b in zip(special, near)]
            else:
                x = bk.run_packed(between, near, None, seen)
            if i in config.taps:
                for tap, a, b in zip(taps, near, x):
                    tap.append(torch.cat([a[:, :, SPECIALS:], b[:, :, SPECIALS:]], dim=-1))
        last = [torch.cat([a[:, :, :SPECIALS], b[:, :, :SPECIALS]], dim=-1) for a, b in zip(near, x)]
        return [Tapped(*pair) for pair in zip(taps, grids)], last


class VGGTOmega(Network):
    """The network. `head_frames` may be set before a prediction."""

    def __init__(self, config: VGGTOmegaConfig = OMEGA_1B, name: str = "vggt-omega"):
        super().__init__()
        self.name, self.config, self.patch_size = name, config, config.patch_size
        self.compute_dtype = torch.float32
        self.head_frames: int | None = None  # views the dense head processes at a time; None: depends on the device
        self.aggregator = OmegaAggregator(config)
        self.camera_head = OneRoundCameraHead(2 * config.dim, config.camera_depth, config.camera_heads)
        dense = DPTConfig(2 * config.dim, config.head_features, config.head_stages, double_position=True)
        self.dense_head = PixelShuffleHead(dense)

    def constants(self) -> dict[str, Tensor]:
        """The untrained buffers of the published checkpoints, with their values."""
        found = {}
        for name, buffer in self.named_buffers():
            leaf = name.rsplit(".", 1)[-1]
            if leaf == "bias_mask":
                found[name] = key_bias_mask(len(buffer) // 3)
            elif leaf == "periods":
                found[name] = rope_periods(4 * len(buffer))
        return found

    def encode(
        self,
        images: Sequence[Tensor],
        groups: Sequence[Sequence[int]],
        unseen: Sequence[Tensor | None] | None = None,
    ) -> tuple[list[Tapped], list[Tensor]]:
        """Images (B, S_b, 3, H, W) in [0, 1] per bucket, with view indices `groups` → the features of each bucket for
        the heads, and the camera features.
        """
        with bk.trunk_precision(images[0].device, self.compute_dtype):
            result: tuple[list[Tapped], list[Tensor]] = self.aggregator(images, groups, unseen)
            return result

    def decode_depth(self, features: Tapped) -> tuple[Tensor, Tensor]:
        """Depth and confidence (above 1) of one bucket, each (B, S_b, H, W)."""
        grid = features.grid
        raw = bk.in_chunks(lambda t: self.dense_head([x.float() for x in t], *grid), features.taps, self.head_frames)
        depth, confidence = raw.unflatten(0, features.taps[0].shape[:2]).exp().unbind(2)
        return depth, 1 + confidence

    def forward(self, images: Tensor) -> OmegaOutput:
        """The raw output for equally sized views (B, S, 3, H, W) in [0, 1]."""
        (features,), (special,) = self.encode([images], [range(images.shape[1])])
        return OmegaOutput(*self.decode_depth(features), self.camera_head(special.float()), special)

    @torch.inference_mode()
    def predict(self, images: Sequence[Tensor], unseen: Sequence[Tensor | None] | None = None) -> Prediction:
        """Depth and cameras of S images, each (3, H, W) float32 RGB in [0, 1], H and W multiples of the patch size.
        `unseen` masks pixels without scene content (H, W) per image; patches of only such pixels are not used as keys.
        """
        groups = bk.group_by_size(images)
        device = self.aggregator.camera_token.device
        stacks = [torch.stack([images[i] for i in g])[None].to(device) for g in groups]
        features, special = self.encode(stacks, groups, unseen)
        vectors = self.camera_head(bk.in_view_order([t.float() for t in special], groups))[0]
        size = torch.tensor([list(im.shape[-2:]) for im in images], dtype=torch.float32, device=device)
        depth: list[Tensor] = [vectors.new_empty(0)] * len(images)
        confidence = list(depth)
        for group, bucket in zip(groups, features):
            for i, d, c in zip(group, *(self.placed(maps[0]) for maps in self.decode_depth(bucket))):
                depth[i], confidence[i] = d, c
        poses, K = pose.cameras(vectors, size)
        return Prediction(depth, confidence, poses.cpu(), K.cpu())
