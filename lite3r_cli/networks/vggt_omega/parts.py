"""Layers that only VGGT-Ω uses: a masked bias, its RoPE, its image encoder and its heads."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lite3r_cli.layers.buckets import run_within
from lite3r_cli.layers.heads.dpt import DPTConfig, DPTHead, add_position
from lite3r_cli.layers.vit import Block, HalvesTable, ModulesOf, PatchEmbed

EPS = 1e-5  # of every LayerNorm
STORAGE = 4  # storage tokens of the encoder
SMALLEST_FOV = 0.01  # radians


class MaskedBiasLinear(nn.Linear):
    """A linear layer with bias `bias ⊙ bias_mask`; the mask is a constant that checkpoints store."""

    bias_mask: Tensor

    def __init__(self, in_features: int, out_features: int, mask: Tensor):
        super().__init__(in_features, out_features)
        self.register_buffer("bias_mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias * self.bias_mask)


def block(dim: int, heads: int, qk_norm: bool) -> Block:
    """A transformer block whose keys have no bias: without QK-norm it would cancel in the softmax."""
    made = Block(dim, heads, norm_eps=EPS, qk_norm=qk_norm, layer_scale=0.01)
    made.attn.qkv = MaskedBiasLinear(dim, 3 * dim, key_bias_mask(dim))
    return made


def key_bias_mask(dim: int) -> Tensor:
    """The bias mask (3·dim,): 1 for queries and values, 0 for keys."""
    mask = torch.ones(3, dim)
    mask[1] = 0
    return mask.flatten()


class RopePeriods(nn.Module):
    """Axial RoPE of continuous positions, as in DINOv3 (arXiv 2508.10104). The periods are constants that checkpoints
    store.
    """

    periods: Tensor

    def __init__(self, head_dim: int):
        super().__init__()
        self.register_buffer("periods", rope_periods(head_dim))

    def table(self, rows: int, columns: int, specials: int) -> HalvesTable:
        """The table for `specials` tokens, which are not rotated, and rows·columns patches, row-major.

        Positions are relative to the longer side of the grid: from −1 to 1 along it, from −1 to a smaller end along the
        other side.
        """
        device, longest = self.periods.device, max(rows, columns)
        y, x = (torch.arange(0.5, n, device=device) / longest * 2.0 - 1.0 for n in (rows, columns))
        ty, tx = (2 * math.pi * c[:, None] / self.periods for c in (y, x))  # (n, D/4)
        angle = torch.cat([ty[:, None].expand(-1, columns, -1), tx[None].expand(rows, -1, -1)], dim=-1).flatten(0, 1)
        angle = torch.cat([angle, angle], dim=-1)
        angle = torch.cat([angle.new_zeros(specials, angle.shape[1]), angle])
        return HalvesTable((angle.cos(), angle.sin()))


def rope_periods(head_dim: int) -> Tensor:
    """The periods (D/4,): 100^(4j/D)."""
    return 100.0 ** (4 * torch.arange(head_dim // 4) / head_dim)


class ImageEncoder16(nn.Module):
    """A ViT/16 similar to DINOv3: normalised images (B, 3, H, W) → patch tokens (B, N, C)."""

    def __init__(self, dim: int, depth: int, heads: int, patch_size: int):
        super().__init__()
        self.patch_size = patch_size
        self.patch_embed = PatchEmbed(dim, patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.storage_tokens = nn.Parameter(torch.zeros(1, STORAGE, dim))
        self.mask_token = nn.Parameter(torch.zeros(1, dim))  # in the checkpoint; only pretraining used it
        self.rope_embed = RopePeriods(dim // heads)
        self.blocks = ModulesOf(block(dim, heads, qk_norm=False) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=EPS)

    def forward(self, images: Tensor, seen: Tensor | None = None) -> Tensor:
        """Only patches in the mask `seen` (B, N) are used as keys; None: all."""
        rows, columns = images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size
        x = self.patch_embed(images)
        special = torch.cat([self.cls_token, self.storage_tokens], dim=1)
        x = torch.cat([special.expand(len(x), -1, -1), x], dim=1)
        rope = self.rope_embed.table(rows, columns, 1 + STORAGE)
        for part in self.blocks:
            x = run_within(part, x, rope, seen)
        result: Tensor = self.norm(x[:, 1 + STORAGE :])
        return result


class OneRoundCameraHead(nn.Module):
    """Special tokens of all views (B, S, T, 2C) → pose vectors (B, S, 9): cam_from_world translation, quaternion,
    vertical and horizontal field of view in radians.
    """

    def __init__(self, dim: int, depth: int, heads: int):
        super().__init__()
        self.token_norm, self.trunk_norm = nn.LayerNorm(dim, eps=EPS), nn.LayerNorm(dim, eps=EPS)
        self.trunk = nn.ModuleList(block(dim, heads, qk_norm=False) for _ in range(depth))
        self.camera_branch = nn.Sequential(nn.Linear(dim, dim // 2), nn.GELU(), nn.Linear(dim // 2, 9))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token_norm(tokens).flatten(1, 2)
        for part in self.trunk:
            x = part(x)
        camera = self.trunk_norm(x.unflatten(1, tokens.shape[1:3])[:, :, 0])
        raw = self.camera_branch(camera)
        return torch.cat([raw[..., :7], F.relu(raw[..., 7:]) + SMALLEST_FOV], dim=-1)


class PixelShuffleHead(DPTHead):
    """A DPT head that ends at 4 times the size of the patch grid, where each cell predicts its 4×4 pixels."""

    FINEST = 4
    CELL = 4

    def __init__(self, config: DPTConfig):
        super().__init__(config, self.FINEST * self.CELL)
        del self.scratch.output_conv1, self.scratch.output_conv2
        self.proj, self.proj_conf = (nn.Conv2d(config.features, self.CELL**2, 1) for _ in range(2))

    def decode(self, levels: Sequence[Tensor], rows: int, columns: int) -> Tensor:
        """Levels → raw depth and confidence (B, 2, 16·rows, 16·columns)."""
        top = add_position(self.fuse(levels, rows, columns), columns / rows, self.position_precision)
        return torch.cat([F.pixel_shuffle(head(top), self.CELL) for head in (self.proj, self.proj_conf)], dim=1)
