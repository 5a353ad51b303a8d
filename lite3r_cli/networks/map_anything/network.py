"""MapAnything (arXiv 2509.13414): a DINOv2 encoder per view, then blocks that alternate between all views and one view.

Encodings of known values (rays, depth, poses, metric scale) are added to the patch tokens of their view. A fixed vector
marks the reference view. One token of the whole scene predicts the metric scale. Parameter names are those of the
published checkpoints; `networks/map_anything/facts.py` distinguishes the two generations.
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
from lite3r_cli.layers.seen import Seen
from lite3r_cli.layers.vit import Block, ModulesOf, PatchEmbed, resize_position_embedding
from lite3r_cli.networks.base import KnownCameras, Network, Prediction
from lite3r_cli.networks.map_anything.conditions import (
    Conditions,
    DenseEncoder,
    GlobalEncoder,
    Prepared,
    conditions_from,
    embed_given,
    prepare,
)
from lite3r_cli.networks.map_anything.heads import DenseHead, DenseMaps, PoseHead, ScaleHead
from lite3r_cli.networks.map_anything.mask import intrinsics_from_rays, shows_surface

EPS = 1e-6  # of every LayerNorm
SMALLEST_FOCAL = 1.0  # pixels; no real camera has less
POSITION_OFFSET = 0.1  # of DINOv2's position embedding, in patches


@dataclass(frozen=True)
class Sizes:
    """The sizes that both generations have."""

    encoder_dim: int = 1536
    encoder_depth: int = 24
    encoder_heads: int = 24
    dim: int = 1536
    depth: int = 16  # even blocks across all views, odd ones within a view
    heads: int = 24
    taps: tuple[int, int] = (7, 11)  # blocks whose outputs the dense head uses, besides its input and the last tokens
    head_features: int = 256
    head_stages: tuple[int, int, int, int] = (96, 192, 384, 768)
    dense_widths: tuple[int, int, int] = (588, 768, 1024)  # encoders of rays and depth
    global_widths: tuple[int, int, int] = (128, 256, 512)  # encoders of poses and scales
    patch_size: int = 14
    position_grid: int = 37

    def is_global(self, i: int) -> bool:
        """Whether block i attends across views."""
        return i % 2 == 0


@dataclass(frozen=True)
class MapAnythingConfig(Sizes):
    """V1.1: gated MLPs, LayerScale in all blocks; the encoder's class token is kept."""


@dataclass(frozen=True)
class MapAnythingV1Config(Sizes):
    """V1: the encoder ends with a norm and a projection; its class token is dropped."""

    encoder_dim: int = 1024
    encoder_heads: int = 16
    dim: int = 768
    depth: int = 24
    heads: int = 12
    taps: tuple[int, int] = (11, 17)


V1_1, V1 = MapAnythingConfig(), MapAnythingV1Config()


@dataclass(frozen=True)
class Features:
    """The input of the heads for one bucket of views: patch tokens (B, S_b, N, C), first those of the encoder."""

    maps: list[Tensor]
    grid: tuple[int, int]  # patches (h, w)
    seen: Tensor | None = None  # (S_b, N) bool, the patches used as keys; None: all

    def seen_pixels(self, patch: int) -> Tensor | None:
        """Mask (S_b, H, W) of the pixels of `seen`, for the patch size `patch`; None: all."""
        if self.seen is None:
            return None
        pixels = self.seen.to(self.maps[0].device).unflatten(1, self.grid)
        result: Tensor | None = pixels.repeat_interleave(patch, 1).repeat_interleave(patch, 2)
        return result


@dataclass(frozen=True)
class MapAnythingOutput:
    """The raw output for equally sized views."""

    maps: DenseMaps  # (B, S, …), depth without the metric scale
    quaternion: Tensor  # (B, S, 4) world_from_cam, scalar last
    translation: Tensor  # (B, S, 3), without the metric scale
    metric: Tensor  # (B,), metres per unit
    features: Features
    scale_token: Tensor  # (B, C)


