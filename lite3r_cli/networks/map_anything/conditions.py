"""Optional inputs of MapAnything: known rays, depth and poses of some views, in metres or not, and their encoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lite3r_cli.layers.heads import pose
from lite3r_cli.networks.base import KnownCameras

EPS = 1e-6  # of LayerNorm
SMALLEST = 1e-8  # lower limit of scales, also added to them


@dataclass(frozen=True)
class Conditions:
    """Known values of S views in view order, float32. Values are ignored where the corresponding `has_…` is False."""

    rays: list[Tensor]  # per view (B, 3, H, W), unit length, in camera axes
    has_rays: Tensor  # (B, S) bool
    depth: list[Tensor]  # per view (B, H, W) along the ray, 0 = unknown
    has_depth: Tensor  # (B, S) bool
    quaternion: Tensor  # (B, S, 4) world_from_cam, scalar last, of any norm
    translation: Tensor  # (B, S, 3)
    has_pose: Tensor  # (B, S) bool; if any view has a pose, the reference view has one
    metric: Tensor  # (B, S) bool: depth and pose of the view are in metres


@dataclass(frozen=True)
class Prepared:
    """Conditions in the frame of the reference view, divided by their scales, with the logarithms of the scales."""

    rays: list[Tensor]
    has_rays: Tensor
    depth: list[Tensor]  # per view (B, H, W), log(1 + d / mean depth of the view)
    has_depth: Tensor
    log_depth_scale: Tensor  # (B, S)
    quaternion: Tensor
    translation: Tensor
    has_pose: Tensor
    log_pose_scale: Tensor  # (B,)
    metric: Tensor
    reference: int  # index of the view


def pixel_rays(K: Tensor, height: int, width: int) -> Tensor:
    """K (B, 3, 3) for pixel centres at integers, without skew → unit rays (B, 3, H, W)."""
    u = torch.arange(width, device=K.device, dtype=K.dtype)
    v = torch.arange(height, device=K.device, dtype=K.dtype)
    x = (u - K[:, 0, 2, None]) / K[:, 0, 0, None]  # (B, W)
    y = (v - K[:, 1, 2, None]) / K[:, 1, 1, None]
    x, y = x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)
    rays = torch.stack([x, y, torch.ones_like(x)], dim=1)
    result: Tensor = rays / rays.norm(dim=1, keepdim=True)
    return result


def along_rays(z: Tensor, rays: Tensor) -> Tensor:
    """z-depth (B, H, W) and unit rays (B, 3, H, W) → depth along the rays (B, H, W)."""
    result: Tensor = (z[:, None] * (rays / rays[:, 2:])).norm(dim=1)
    return result


def prepare(given: Conditions, reference: int = 0) -> Prepared:
    """The authors' normalisation: depth is divided by its mean per view, translations by the mean of their nonzero
    lengths; poses are relative to the reference view.
    """
    count = torch.stack([(d > 0).flatten(1).sum(1) for d in given.depth], dim=1)
    total = torch.stack([d.clamp(min=0).flatten(1).sum(1) for d in given.depth], dim=1)
    mean = (total / count.clamp(min=1)).clamp(min=SMALLEST)  # (B, S)
    depth = [torch.log1p(d / mean[:, i, None, None]) for i, d in enumerate(given.depth)]
    conjugate = given.quaternion.new_tensor([-1.0, -1, -1, 1])
    first = given.quaternion[:, [reference]]
    inverse = first * conjugate / first.square().sum(-1, keepdim=True)
    nowhere = given.quaternion.new_tensor([0.0, 0, 0, 1])
    known = given.has_pose[..., None]
    quaternion = torch.where(known, quaternion_product(inverse, given.quaternion), nowhere)
    moved = given.translation - given.translation[:, [reference]]  # exactly 0 for a view at the reference position
    rotation = pose.rotation_from_quaternion(inverse)
    translation = torch.where(known, (rotation @ moved[..., None]).squeeze(-1), 0.0)
    length = translation.norm(dim=-1)
    scale = (length.sum(1) / ((length > 0).sum(1) + SMALLEST)).clamp(min=SMALLEST)  # (B,)
    return Prepared(
        rays=given.rays,
        has_rays=given.has_rays,
        depth=depth,
        has_depth=given.has_depth,
        log_depth_scale=(mean + SMALLEST).log(),
        quaternion=quaternion,
        translation=translation / scale[:, None, None],
        has_pose=given.has_pose,
        log_pose_scale=(scale + SMALLEST).log(),
        metric=given.metric,
        reference=reference,
    )


def quaternion_product(a: Tensor, b: Tensor) -> Tensor:
    """The Hamilton product a ⊗ b of quaternions (…, 4), scalar last."""
    ax, ay, az, aw = a.unbind(-1)
    bx, by, bz, bw = b.unbind(-1)
    parts = (
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
        aw * bw - ax * bx - ay * by - az * bz,
    )
    return torch.stack(parts, dim=-1)


def conditions_from(cameras: KnownCameras, images: Sequence[Tensor], device: torch.device) -> tuple[Conditions, int]:
    """Known values of S views (NaN: unknown) → the network's conditions, and the index of the reference view: the first
    view with a known pose, else the first view.
    """
    poses, K = cameras.cam_from_world.float().to(device)[:, :3], cameras.K.float().to(device)
    has_pose, has_rays = poses.flatten(1).isfinite().all(1), K.flatten(1).isfinite().all(1)
    poses = torch.where(has_pose[:, None, None], poses, torch.eye(3, 4, device=device))
    K = torch.where(has_rays[:, None, None], K, torch.eye(3, device=device))
    world_from_cam = pose.invert_rigid(poses[..., :3], poses[..., 3])
    rays, depth, has_depth = [], [], []
    for i, image in enumerate(images):
        size = (image.shape[-2], image.shape[-1])
        rays.append(pixel_rays(pose.centres_at_integers(K[i : i + 1]), *size))
        z = cameras.depth[i] if cameras.depth else None
        has_depth.append(z is not None and bool(has_rays[i]))
        if z is None or not has_depth[-1]:
            z = torch.zeros(size)
        depth.append(along_rays(z.float().to(device)[None], rays[-1]))
    given = Conditions(
        rays=rays,
        has_rays=has_rays[None],
        depth=depth,
        has_depth=torch.tensor(has_depth, device=device)[None],
        quaternion=pose.quaternion_from_rotation(world_from_cam[..., :3])[None],
        translation=world_from_cam[..., 3][None],
        has_pose=has_pose[None],
        metric=torch.full((1, len(images)), cameras.metric, device=device),
    )
    return given, int(has_pose.int().argmax())


class _ResidualBlock(nn.Module):
    """GELU(conv2(GELU(conv1(x))) + shortcut(x))."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.conv2(F.gelu(self.conv1(x))) + self.shortcut(x))


