"""π³ (arXiv 2507.13347) and its successor Pi3X: a DINOv2 encoder per view, blocks that alternate between one view and
all views, then small transformers per view for points, confidence and camera.

There is no reference view: permuting the views permutes the output. `predict` transforms the result to the first view's
frame, as for all networks here. Pi3X predicts approximately in metres and takes known cameras. Parameter names are
those of the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lite3r_cli.attention.module import set_frames
from lite3r_cli.attention.tiling import Frames
from lite3r_cli.layers import buckets as bk
from lite3r_cli.layers.heads.pose import invert_rigid
from lite3r_cli.layers.image_encoder import ImageEncoder
from lite3r_cli.layers.seen import Seen
from lite3r_cli.layers.vit import Block, ModulesOf, PatchEmbed, RopeTable, patch_positions, rope_table
from lite3r_cli.networks.base import KnownCameras, Network, Prediction
from lite3r_cli.networks.pi3.conditions import Conditions, PoseInjection, Prepared, embed_given, pixel_rays, prepare
from lite3r_cli.networks.pi3.heads import CameraHead, ConvPixels, HeadTransformer, LinearPixels, MetricDecoder

REGISTERS = 5  # special tokens of each view
SMALLEST_FOCAL = 1.0  # pixels; no real camera has less
LARGEST_LOG_DEPTH = 15.0  # upper limit of Pi3X's log depth


@dataclass(frozen=True)
class Sizes:
    """The sizes that both networks have."""

    dim: int = 1024
    depth: int = 36  # even blocks within a view, odd ones across all views
    heads: int = 16
    encoder_depth: int = 24
    encoder_heads: int = 16
    head_dim: int = 1024
    head_heads: int = 16
    head_depth: int = 5
    head_out: int = 1024
    camera_out: int = 512
    patch_size: int = 14
    position_grid: int = 37

    def is_global(self, i: int) -> bool:
        """Whether block i attends across views."""
        return i % 2 == 1


@dataclass(frozen=True)
class Pi3Config(Sizes):
    """The sizes of π³."""


@dataclass(frozen=True)
class Pi3XConfig(Sizes):
    """The sizes of Pi3X, which adds convolutional heads, metric scale and known cameras."""

    conv_channels: tuple[int, ...] = (256, 128, 64)
    conv_last: int = 32
    metric_dim: int = 512
    metric_heads: int = 8
    metric_out: int = 512
    inject_after: tuple[int, ...] = (1, 9, 17, 25, 33)  # decoder blocks after which known poses are injected


PI3, PI3X = Pi3Config(), Pi3XConfig()


@dataclass(frozen=True)
class Features:
    """The outputs of the last within-view block and the last cross-view block, for one bucket of views."""

    tokens: Tensor  # (B, S_b, 5 + N, 2C)
    grid: tuple[int, int]  # patches (h, w)
    rope: RopeTable
    seen: Tensor | None = None  # (S_b, N) bool, the patches used as keys; None: all

    def seen_pixels(self, patch: int) -> Tensor | None:
        """Mask (S_b, H, W) of the pixels of `seen`, for the patch size `patch`; None: all."""
        if self.seen is None:
            return None
        result: Tensor | None = (
            self.seen.unflatten(1, self.grid).repeat_interleave(patch, 1).repeat_interleave(patch, 2)
        )
        return result


@dataclass(frozen=True)
class Pi3Output:
    """The raw output for equally sized views."""

    local_points: Tensor  # (B, S, H, W, 3) in each camera's frame
    confidence: Tensor  # (B, S, H, W), a logit
    world_from_cam: Tensor  # (B, S, 3, 4)
    metric: Tensor | None  # (B,), metres per unit, already applied to points and positions; None for π³
    features: Features


class Pi3(Network):
    """The network. `head_frames` may be set before a prediction."""

    def __init__(self, config: Pi3Config | Pi3XConfig = PI3, name: str = "pi3"):
        super().__init__()
        self.name, self.config, self.patch_size = name, config, config.patch_size
        self.metric = isinstance(config, Pi3XConfig)
        self.compute_dtype = torch.float32
        self.head_frames: int | None = None  # views that the heads process at a time; None: depends on the device
        dim, patch = config.dim, config.patch_size
        encoder = (dim, config.encoder_depth, config.encoder_heads, patch, config.position_grid)
        head = (2 * dim, config.head_dim, config.head_heads, config.head_depth)
        self.encoder = ImageEncoder(*encoder)
        self.register_token = nn.Parameter(torch.randn(1, 1, REGISTERS, dim) * 1e-6)
        self.decoder = ModulesOf(Block(dim, config.heads, qk_norm=True, layer_scale=0.01) for _ in range(config.depth))
        self.point_decoder, self.conf_decoder = (HeadTransformer(*head, config.head_out) for _ in range(2))
        self.camera_decoder = HeadTransformer(*head, config.camera_out)
        self.camera_head = CameraHead(config.camera_out)
        self.point_head: LinearPixels | ConvPixels
        self.conf_head: LinearPixels | ConvPixels
        if not isinstance(config, Pi3XConfig):
            self.point_head = LinearPixels(config.head_out, 3, patch)
            self.conf_head = LinearPixels(config.head_out, 1, patch)
            return
        conv = (config.head_out, config.conv_channels, config.conv_last)
        self.point_head, self.conf_head = ConvPixels(*conv, (2, 1), patch), ConvPixels(*conv, (1,), patch)
        self.metric_token = nn.Parameter(torch.randn(1, 1, 2 * dim) * 1e-6)
        self.metric_decoder = MetricDecoder(
            2 * dim, config.metric_dim, config.metric_heads, config.head_depth, config.metric_out
        )
        self.metric_head = nn.Linear(config.metric_out, 1)
        self.depth_encoder = ImageEncoder(*encoder, channels=2)
        self.depth_emb = nn.Parameter(torch.zeros(1, 1, dim))
        self.ray_embed = PatchEmbed(dim, patch, channels=2)
        self.pose_inject_blk = ModulesOf(PoseInjection(dim, config.heads) for _ in config.inject_after)

    # -- tokens -----------------------------------------------------------------------------------------------------

    def embed(self, images: Tensor, views: Sequence[int], given: Prepared | None, seen: Tensor | None = None) -> Tensor:
        """Images (B, S_b, 3, H, W) in [0, 1] of the views with indices `views` → tokens (B, S_b, 5 + N, C)."""
        patches = self.encoder(bk.normalise(images).flatten(0, 1), seen).unflatten(0, images.shape[:2])
        if given is not None:
            patches = patches + embed_given(self, views, given)
        registers = self.register_token.expand(*images.shape[:2], -1, -1)
        return torch.cat([registers.to(patches.dtype), patches], dim=2)

    def encode(
        self,
        images: Sequence[Tensor],
        groups: Sequence[Sequence[int]],
        given: Prepared | None = None,
        unseen: Sequence[Tensor | None] | None = None,
    ) -> list[Features]:
        """Images (B, S_b, 3, H, W) in [0, 1] per bucket, with view indices `groups` → the features of each bucket.
        `unseen` masks pixels without scene content (H, W) per view; patches of only such pixels are not used as keys.
        """
        with bk.trunk_precision(images[0].device, self.compute_dtype):
            return self._encode(images, groups, given, unseen)

    def _encode(
        self,
        images: Sequence[Tensor],
        groups: Sequence[Sequence[int]],
        given: Prepared | None,
        unseen: Sequence[Tensor | None] | None,
    ) -> list[Features]:
        config = self.config
        device = images[0].device
        grids = [(im.shape[-2] // config.patch_size, im.shape[-1] // config.patch_size) for im in images]
        head_dim = config.dim // config.heads
        ropes = [rope_table(patch_positions(*g, REGISTERS, device), head_dim, published=True) for g in grids]
        packed = bk.pack_ropes(ropes, [len(g) for g in groups])
        seen = Seen.of(unseen, groups, grids)
        rows = Seen.rows(seen, len(groups))
        x = [self.embed(im, views, given, row) for im, views, row in zip(images, groups, rows)]
        frames = (Frames(b.shape[1], b.shape[2], REGISTERS, grid) for b, grid in zip(x, grids))
        across = (block.attn for i, block in enumerate(self.decoder) if config.is_global(i))
        set_frames(across, frames, None, device, seen)
        inject: dict[int, PoseInjection] = {}
        if given is not None and given.any_pose and isinstance(config, Pi3XConfig):
            inject = dict(zip(config.inject_after, self.pose_inject_blk))
        near = x
        for i, block in enumerate(self.decoder):
            if config.is_global(i):
                x = bk.run_packed(block, x, packed, seen)
            else:
                x = near = bk.run_each(block, x, ropes, seen)
            if given is not None and i in inject:
                x = self._inject(inject[i], x, grids, groups, given)
        tokens = (torch.cat(pair, dim=-1) for pair in zip(near, x))
        return [Features(*each) for each in zip(tokens, grids, ropes, rows)]

    def _inject(
        self, block: PoseInjection, x: list[Tensor], grids: Sequence[tuple[int, int]], groups: Sequence[Sequence[int]],
        given: Prepared,
    ) -> list[Tensor]:  # fmt: skip
        view, place = places_of_patches(grids, groups, x[0].device)
        patches = [b[:, :, REGISTERS:] for b in x]
        flat = torch.cat([p.flatten(1, 2) for p in patches], dim=1)
        has_pose = None if bool(given.has_pose.all()) else given.has_pose[:, view]
        flat = block(flat, given.cam_from_first[:, view], place, has_pose)
        parts = flat.split([p.shape[1] * p.shape[2] for p in patches], dim=1)
        return [
            torch.cat([b[:, :, :REGISTERS], part.unflatten(1, p.shape[1:3])], dim=2)
            for b, p, part in zip(x, patches, parts)
        ]

    # -- outputs ----------------------------------------------------------------------------------------------------

    def _in_chunks(
        self, features: Features, run: Callable[[Tensor, Tensor | None], tuple[Tensor, ...]]
    ) -> list[Tensor]:
        """Call `run` with tokens (b, 5 + N, 2C) and their key mask, a few views at a time; returns each of its outputs
        as (B, S_b, …).
        """
        shape = features.tokens.shape[:2]
        flat = features.tokens.flatten(0, 1)
        frames = self.head_frames or bk.CHUNK_FRAMES.get(flat.device.type, 8)
        parts = [
            run(flat[i : i + frames], None if features.seen is None else features.seen[i : i + frames])
            for i in range(0, len(flat), frames)
        ]
        return [torch.cat(column).unflatten(0, shape) for column in zip(*parts)]

    def decode(self, features: Features) -> tuple[Tensor, Tensor]:
        """Points in each camera's frame (B, S_b, H, W, 3), without the metric scale, and confidence (B, S_b, H, W)."""

        def run(tokens: Tensor, seen: Tensor | None) -> tuple[Tensor, Tensor]:
            with bk.trunk_precision(tokens.device, self.compute_dtype):
                points, confidence = (
                    head(tokens, features.rope, seen)[:, REGISTERS:] for head in (self.point_decoder, self.conf_decoder)
                )
            maps = torch.cat(self.point_head(points, *features.grid), dim=1)
            logit = maps[:, 2].clamp(max=LARGEST_LOG_DEPTH) if self.metric else maps[:, 2]
            z = logit.exp()
            local = torch.stack([maps[:, 0] * z, maps[:, 1] * z, z], dim=-1)
            return local, self.conf_head(confidence, *features.grid)[0][:, 0]

        points, confidence = self._in_chunks(features, run)
        return points, confidence

    def decode_cameras(self, features: Features) -> Tensor:
        """world_from_cam (B, S_b, 3, 4), without the metric scale."""

        def run(tokens: Tensor, seen: Tensor | None) -> tuple[Tensor]:
            with bk.trunk_precision(tokens.device, self.compute_dtype):
                patches = self.camera_decoder(tokens, features.rope, seen)[:, REGISTERS:]
            return (self.camera_head(patches, seen),)

        return self._in_chunks(features, run)[0]

    def metric_scale(self, buckets: Sequence[Features]) -> Tensor | None:
        """Metres per unit (B,); None for π³."""
        if not self.metric:
            return None
        tokens = torch.cat([f.tokens.flatten(1, 2) for f in buckets], dim=1)
        rope = bk.pack_ropes([f.rope for f in buckets], [f.tokens.shape[1] for f in buckets])
        rows = [f.seen for f in buckets if f.seen is not None]
        if rows:
            keys = Seen(rows).across([f.tokens.shape[2] for f in buckets], tokens.device)
            tokens, rope = tokens[:, keys], (rope[0][keys], rope[1][keys])
        with bk.trunk_precision(tokens.device, self.compute_dtype):
            x = self.metric_decoder(self.metric_token.expand(len(tokens), -1, -1), tokens, rope)
        result: Tensor | None = self.metric_head(x.float()).exp()[:, 0, 0]
        return result

    def forward(self, images: Tensor, given: Conditions | None = None) -> Pi3Output:
        """The raw output for equally sized views (B, S, 3, H, W) in [0, 1]."""
        (features,) = self.encode([images], [range(images.shape[1])], None if given is None else prepare(given))
        points, confidence = self.decode(features)
        poses, metric = self.decode_cameras(features), self.metric_scale([features])
        if metric is not None:
            points = points * metric[:, None, None, None, None]
            poses = torch.cat([poses[..., :3], poses[..., 3:] * metric[:, None, None, None]], dim=-1)
        return Pi3Output(points, confidence, poses, metric, features)

    @torch.inference_mode()
    def predict(
        self,
        images: Sequence[Tensor],
        cameras: KnownCameras | None = None,
        unseen: Sequence[Tensor | None] | None = None,
    ) -> Prediction:
        """Depth and cameras of S images, each (3, H, W) float32 RGB in [0, 1], H and W multiples of the patch size.

        Known `cameras` and depth guide Pi3X (NaN for an unknown pose or K); it returns its own cameras, approximately
        in metres. `unseen` masks pixels without scene content (H, W) per image; patches of only such pixels are not
        used as keys.
        """
        groups = bk.group_by_size(images)
        device = self.register_token.device
        stacks = [torch.stack([images[i] for i in g])[None].to(device) for g in groups]
        given = None if cameras is None else prepare(conditions_from(cameras, images, device))
        buckets = self.encode(stacks, groups, given, unseen)
        poses = bk.in_view_order([self.decode_cameras(f) for f in buckets], groups)[0]
        metric = self.metric_scale(buckets)
        scale = 1.0 if metric is None else float(metric)
        depth: list[Tensor] = [torch.empty(0)] * len(images)
        confidence, K = list(depth), torch.zeros(len(images), 3, 3)
        for group, features in zip(groups, buckets):
            points, logit = self.decode(features)
            found = intrinsics_from_points(points[0], features.seen_pixels(self.patch_size))
            K[group] = with_usable_focal(found).cpu()
            for i, z, c in zip(group, (points[0, ..., 2] * scale).cpu(), 1 + logit[0].exp().cpu()):
                depth[i], confidence[i] = z, c
        return Prediction(depth, confidence, cam_from_first(poses, scale).cpu(), K)


