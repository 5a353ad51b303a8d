"""Optional inputs of Pi3X: known depth, rays and poses of some views, and the layers that add them to the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from lite3r_cli.layers.buckets import own_precision
from lite3r_cli.layers.dense import dense
from lite3r_cli.layers.heads.pose import invert_rigid
from lite3r_cli.layers.vit import Attention, LayerScale, Mlp

STILL = 0.02  # if all relative translations are below this, they are not rescaled, as in the authors' code


@dataclass(frozen=True)
class Conditions:
    """Known values of S views in view order, float32. Values are ignored where the corresponding `has_…` is False."""

    poses: Tensor  # (B, S, 3, 4) world_from_cam
    has_pose: Tensor  # (B, S) bool
    rays: list[Tensor]  # per view (B, 2, H, W): x/z and y/z of each pixel's ray
    has_rays: Tensor  # (B, S) bool
    depth: list[Tensor]  # per view (B, H, W), 0 = unknown
    has_depth: Tensor  # (B, S) bool


@dataclass(frozen=True)
class Prepared:
    """Normalised conditions: depth in units of its mean, poses relative to the first view."""

    cam_from_first: Tensor  # (B, S, 4, 4)
    has_pose: Tensor  # (B, S)
    rays: list[Tensor]
    has_rays: Tensor
    depth: list[Tensor]
    has_depth: Tensor

    @property
    def any_pose(self) -> bool:
        """Whether the pose of any view is known."""
        return bool(self.has_pose.any())


def pixel_rays(K: Tensor, height: int, width: int) -> Tensor:
    """K (B, 3, 3) for pixel centres at +0.5 → x/z and y/z of each pixel's ray (B, 2, H, W)."""
    u = torch.arange(width, device=K.device, dtype=K.dtype) + 0.5
    v = torch.arange(height, device=K.device, dtype=K.dtype) + 0.5
    pixels = torch.stack([u.expand(height, -1), v[:, None].expand(-1, width), torch.ones_like(u).expand(height, -1)])
    rays = torch.linalg.inv(K) @ pixels.flatten(1)
    result: Tensor = rays[:, :2].unflatten(2, (height, width))
    return result


def prepare(given: Conditions) -> Prepared:
    """The authors' normalisation: depth is divided by its mean over the scene, translations by the same mean or, if no
    depth is known, by the mean distance from the first view. A single known pose has no information and is dropped.
    """
    sums = torch.stack([d.clamp(min=0).flatten(1).sum(1) for d in given.depth]).sum(0)
    counts = torch.stack([(d > 0).flatten(1).sum(1) for d in given.depth]).sum(0)
    mean = torch.where(counts > 0, sums / counts.clamp(min=1), torch.ones_like(sums))  # (B,)
    first = invert_rigid(given.poses[:, :1, :, :3], given.poses[:, :1, :, 3])
    first_from_cam = _compose(first, given.poses)
    translation = first_from_cam[..., 3] / mean[:, None, None]
    steps = translation[:, 1:].norm(dim=-1)  # (B, S − 1)
    if steps.shape[1]:
        moves = (steps.amax(1) >= STILL) & ~given.has_depth.any(1)
        translation = translation / torch.where(moves, steps.mean(1) + 1e-8, 1.0)[:, None, None]
    rotation = first_from_cam[..., :3]
    bottom = torch.tensor([0.0, 0, 0, 1], device=rotation.device).expand(*rotation.shape[:2], 1, 4)
    cam_from_first = torch.cat([invert_rigid(rotation, translation), bottom], dim=2)
    several = given.has_pose.sum(1, keepdim=True) > 1
    depth = [d / (mean[:, None, None] + 1e-8) for d in given.depth]
    return Prepared(cam_from_first, given.has_pose & several, given.rays, given.has_rays, depth, given.has_depth)


class Encoders(Protocol):
    """What has the encoders of known rays and depth."""

    @property
    def ray_embed(self) -> nn.Module:
        """Rays (B, 2, H, W) → (B, N, C)."""
        ...

    @property
    def depth_encoder(self) -> nn.Module:
        """Depth and its mask (B, 2, H, W) → (B, N, C)."""
        ...

    @property
    def depth_emb(self) -> Tensor:
        """Added to the tokens of views with depth, (1, 1, C)."""
        ...