class DenseEncoder(nn.Module):
    """A per-pixel map (B, channels, H, W) → encoding (B, N, C) that is added to the patch tokens."""

    def __init__(self, channels: int, dim: int, patch_size: int, widths: tuple[int, int, int]):
        super().__init__()
        self.patch_size = patch_size
        a, b, c = widths
        self.conv_in = nn.Conv2d(channels * patch_size**2, a, 3, padding=1)
        self.encoder = nn.Sequential(_ResidualBlock(a, b), _ResidualBlock(b, c), nn.Conv2d(c, dim, 1))
        self.norm_layer = nn.LayerNorm(dim, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder(self.conv_in(F.pixel_unshuffle(x, self.patch_size)))
        result: Tensor = self.norm_layer(x.flatten(2).transpose(1, 2))
        return result


class GlobalEncoder(nn.Module):
    """A few numbers per view (…, inputs) → encoding (…, C) that is added to all patch tokens of the view."""

    def __init__(self, inputs: int, dim: int, widths: tuple[int, int, int]):
        super().__init__()
        a, b, c = widths
        first = nn.Sequential(nn.Linear(inputs, a), nn.GELU())
        second = nn.Sequential(first, nn.Linear(a, b), nn.GELU())
        self.encoder = nn.Sequential(nn.Sequential(second, nn.Linear(b, c), nn.GELU()), nn.Linear(c, dim))
        self.norm_layer = nn.LayerNorm(dim, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.norm_layer(self.encoder(x))
        return result


def embed_given(encoders: Mapping[str, Any], views: list[int], given: Prepared) -> Tensor:
    """The encoding of the known values of these views, broadcastable to (B, S_b, N, E). `encoders` are the network's,
    by their names; those without input are not run.
    """
    added = given.quaternion.new_zeros(())
    if bool(given.has_rays[:, views].any()):
        rays = torch.stack([given.rays[i] for i in views], dim=1)  # (B, S_b, 3, H, W)
        found = encoders["ray_dirs_encoder"](rays.flatten(0, 1)).unflatten(0, rays.shape[:2])
        added = added + found * given.has_rays[:, views, None, None]
    if bool(given.has_depth[:, views].any()):
        depth = torch.stack([given.depth[i] for i in views], dim=1)
        found = encoders["depth_encoder"](depth.flatten(0, 1)[:, None]).unflatten(0, depth.shape[:2])
        metric = given.metric[:, views, None] * encoders["depth_scale_encoder"](given.log_depth_scale[:, views, None])
        added = added + (found + metric[:, :, None]) * given.has_depth[:, views, None, None]
    if bool(given.has_pose[:, views].any()):
        found = encoders["cam_rot_encoder"](given.quaternion[:, views]) + encoders["cam_trans_encoder"](
            given.translation[:, views]
        )
        metric = given.metric[:, views, None] * encoders["cam_trans_scale_encoder"](given.log_pose_scale[:, None, None])
        added = added + ((found + metric) * given.has_pose[:, views, None])[:, :, None]
    return added