def with_usable_focal(K: Tensor) -> Tensor:
    """K (S, 3, 3) with focal lengths of at least SMALLEST_FOCAL: points of no pinhole camera can fit a negative one."""
    K = K.clone()
    for axis in (0, 1):
        K[:, axis, axis].clamp_(min=SMALLEST_FOCAL)
    return K


def places_of_patches(
    grids: Sequence[tuple[int, int]], groups: Sequence[Sequence[int]], device: torch.device
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Of every patch of the packed views: its view (T,), and its column and row (T,) each."""
    columns, rows, views = [], [], []
    for (h, w), group in zip(grids, groups):
        for i in group:
            rows.append(torch.arange(h, device=device).repeat_interleave(w))
            columns.append(torch.arange(w, device=device).repeat(h))
            views.append(torch.full((h * w,), i, device=device))
    return torch.cat(views), (torch.cat(columns), torch.cat(rows))


def cam_from_first(world_from_cam: Tensor, scale: float | Tensor = 1.0) -> Tensor:
    """world_from_cam (S, 3, 4) in any frame → cam_from_world (S, 3, 4) in the first camera's frame, with positions
    times `scale`.
    """
    R, t = world_from_cam[..., :3], world_from_cam[..., 3]
    rotation = R[0].T @ R
    centre = (t - t[0]) @ R[0] * scale
    return invert_rigid(rotation, centre)


def intrinsics_from_points(points: Tensor, seen: Tensor | None = None) -> Tensor:
    """K (S, 3, 3), pixel centres at +0.5, of the pinhole camera that fits points (S, H, W, 3) in camera coordinates.
    `seen` (S, H, W) masks the pixels to use.

    The principal point is the image centre; the focal lengths are least squares on x/z and y/z, as in the authors'
    code.
    """
    height, width = points.shape[1:3]
    x, y = (points[..., i] / points[..., 2].clamp(min=1e-10) for i in (0, 1))
    if seen is not None:
        x, y = x * seen.to(x), y * seen.to(y)
    u = torch.arange(width, device=points.device) - (width - 1) / 2
    v = torch.arange(height, device=points.device) - (height - 1) / 2
    fx = (x * u).sum((1, 2)) / x.square().sum((1, 2)).clamp(min=1e-12)
    fy = (y * v[:, None]).sum((1, 2)) / y.square().sum((1, 2)).clamp(min=1e-12)
    K = torch.zeros(len(points), 3, 3, device=points.device)
    K[:, 0, 0], K[:, 1, 1] = fx, fy
    K[:, 0, 2], K[:, 1, 2], K[:, 2, 2] = width / 2, height / 2, 1
    return K


def conditions_from(cameras: KnownCameras, images: Sequence[Tensor], device: torch.device) -> Conditions:
    """Known values of S views (NaN: unknown) → the conditions of Pi3X."""
    pose, K = cameras.cam_from_world.float().to(device)[:, :3], cameras.K.float().to(device)
    has_pose, has_rays = pose.flatten(1).isfinite().all(1), K.flatten(1).isfinite().all(1)
    # poses become relative to the first view; if its pose is unknown, the first known pose replaces it
    stand_in = pose[has_pose][0] if has_pose.any() else torch.eye(3, 4, device=device)
    pose = torch.where(has_pose[:, None, None], pose, stand_in)
    K = torch.where(has_rays[:, None, None], K, torch.eye(3, device=device))
    sizes = [tuple(image.shape[-2:]) for image in images]
    depth = [cameras.depth[i] if cameras.depth else None for i in range(len(images))]
    return Conditions(
        invert_rigid(pose[..., :3], pose[..., 3])[None],
        has_pose[None],
        [pixel_rays(K[i : i + 1], *size) for i, size in enumerate(sizes)],
        has_rays[None],
        [torch.zeros(1, *s, device=device) if d is None else d.float().to(device)[None] for d, s in zip(depth, sizes)],
        torch.tensor([[d is not None for d in depth]], device=device),
    )