def embed_given(encoders: Encoders, views: Sequence[int], given: Prepared) -> Tensor:
    """The encoding (B, S_b, N, C) of the known rays and depth of these views, in float32."""
    index = list(views)
    rays = torch.stack([given.rays[i] for i in index], dim=1)  # (B, S_b, 2, H, W)
    depth = torch.stack([given.depth[i] for i in index], dim=1)
    shape = rays.shape[:2]
    with own_precision(rays.device):
        added = encoders.ray_embed(rays.flatten(0, 1)).unflatten(0, shape) * given.has_rays[:, index, None, None]
        if bool(given.has_depth[:, index].any()):
            maps = torch.stack([depth, (depth > 0).float()], dim=2).flatten(0, 1)
            seen = encoders.depth_encoder(maps).unflatten(0, shape) + encoders.depth_emb
            added = added + seen * given.has_depth[:, index, None, None]
    result: Tensor = added
    return result


def _compose(a: Tensor, b: Tensor) -> Tensor:
    """a ∘ b of rigid transforms (…, 3, 4)."""
    return torch.cat([a[..., :3] @ b[..., :3], a[..., :3] @ b[..., 3:] + a[..., 3:]], dim=-1)


class PoseAttention(nn.Module):
    """Attention over the patches of all views that depends on the relative camera poses (GTA, arXiv 2310.10375).

    Half of a head's channels are groups of four, transformed by the 4×4 camera matrix of the view. The other half is
    rotated by the column and row of the patch. Values are transformed in the same way. Parameters: `qkv`, `q_norm`,
    `k_norm`, `proj`.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        inner = Attention(dim, heads, qk_norm=True)
        self.heads = heads
        self.qkv, self.proj, self.q_norm, self.k_norm = inner.qkv, inner.proj, inner.q_norm, inner.k_norm

    def forward(self, x: Tensor, cameras: Tensor, place: tuple[Tensor, Tensor], visible: Tensor | None) -> Tensor:
        """x (B, T, C) → (B, T, C). `cameras` (B, T, 4, 4) is cam_from_first of each token's view; `place` is the column
        and row of each token, (T,) each; `visible` (B, T) is the mask of keys, None for all.
        """
        batch, tokens, dim = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        q, k = self.q_norm(q), self.k_norm(k)
        matrix = cameras[:, None]  # (B, 1, T, 4, 4)
        inverse = torch.linalg.inv_ex(matrix)[0]  # unlike `inv` it does not wait for the GPU to say that it could
        angles = [_angles(p, dim // self.heads // 8, x.device) for p in place]
        q = _act(q, matrix.transpose(-1, -2), angles, 1)
        k, v = (_act(t, inverse, angles, 1) for t in (k, v))
        if visible is None:
            out = dense(q, k, v)
        else:
            out = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=visible[:, None, None])
        out = _act(out, matrix, angles, -1)
        result: Tensor = self.proj(out.transpose(1, 2).reshape(batch, tokens, dim))
        return result


def _angles(positions: Tensor, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin (T, count) of positions (T,) times 100^(−k/count)."""
    frequency = 100.0 ** (-torch.arange(count, device=device, dtype=torch.float32) / count)
    angle = positions.float()[:, None] * frequency
    return angle.cos(), angle.sin()


def _act(x: Tensor, matrix: Tensor, angles: Sequence[tuple[Tensor, Tensor]], direction: int) -> Tensor:
    """Transform x (B, H, T, D): its first half by `matrix` (B, 1, T, 4, 4), the other two quarters by rotations with
    the angles of column and row.
    """
    half, quarter = x.shape[-1] // 2, x.shape[-1] // 4
    groups = x[..., :half].unflatten(-1, (half // 4, 4)).float()
    moved = (matrix[..., None, :, :] @ groups[..., None]).squeeze(-1).flatten(-2)
    parts = [moved]
    for i, (cos, sin) in enumerate(angles):
        a, b = x[..., half + i * quarter : half + (i + 1) * quarter].float().chunk(2, dim=-1)
        sin = direction * sin
        parts += [a * cos + b * sin, b * cos - a * sin]
    return torch.cat(parts, dim=-1).to(x.dtype)


class PoseInjection(nn.Module):
    """Adds information on known poses to the patch tokens of views with a known pose. Attention and
    MLP are parallel.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(dim, eps=1e-6) for _ in range(2))
        self.attn = PoseAttention(dim, heads)
        self.mlp = Mlp(dim, 4 * dim)
        self.ls1, self.ls2 = LayerScale(dim), LayerScale(dim)

    def forward(self, x: Tensor, cameras: Tensor, place: tuple[Tensor, Tensor], has_pose: Tensor | None) -> Tensor:
        """x (B, T, C) patch tokens of all views; `has_pose` (B, T) bool, None: all; the rest as in PoseAttention."""
        visible = None if has_pose is None else has_pose | ~has_pose.any(1, keepdim=True)
        added = self.ls1(self.attn(self.norm1(x), cameras, place, visible)) + self.ls2(self.mlp(self.norm2(x)))
        return x + (added if has_pose is None else torch.where(has_pose[..., None], added, 0.0))
