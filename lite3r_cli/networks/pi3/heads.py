"""The heads of π³ and Pi3X: points in each camera's frame, confidence, poses, metric scale."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lite3r_cli.layers.buckets import run_within
from lite3r_cli.layers.dense import dense
from lite3r_cli.layers.vit import Block, Mlp, ModulesOf, RopeTable, apply_rope


class HeadTransformer(nn.Module):
    """A few blocks within a view, without LayerScale and QK-norm: tokens (B, P, dim) → (B, P, out)."""

    def __init__(self, dim: int, hidden: int, heads: int, depth: int, out: int):
        super().__init__()
        self.projects = nn.Linear(dim, hidden)
        self.blocks = ModulesOf(Block(hidden, heads, layer_scale=None) for _ in range(depth))
        self.linear_out = nn.Linear(hidden, out)

    def forward(self, tokens: Tensor, rope: RopeTable, seen: Tensor | None = None) -> Tensor:
        """Only patches in the mask `seen` (B, N) are used as keys; None: all."""
        x = self.projects(tokens)
        for block in self.blocks:
            x = run_within(block, x, rope, seen)
        result: Tensor = self.linear_out(x)
        return result


class LinearPixels(nn.Module):
    """One linear layer and a pixel shuffle: patch tokens (B, N, C) → one map (B, channels, H, W), float32."""

    def __init__(self, dim: int, channels: int, patch_size: int):
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Linear(dim, channels * patch_size**2)

    def forward(self, tokens: Tensor, rows: int, columns: int) -> list[Tensor]:
        flat = self.proj(tokens.float()).transpose(1, 2).unflatten(2, (rows, columns))
        return [F.pixel_shuffle(flat, self.patch_size)]


class ResidualConv(nn.Module):
    """x + conv(relu(norm(conv(relu(norm(x)))))) with twice the channels inside."""

    def __init__(self, channels: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(1, channels),
            nn.ReLU(),
            nn.Conv2d(channels, 2 * channels, 3, padding=1, padding_mode="replicate"),
            nn.GroupNorm(2 * channels // 32, 2 * channels),
            nn.ReLU(),
            nn.Conv2d(2 * channels, channels, 3, padding=1, padding_mode="replicate"),
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.layers(x)
        return result


def with_position(x: Tensor, aspect: float) -> Tensor:
    """x (B, C, h, w) → (B, C + 2, h, w): appends the position u, v of each cell in an image of `aspect` = width /
    height with a half diagonal of 1.
    """
    height, width = x.shape[-2:]
    span_x, span_y = (s / (1 + aspect**2) ** 0.5 for s in (aspect, 1.0))
    u = torch.linspace(-span_x * (width - 1) / width, span_x * (width - 1) / width, width, device=x.device)
    v = torch.linspace(-span_y * (height - 1) / height, span_y * (height - 1) / height, height, device=x.device)
    uv = torch.stack([u.expand(height, -1), v[:, None].expand(-1, width)])
    return torch.cat([x, uv.expand(len(x), -1, -1, -1).to(x.dtype)], dim=1)


class ConvPixels(nn.Module):
    """Stages of convolutions that double the size, then a resize, in float32: patch tokens (B, N, C) → one map
    (B, n, H, W) for each n in `outputs`.
    """

    def __init__(self, dim: int, channels: Sequence[int], last: int, outputs: Sequence[int], patch_size: int):
        super().__init__()
        self.patch_size = patch_size
        widths = [dim, *channels]
        self.upsample_blocks = nn.ModuleList(
            nn.Sequential(
                nn.Sequential(
                    nn.ConvTranspose2d(before + 2, after, 2, 2),
                    nn.Conv2d(after, after, 3, padding=1, padding_mode="replicate"),
                ),
                ResidualConv(after),
                ResidualConv(after),
            )
            for before, after in zip(widths, channels)
        )
        self.output_block: ModulesOf[nn.Sequential] = ModulesOf(
            nn.Sequential(
                nn.Conv2d(widths[-1] + 2, last, 3, padding=1, padding_mode="replicate"),
                nn.ReLU(),
                nn.Conv2d(last, count, 1),
            )
            for count in outputs
        )

    def forward(self, tokens: Tensor, rows: int, columns: int) -> list[Tensor]:
        x = tokens.float().transpose(1, 2).unflatten(2, (rows, columns))
        for stage in self.upsample_blocks:
            x = stage(with_position(x, columns / rows))
        x = F.interpolate(x, (rows * self.patch_size, columns * self.patch_size), mode="bilinear")
        x = with_position(x, columns / rows)
        return [output(x) for output in self.output_block]


class _ResidualLinear(nn.Module):
    """f + relu(three linear layers of f)."""

    def __init__(self, dim: int):
        super().__init__()
        self.res_conv1, self.res_conv2, self.res_conv3 = (nn.Linear(dim, dim) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.res_conv2(F.relu(self.res_conv1(x))))
        return x + F.relu(self.res_conv3(inner))


class CameraHead(nn.Module):
    """Patch tokens (B, N, C), one view per row → world_from_cam (B, 3, 4), float32, in an arbitrary common frame."""

    def __init__(self, dim: int):
        super().__init__()
        self.res_conv = nn.ModuleList(_ResidualLinear(dim) for _ in range(2))
        self.more_mlps = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU())
        self.fc_t, self.fc_rot = nn.Linear(dim, 3), nn.Linear(dim, 9)

    def forward(self, tokens: Tensor, seen: Tensor | None = None) -> Tensor:
        """Only patches in the mask `seen` (B, N) are used; None: all."""
        x = tokens.float()
        for block in self.res_conv:
            x = block(x)
        if seen is None:
            x = self.more_mlps(x.mean(1))
        else:
            share = seen.to(x) / seen.sum(1, keepdim=True).to(x)
            x = self.more_mlps((x * share[..., None]).sum(1))
        rotation = nearest_rotation(self.fc_rot(x).unflatten(-1, (3, 3)))
        return torch.cat([rotation, self.fc_t(x)[..., None]], dim=-1)


def nearest_rotation(matrix: Tensor) -> Tensor:
    """The rotation nearest to a matrix (…, 3, 3) with rows scaled to length 1 (Levinson et al., arXiv 2006.14616).

    Computed in float64, because rounding errors matter if two singular values are close. NaN for a matrix that is not
    finite.
    """
    rows = F.normalize(matrix.double(), dim=-1, eps=1e-12)
    finite = rows.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
    U, _, Vh = torch.linalg.svd(rows.nan_to_num().transpose(-1, -2))
    V = Vh.transpose(-1, -2)
    sign = torch.det(V @ U.transpose(-1, -2))
    flip = torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign], dim=-1)
    result: Tensor = (V * flip[..., None, :] @ U.transpose(-1, -2)).to(matrix.dtype)
    return result.where(finite, torch.nan)


class _CrossAttention(nn.Module):
    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.proj = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x: Tensor, context: Tensor, rope: RopeTable) -> Tensor:
        q, k, v = (  # (B, H, T, D)
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for t in (self.q_proj(x), self.k_proj(context), self.v_proj(context))
        )
        k = apply_rope(k, rope)  # the query is at (0, 0), where the rotation is the identity
        out = dense(q.to(v.dtype), k.to(v.dtype), v)
        result: Tensor = self.proj(out.transpose(1, 2).flatten(2))
        return result


class _MetricBlock(nn.Module):
    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.norm2, self.norm_y, self.norm3 = (nn.LayerNorm(dim, eps=1e-6) for _ in range(3))
        self.cross_attn = _CrossAttention(dim, heads)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x: Tensor, context: Tensor, rope: RopeTable) -> Tensor:
        x = x + self.cross_attn(self.norm2(x), self.norm_y(context), rope)
        result: Tensor = x + self.mlp(self.norm3(x))
        return result


class MetricDecoder(nn.Module):
    """One query (B, 1, dim) with cross-attention to the tokens of all views (B, S·P, dim) → features (B, 1, out) for
    the metric scale.
    """

    def __init__(self, dim: int, hidden: int, heads: int, depth: int, out: int):
        super().__init__()
        self.projects_x, self.projects_y = nn.Linear(dim, hidden), nn.Linear(dim, hidden)
        self.blocks = nn.ModuleList(_MetricBlock(hidden, heads) for _ in range(depth))
        self.linear_out = nn.Linear(hidden, out)

    def forward(self, query: Tensor, tokens: Tensor, rope: RopeTable) -> Tensor:
        x, context = self.projects_x(query), self.projects_y(tokens)
        for block in self.blocks:
            x = block(x, context, rope)
        result: Tensor = self.linear_out(x)
        return result