class Dino(nn.Module):
    """DINOv2 without registers: normalised images (B, 3, H, W) → class token (B, 1, C) and patch tokens (B, N, C)."""

    def __init__(self, config: Sizes):
        super().__init__()
        first = isinstance(config, MapAnythingV1Config)
        dim = config.encoder_dim
        self.patch_size = config.patch_size
        self.patch_embed = PatchEmbed(dim, config.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + config.position_grid**2, dim) * 0.02)
        self.blocks = ModulesOf(
            Block(dim, config.encoder_heads, norm_eps=EPS, swiglu=not first) for _ in range(config.encoder_depth)
        )
        self.norm = nn.LayerNorm(dim, eps=EPS) if first else nn.Identity()

    def forward(self, images: Tensor, seen: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Only patches in the mask `seen` (B, N) are used as keys; None: all."""
        rows, columns = images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size
        x = self.patch_embed(images)
        x = x + resize_position_embedding(self.pos_embed[:, 1:], rows, columns, offset=POSITION_OFFSET)
        x = torch.cat([(self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1), x], dim=1)
        for block in self.blocks:
            x = bk.run_within(block, x, None, seen)
        x = self.norm(x)
        return x[:, :1], x[:, 1:]


class Encoder(nn.Module):
    """Gives the image encoder its name in the checkpoints."""

    def __init__(self, config: Sizes):
        super().__init__()
        self.model = Dino(config)

    def forward(self, images: Tensor, seen: Tensor | None = None) -> tuple[Tensor, Tensor]:
        result: tuple[Tensor, Tensor] = self.model(images, seen)
        return result


class InfoSharing(nn.Module):
    """Blocks that alternate between all views and one view, over the tokens of all views and one scene token."""

    view_pos_table: Tensor

    def __init__(self, config: Sizes):
        super().__init__()
        first = isinstance(config, MapAnythingV1Config)
        self.config = config
        self.proj_embed = nn.Linear(config.encoder_dim, config.dim) if first else nn.Identity()
        self.register_buffer("view_pos_table", reference_mark(config.dim))
        self.self_attention_blocks = ModulesOf(
            Block(config.dim, config.heads, norm_eps=EPS, layer_scale=None if first else 1e-5, swiglu=not first)
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.dim, eps=EPS)

    def forward(
        self, scale: Tensor, views: Sequence[Tensor], reference: tuple[int, int], specials: int, seen: Seen | None
    ) -> tuple[list[list[Tensor]], Tensor]:
        """Scene token `scale` (B, 1, E) and tokens (B, S_b, specials + N, E) per bucket → per bucket the tapped and the
        last patch tokens, and the scene token (B, C). `reference` is the (bucket, index) of the reference view.
        """
        scale = self.proj_embed(scale)[:, None]  # (B, 1, 1, C), a bucket of its own
        x = [self.proj_embed(view) for view in views]
        bucket, place = reference
        mark = torch.zeros(x[bucket].shape[1], 1, self.config.dim, device=scale.device)
        mark[place] = self.view_pos_table
        x[bucket] = x[bucket] + mark
        rows = None if seen is None else Seen([torch.ones(1, 0, dtype=torch.bool), *seen.buckets])
        taps: list[list[Tensor]] = [[] for _ in x]
        for i, block in enumerate(self.self_attention_blocks):
            if self.config.is_global(i):
                scale, *x = bk.run_packed(block, [scale, *x], None, rows)
            else:
                x = bk.run_each(block, x, [None] * len(x), seen)
            if i in self.config.taps:
                for tap, tokens in zip(taps, x):
                    tap.append(self.norm(tokens[:, :, specials:]))
        for tap, tokens in zip(taps, x):
            tap.append(self.norm(tokens[:, :, specials:]))
        return taps, self.norm(scale)[:, 0, 0]


def reference_mark(dim: int) -> Tensor:
    """The vector (1, dim) that is added to the reference view's tokens: row 0 of a sine-cosine table."""
    return torch.tensor([0.0, 1.0]).expand(dim // 2, 2).flatten()[None]


class MapAnything(Network):
    """The network. `head_frames` may be set before a prediction."""

    def __init__(self, config: MapAnythingConfig | MapAnythingV1Config = V1_1, name: str = "map-anything"):
        super().__init__()
        self.name, self.config, self.patch_size = name, config, config.patch_size
        self.compute_dtype = torch.float32
        self.head_frames: int | None = None  # views that the heads process at a time; None: depends on the device
        self.specials = 0 if isinstance(config, MapAnythingV1Config) else 1  # special tokens of a view
        dim = config.encoder_dim
        dense = (dim, config.patch_size, config.dense_widths)
        self.encoder = Encoder(config)
        self.ray_dirs_encoder, self.depth_encoder = DenseEncoder(3, *dense), DenseEncoder(1, *dense)
        self.depth_scale_encoder, self.cam_rot_encoder, self.cam_trans_encoder, self.cam_trans_scale_encoder = (
            GlobalEncoder(inputs, dim, config.global_widths) for inputs in (1, 4, 3, 1)
        )
        self.fusion_norm_layer = nn.LayerNorm(dim, eps=EPS)
        self.scale_token = nn.Parameter(torch.randn(dim) * 0.02)
        self.info_sharing = InfoSharing(config)
        widths = (dim, config.dim, config.dim, config.dim)
        self.dense_head = DenseHead(widths, config.head_features, config.head_stages, config.patch_size)
        self.pose_head, self.scale_head = PoseHead(config.dim, config.patch_size), ScaleHead(config.dim)

    def constants(self) -> dict[str, Tensor]:
        """The untrained buffer of the published checkpoints, with its value."""
        return {"info_sharing.view_pos_table": reference_mark(self.config.dim)}

    # -- tokens -----------------------------------------------------------------------------------------------------

    def embed(
        self, images: Tensor, views: Sequence[int], given: Prepared | None, seen: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Images (B, S_b, 3, H, W) in [0, 1] of the views with indices `views` → class tokens (B, S_b, 1, E) and fused
        patch tokens (B, S_b, N, E).
        """
        first, patches = (
            t.unflatten(0, images.shape[:2]) for t in self.encoder(bk.normalise(images).flatten(0, 1), seen)
        )
        with bk.own_precision(images.device):
            patches = patches.float()
            if given is not None:
                patches = patches + embed_given(self._modules, list(views), given)
            return first, self.fusion_norm_layer(patches)

    def encode(
        self,
        images: Sequence[Tensor],
        groups: Sequence[Sequence[int]],
        given: Prepared | None = None,
        unseen: Sequence[Tensor | None] | None = None,
    ) -> tuple[list[Features], Tensor]:
        """Images (B, S_b, 3, H, W) in [0, 1] per bucket, with view indices `groups` → the features of each bucket and
        the scene token (B, C). `unseen` masks pixels without scene content (H, W) per view; patches of only such pixels
        are not used as keys.
        """
        with bk.trunk_precision(images[0].device, self.compute_dtype):
            return self._encode(images, groups, given, unseen)

    def _encode(
        self,
        images: Sequence[Tensor],
        groups: Sequence[Sequence[int]],
        given: Prepared | None,
        unseen: Sequence[Tensor | None] | None,
    ) -> tuple[list[Features], Tensor]:
        device = images[0].device
        grids = [(im.shape[-2] // self.patch_size, im.shape[-1] // self.patch_size) for im in images]
        seen = Seen.of(unseen, groups, grids)
        rows = Seen.rows(seen, len(groups))
        parts = [self.embed(im, views, given, row) for im, views, row in zip(images, groups, rows)]
        fused = [patches for _, patches in parts]
        tokens = [torch.cat(part, dim=2) if self.specials else part[1] for part in parts]
        reference = 0 if given is None else given.reference
        bucket = next(b for b, group in enumerate(groups) if reference in group)
        place = list(groups[bucket]).index(reference)
        across = (b.attn for i, b in enumerate(self.info_sharing.self_attention_blocks) if self.config.is_global(i))
        frames = frames_of([len(group) for group in groups], grids, self.specials)
        set_frames(across, frames, sum(map(len, groups[:bucket])) + place, device, seen)
        scale = self.scale_token.expand(len(images[0]), 1, -1)
        taps, scale = self.info_sharing(scale, tokens, (bucket, place), self.specials, seen)
        maps = ([first, *rest] for first, rest in zip(fused, taps))
        return [Features(*each) for each in zip(maps, grids, rows)], scale

    # -- outputs ----------------------------------------------------------------------------------------------------

    def decode(self, features: Features) -> DenseMaps:
        """Rays, depth along them, confidence and mask of one bucket, (B, S_b, …); without the metric scale."""
        run = lambda maps: self.dense_head([m.float() for m in maps], *features.grid)  # noqa: E731
        raw = bk.in_chunks(run, features.maps, self.head_frames)
        return DenseMaps.of(raw.unflatten(0, features.maps[0].shape[:2]))

    def decode_cameras(self, features: Features) -> tuple[Tensor, Tensor]:
        """world_from_cam quaternion (B, S_b, 4), scalar last, and translation (B, S_b, 3), without the metric scale."""
        tokens = features.maps[-1].float()
        shape = tokens.shape[:2]
        seen = None if features.seen is None else features.seen.to(tokens.device).repeat(shape[0], 1)
        quaternion, translation = self.pose_head(tokens.flatten(0, 1), seen)
        return quaternion.unflatten(0, shape), translation.unflatten(0, shape)

    def forward(self, images: Tensor, given: Conditions | None = None) -> MapAnythingOutput:
        """The raw output for equally sized views (B, S, 3, H, W) in [0, 1]; view 0 is the reference."""
        (features,), scale = self.encode([images], [range(images.shape[1])], None if given is None else prepare(given))
        maps, cameras, metric = self.decode(features), self.decode_cameras(features), self.scale_head(scale.float())
        return MapAnythingOutput(maps, *cameras, metric, features, scale)

    @torch.inference_mode()
    def predict(
        self,
        images: Sequence[Tensor],
        cameras: KnownCameras | None = None,
        unseen: Sequence[Tensor | None] | None = None,
    ) -> Prediction:
        """Depth and cameras of S images, each (3, H, W) float32 RGB in [0, 1], H and W multiples of the patch size.

        Known values in `cameras` (NaN: unknown) guide the network; it returns its own cameras, approximately in metres.
        Depth is 0 where its mask shows sky or an edge. `unseen` masks pixels without scene content (H, W) per image;
        patches of only such pixels are not used as keys.
        """
        groups = bk.group_by_size(images)
        device = self.scale_token.device
        stacks = [torch.stack([images[i] for i in g])[None].to(device) for g in groups]
        given = None if cameras is None else prepare(*conditions_from(cameras, images, device))
        buckets, scale = self.encode(stacks, groups, given, unseen)
        metric = self.scale_head(scale.float())[0]
        found = [self.decode_cameras(features) for features in buckets]
        quaternion, translation = (bk.in_view_order(parts, groups)[0] for parts in zip(*found))
        rotation = pose.rotation_from_quaternion(quaternion)
        depth: list[Tensor] = [torch.empty(0)] * len(images)
        confidence, K = list(depth), torch.zeros(len(images), 3, 3)
        for group, features in zip(groups, buckets):
            maps = self.decode(features).of_scene(0)
            found_K = pose.centres_at_half(intrinsics_from_rays(maps.rays, features.seen_pixels(self.patch_size)))
            found_K[:, [0, 1], [0, 1]] = found_K[:, [0, 1], [0, 1]].clamp(min=SMALLEST_FOCAL)
            K[list(group)] = found_K.cpu()
            for k, i in enumerate(group):
                points = maps.rays[k] * maps.depth[k][..., None] * metric
                kept = shows_surface(points, maps.logit[k] > 0)
                depth[i] = torch.where(kept, points[..., 2], 0.0).clamp(min=0).cpu()
                confidence[i] = maps.confidence[k].cpu()
        return Prediction(depth, confidence, pose.invert_rigid(rotation, translation * metric).cpu(), K)


def frames_of(counts: Sequence[int], grids: Sequence[tuple[int, int]], specials: int) -> list[Frames]:
    """The frames of the packed tokens, `counts` views per bucket. The scene token comes first and counts as a special
    token of the first view.
    """
    frames = []
    for k, (count, grid) in enumerate(zip(counts, grids)):
        tokens = specials + grid[0] * grid[1]
        if k == 0:
            frames.append(Frames(1, tokens + 1, specials + 1, grid))
            count -= 1
        if count:
            frames.append(Frames(count, tokens, specials, grid))
    return frames
