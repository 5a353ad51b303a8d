"""Depth-Anything-3 (arXiv 2511.10647), any-view models: one DINOv2 transformer whose later odd blocks attend across
views.

Parameter names are those of the published checkpoints without their `model.` prefix. From block `alternate_from` on,
blocks have QK-norm and 2-D RoPE, and token 0 of a view is its camera token: one for the reference view, whose camera is
the world frame, one for all other views, or the encoding of a known camera.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lite3r_cli.attention.module import set_frames
from lite3r_cli.attention.tiling import Frames
from lite3r_cli.errors import UsageError
from lite3r_cli.layers import buckets as bk
from lite3r_cli.layers.heads import pose
from lite3r_cli.layers.heads.dpt import DPTConfig, DualDPTHead
from lite3r_cli.layers.heads.rays import cameras_from_rays
from lite3r_cli.layers.seen import Seen
from lite3r_cli.layers.view_shards import count_all, first_view, mine, sizes_of_all, whole
from lite3r_cli.layers.vit import (
    Block,
    ModulesOf,
    PatchEmbed,
    RopeTable,
    patch_positions,
    resize_position_embedding,
    rope_table,
)
from lite3r_cli.networks.base import KnownCameras, Network, Prediction
from lite3r_cli.networks.da3.camera_heads import CameraDecoder, CameraEncoder, encode_cameras, normalise_cameras
from lite3r_cli.networks.da3.reference_view import STRATEGIES, choose_reference
from lite3r_cli.scene import geometry

POSITION_OFFSET = 0.1  # in patches, see `resize_position_embedding`


@dataclass(frozen=True)
class DA3Config:
    """Sizes of a Depth-Anything-3 (arXiv 2511.10647)."""

    dim: int
    depth: int
    heads: int
    alternate_from: int
    taps: tuple[int, ...]
    head_features: int
    head_stages: tuple[int, int, int, int]
    swiglu: bool = False
    patch_size: int = 14
    position_grid: int = 37
    camera_heads: int = 16
    camera_depth: int = 4

    def is_global(self, i: int) -> bool:
        """Whether block i attends across views."""
        return i >= self.alternate_from and i % 2 == 1


SMALL = DA3Config(384, 12, 6, 4, (5, 7, 9, 11), 64, (48, 96, 192, 384))
BASE = DA3Config(768, 12, 12, 4, (5, 7, 9, 11), 128, (96, 192, 384, 768))
LARGE = DA3Config(1024, 24, 16, 8, (11, 15, 19, 23), 256, (256, 512, 1024, 1024))
GIANT = DA3Config(1536, 40, 24, 13, (19, 27, 33, 39), 256, (256, 512, 1024, 1024), swiglu=True)
SIZES: dict[str, DA3Config] = {"da3-small": SMALL, "da3-base": BASE, "da3-large": LARGE, "da3-giant": GIANT}


@dataclass(frozen=True)
class DA3Output:
    """The raw output for equally sized views, in the original conventions (pixel centres at integers)."""

    depth: Tensor  # (B, S, H, W)
    confidence: Tensor  # (B, S, H, W), above 1
    pose: Tensor  # (B, S, 9): world_from_cam translation, quaternion, vertical and horizontal field of view
    rays: Tensor | None = None  # (B, S, 8h, 8w, 6): direction, origin
    ray_confidence: Tensor | None = None  # (B, S, 8h, 8w), above 1


@dataclass(frozen=True)
class Features:
    """The input of the heads, for one bucket of views."""

    taps: list[Tensor]  # four of (B, S_b, N, 2C)
    grid: tuple[int, int]  # patches (h, w)


class DA3Encoder(nn.Module):
    """ViT whose later blocks alternate between attention within a view and across all views."""

    def __init__(self, config: DA3Config):
        super().__init__()
        self.config = config
        dim, a = config.dim, config.alternate_from
        self.patch_embed = PatchEmbed(dim, config.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.camera_token = nn.Parameter(torch.randn(1, 2, dim) * 0.02)  # reference view, every other view
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + config.position_grid**2, dim) * 0.02)
        self.blocks = ModulesOf(
            Block(dim, config.heads, norm_eps=1e-6, qk_norm=i >= a, swiglu=config.swiglu) for i in range(config.depth)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-5)

    def embed(self, images: Tensor) -> Tensor:
        """Images (B, S, 3, H, W) in [0, 1] → tokens (B, S, 1 + N, C), class token first."""
        rows, columns = images.shape[-2] // self.config.patch_size, images.shape[-1] // self.config.patch_size
        x = self.patch_embed(bk.normalise(images).flatten(0, 1))
        x = x + resize_position_embedding(self.pos_embed[:, 1:], rows, columns, offset=POSITION_OFFSET)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        result: Tensor = torch.cat([first, x], dim=1).unflatten(0, images.shape[:2])
        return result

    def forward(
        self,
        images: Sequence[Tensor],
        groups: Sequence[Sequence[int]],
        camera_tokens: Tensor | None = None,
        reference_view: str = "saddle_balanced",
        unseen: Sequence[Tensor | None] | None = None,
    ) -> tuple[list[Features], Tensor]:
        """Images (B, S_b, 3, H, W) in [0, 1] per bucket, with view indices `groups`. `camera_tokens` (B, S, C) encode
        known cameras; `unseen` masks pixels without scene content (H, W) per view; patches
        of only such pixels are not used as keys.

        Returns the features of each bucket for the dense head, and the camera features (B, S, 2C) of all views.
        """
        config = self.config
        grids = [(im.shape[-2] // config.patch_size, im.shape[-1] // config.patch_size) for im in images]
        seen = Seen.of(unseen, groups, grids)
        local_ropes, global_rope = self._ropes(grids, [len(g) for g in groups], images[0].device)
        x = local = [self.embed(im) for im in images]
        reference = torch.zeros(len(x[0]), dtype=torch.long, device=images[0].device)
        views = count_all(sum(map(len, groups)))
        taps: list[list[Tensor]] = [[] for _ in x]
        for i, block in enumerate(self.blocks):
            if i == config.alternate_from - 1 and camera_tokens is None:
                reference = choose_reference(whole(bk.in_view_order([b[:, :, 0] for b in x], groups)), reference_view)
            if i == config.alternate_from:
                tokens = self._camera_tokens(reference, views) if camera_tokens is None else camera_tokens
                first = bk.in_buckets(mine(tokens), groups)
                self._set_frames(x, grids, groups, reference, seen)
                x = [torch.cat([t[:, :, None].to(b.dtype), b[:, :, 1:]], dim=2) for t, b in zip(first, x)]
            if config.is_global(i):
                x = bk.run_packed(block, x, global_rope, seen)
            else:
                turned = local_ropes if i >= config.alternate_from else [None] * len(x)
                x = local = bk.run_each(block, x, turned, seen)
            if i in config.taps:
                for tap, near, far in zip(taps, local, x):
                    tap.append(torch.cat([near[:, :, 1:], self.norm(far[:, :, 1:])], dim=-1))
        cameras = [torch.cat([near[:, :, 0], far[:, :, 0]], dim=-1) for near, far in zip(local, x)]  # without norm
        return [Features(*pair) for pair in zip(taps, grids)], whole(bk.in_view_order(cameras, groups))

    def _set_frames(
        self, x: Sequence[Tensor], grids: Sequence[tuple[int, int]], groups: Sequence[Sequence[int]],
        reference: Tensor, seen: Seen | None,
    ) -> None:  # fmt: skip
        """Pass the frames and the reference views (B,) to sparse-linear attention."""
        across = (block.attn for i, block in enumerate(self.blocks) if self.config.is_global(i))
        frames = (Frames(b.shape[1], b.shape[2], 1, grid) for b, grid in zip(x, grids))
        own = first_view() + torch.arange(sum(map(len, groups)), device=reference.device)
        is_reference = own == reference[:, None]
        set_frames(across, frames, torch.cat(bk.in_buckets(is_reference, groups), dim=1), x[0].device, seen)

    def _camera_tokens(self, reference: Tensor, views: int) -> Tensor:
        is_reference = torch.arange(views, device=reference.device) == reference[:, None]
        return torch.where(is_reference[..., None], self.camera_token[:, 0], self.camera_token[:, 1])

    def _ropes(
        self, grids: Sequence[tuple[int, int]], views: Sequence[int], device: torch.device
    ) -> tuple[list[RopeTable], RopeTable]:
        """RoPE tables for attention within a view (true patch positions) and across views (every patch at (1, 1))."""
        head_dim = self.config.dim // self.config.heads
        positions = [patch_positions(*grid, 1, device) for grid in grids]
        across = [rope_table(p.clamp(max=1), head_dim, published=True) for p in positions]
        return [rope_table(p, head_dim, published=True) for p in positions], bk.pack_ropes(across, views)


class Pretrained(nn.Module):
    """Gives the encoder its name in the published checkpoints, `backbone.pretrained`."""

    def __init__(self, config: DA3Config):
        super().__init__()
        self.pretrained = DA3Encoder(config)


class DA3(Network):
    """The network. `configure` may be called, and `head_frames` set, before a prediction."""

    def __init__(self, config: DA3Config, name: str = "da3"):
        super().__init__()
        self.name, self.config, self.patch_size = name, config, config.patch_size
        self.compute_dtype = torch.float32
        self.reference_view = "saddle_balanced"
        self.ray_poses = False  # cameras from the ray maps instead of the camera decoder
        # views that the dense head processes at a time; None: depends on the device
        self.head_frames: int | None = None
        self.backbone = Pretrained(config)
        self.head = DualDPTHead(DPTConfig(2 * config.dim, config.head_features, config.head_stages), config.patch_size)
        self.cam_dec = CameraDecoder(2 * config.dim)
        self.cam_enc = CameraEncoder(config.dim, config.camera_depth, config.camera_heads)

    def configure(self, poses: str = "tokens", reference_view: str = "saddle_balanced") -> None:
        """Set where cameras come from ("tokens" or "rays"), and the strategy that chooses the reference view, one of
        STRATEGIES. Raises UsageError for an unknown strategy.
        """
        if reference_view not in STRATEGIES:
            raise UsageError(f"--reference-view must be one of {', '.join(STRATEGIES)}, not {reference_view!r}")
        self.reference_view, self.ray_poses = reference_view, poses == "rays"

    @property
    def trunk(self) -> DA3Encoder:
        """The part whose matrix products may run in half precision; the rest stays float32."""
        return self.backbone.pretrained

    def encode(
        self,
        images: Sequence[Tensor],
        groups: Sequence[Sequence[int]],
        camera_tokens: Tensor | None = None,
        unseen: Sequence[Tensor | None] | None = None,
    ) -> tuple[list[Features], Tensor]:
        """Images (B, S_b, 3, H, W) in [0, 1] per bucket, with view indices `groups` → the features of each bucket for
        the heads, and the camera features.
        """
        with bk.trunk_precision(images[0].device, self.compute_dtype):
            features, cameras = self.trunk(images, groups, camera_tokens, self.reference_view, unseen)
        return features, cameras.float()

    def decode_depth(self, features: Features) -> tuple[Tensor, Tensor]:
        """Depth and confidence (above 1) of one bucket, each (B, S_b, H, W)."""
        grid = features.grid
        raw = bk.in_chunks(lambda t: self.head([x.float() for x in t], *grid), features.taps, self.head_frames)
        depth, confidence = raw.unflatten(0, features.taps[0].shape[:2]).exp().unbind(2)
        return depth, 1 + confidence

    def decode_rays(self, features: Features) -> tuple[Tensor, Tensor]:
        """Rays (B, S_b, 8h, 8w, 6) as direction and origin, and confidence (B, S_b, 8h, 8w), above 1."""
        grid, head = features.grid, self.head

        def run(taps: list[Tensor]) -> Tensor:
            return head.decode_rays(head.levels([t.float() for t in taps], *grid), *grid)

        raw = bk.in_chunks(run, features.taps, self.head_frames).unflatten(0, features.taps[0].shape[:2])
        return raw[:, :, :6].permute(0, 1, 3, 4, 2), 1 + raw[:, :, 6].exp()

    def camera_tokens(self, cam_from_world: Tensor, K: Tensor, size: Tensor) -> Tensor:
        """Camera tokens (B, S, C) of known cameras: normalised poses (B, S, ≥3, 4), K (B, S, 3, 3), `size` (B, S, 2) as
        (H, W).
        """
        result: Tensor = self.cam_enc(encode_cameras(cam_from_world, K, size))
        return result

    def forward(self, images: Tensor, camera_tokens: Tensor | None = None, rays: bool = False) -> DA3Output:
        """The raw output for equally sized views (B, S, 3, H, W) in [0, 1]; `rays` adds the ray output."""
        (features,), cameras = self.encode([images], [range(images.shape[1])], camera_tokens)
        ray = self.decode_rays(features) if rays else (None, None)
        return DA3Output(*self.decode_depth(features), self.cam_dec(cameras), *ray)

    @torch.inference_mode()
    def predict(
        self,
        images: Sequence[Tensor],
        cameras: KnownCameras | None = None,
        unseen: Sequence[Tensor | None] | None = None,
    ) -> Prediction:
        """Depth and cameras of S images, each (3, H, W) float32 RGB in [0, 1], H and W multiples of the patch size.

        Known `cameras` are returned unchanged, and depth is in their scale. `unseen` masks pixels without
        scene content (H, W) per image; patches of only such pixels are not used as keys.
        """
        groups = bk.group_by_size(images)
        device = self.trunk.pos_embed.device
        stacks = [torch.stack([images[i] for i in g])[None].to(device) for g in groups]
        size = torch.tensor(sizes_of_all(images), dtype=torch.float32, device=device)
        tokens = None
        if cameras is not None:
            tokens = self.cam_enc(encode_known(cameras, size))
        features, camera_features = self.encode(stacks, groups, tokens, unseen)
        vectors = self.cam_dec(camera_features)[0]
        K = pose.usable_intrinsics(vectors[:, 7:], size)
        poses = pose.invert_rigid(pose.rotation_from_quaternion(vectors[:, 3:7]), vectors[:, :3])
        depth: list[Tensor] = [vectors.new_empty(0)] * len(images)
        confidence = list(depth)
        for group, bucket in zip(groups, features):
            if self.ray_poses:
                rays, weight = self.decode_rays(bucket)
                height, width = images[group[0]].shape[-2:]
                found, ray_K = cameras_from_rays(rays[0], weight[0], (height, width))
                poses[group], K[group] = found, pose.centres_at_half(ray_K)
            for i, d, c in zip(group, *(self.placed(maps[0]) for maps in self.decode_depth(bucket))):
                depth[i], confidence[i] = d, c
        prediction = Prediction(depth, confidence, poses.cpu(), K.cpu())
        return prediction if cameras is None else with_known(prediction, cameras)


def encode_known(cameras: KnownCameras, size: Tensor) -> Tensor:
    """Known cameras → input of the camera encoder (1, S, 9). `size` (S, 2) as (H, W), on the device."""
    K = pose.centres_at_integers(cameras.K.float().to(size.device))
    return encode_cameras(normalise_cameras(cameras.cam_from_world.to(size.device)[None]), K[None], size[None])


def with_known(prediction: Prediction, cameras: KnownCameras) -> Prediction:
    """The prediction with its cameras replaced by the known ones, and depth in their scale."""
    scale = _scale_to(prediction.cam_from_world, cameras.cam_from_world)
    poses, K = cameras.cam_from_world[:, :3].cpu(), cameras.K.cpu()
    return Prediction([d / scale for d in prediction.depth], prediction.confidence, poses, K)


def _scale_to(predicted: Tensor, given: Tensor) -> float:
    """Scale of the predicted relative to the given trajectory; 1 if the given cameras do not move."""
    given_centres, predicted_centres = (
        geometry.camera_centres(p[:, :3].double().cpu().numpy()) for p in (given, predicted)
    )
    return geometry.umeyama(given_centres, predicted_centres).scale
