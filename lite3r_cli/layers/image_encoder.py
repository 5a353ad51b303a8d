"""DINOv2 with registers (arXiv 2304.07193, 2309.16588), the image encoder of several networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lite3r_cli.layers.buckets import run_within
from lite3r_cli.layers.vit import Block, ModulesOf, PatchEmbed, resize_position_embedding

REGISTERS = 4


class ImageEncoder(nn.Module):
    """Normalised images (B, channels, H, W) → patch tokens (B, N, C), row-major. H and W are multiples of the patch
    size.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        heads: int,
        patch_size: int,
        position_grid: int,
        channels: int = 3,
        mask_token: bool = False,
    ):
        super().__init__()
        self.patch_size = patch_size
        self.patch_embed = PatchEmbed(dim, patch_size, channels)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + position_grid**2, dim) * 0.02)
        self.register_tokens = nn.Parameter(torch.zeros(1, REGISTERS, dim))
        if mask_token:  # some checkpoints hold it; only pretraining used it
            self.mask_token = nn.Parameter(torch.zeros(1, dim))
        self.blocks = ModulesOf(Block(dim, heads, norm_eps=1e-6) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, images: Tensor, seen: Tensor | None = None) -> Tensor:
        """Patch tokens (B, N, C) of images (B, channels, H, W). Only patches in the mask `seen` (B, N) are keys; None:
        all.
        """
        rows, columns = images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size
        x = self.patch_embed(images)
        x = x + resize_position_embedding(self.pos_embed[:, 1:], rows, columns, antialias=True)
        first = self.cls_token + self.pos_embed[:, :1]
        x = torch.cat([first.expand(len(x), -1, -1), self.register_tokens.expand(len(x), -1, -1), x], dim=1)
        for block in self.blocks:
            x = run_within(block, x, None, seen)
        return self.norm(x[:, 1 + REGISTERS :])
