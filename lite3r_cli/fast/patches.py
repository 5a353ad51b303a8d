"""Images → patch tokens by one matrix product, a few frames at a time, into the buffer that the blocks then work on."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lite3r_cli.backbones.buckets import IMAGE_MEAN, IMAGE_STD
from lite3r_cli.backbones.vit import PatchEmbed

FRAMES = 16  # whose float32 pixels exist twice at a time
ALIGNED = 8  # columns: products of half precision like rows of whole sixteen bytes


class Patches:
    def __init__(self, embed: PatchEmbed, dtype: torch.dtype):
        weight = embed.proj.weight.detach()
        self.side, self.inputs = weight.shape[-1], weight[0].numel()
        self.padding = -self.inputs % ALIGNED
        self.weight = F.pad(weight.flatten(1), (0, self.padding)).to(dtype)
        self.bias = embed.proj.bias.detach().to(dtype)
        # kept on the device: a graph that is being recorded cannot copy from the host
        self.mean, self.std = (torch.tensor(v, device=weight.device).view(3, 1, 1) for v in (IMAGE_MEAN, IMAGE_STD))

    def __call__(self, images: Tensor, embedding: Tensor, first: Tensor) -> Tensor:
        """Images (S, 3, H, W) → tokens (S, specials + N, C): `first` (specials, C), patches plus `embedding` (N, C)."""
        side, specials = self.side, len(first)
        views, _, height, width = images.shape
        rows, columns = height // side, width // side
        like = dict(device=images.device, dtype=self.weight.dtype)
        x = torch.empty(views, specials + rows * columns, len(self.weight), **like)
        x[:, :specials] = first.to(x.dtype)
        for start in range(0, views, FRAMES):
            part = slice(start, start + FRAMES)
            pixels = ((images[part] - self.mean) / self.std).to(x.dtype)
            pixels = pixels.unflatten(3, (columns, side)).unflatten(2, (rows, side)).permute(0, 2, 4, 1, 3, 5)
            pixels = F.pad(pixels.reshape(-1, rows * columns, self.inputs), (0, self.padding))
            x[part, specials:] = F.linear(pixels, self.weight, self.bias).float() + embedding
        return x
