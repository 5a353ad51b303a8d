"""Images → patch tokens by one matrix product, a few frames at a time, into the buffer that the blocks then work on."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lite3r_cli.engine.operators import operators
from lite3r_cli.layers.buckets import IMAGE_MEAN, IMAGE_STD
from lite3r_cli.layers.vit import PatchEmbed

FRAMES = 16  # whose patches exist beside their tokens at a time
ALIGNED = 8  # columns: products of half precision like rows of whole sixteen bytes


class Patches:
    def __init__(self, embed: PatchEmbed, dtype: torch.dtype, kernels: bool | None = None):
        weight = embed.proj.weight.detach()
        self.side, inputs = weight.shape[-1], weight[0].numel()
        self.weight = F.pad(weight.flatten(1), (0, -inputs % ALIGNED)).to(dtype)
        self.bias = embed.proj.bias.detach().float()
        self.operators = operators(weight.device, kernels)
        # kept on the device: a graph that is being recorded cannot copy from the host
        self.mean, self.std = (torch.tensor(v, device=weight.device) for v in (IMAGE_MEAN, IMAGE_STD))

    def __call__(self, images: Tensor, embedding: Tensor, first: Tensor) -> Tensor:
        """Images (S, 3, H, W) → tokens (S, specials + N, C): `first` (specials, C), patches plus `embedding` (N, C)."""
        views, specials = len(images), len(first)
        (channels, inputs), dtype = self.weight.shape, self.weight.dtype
        x = torch.empty(views, specials + len(embedding), channels, device=images.device, dtype=dtype)
        x[:, :specials] = first.to(dtype)
        shift = embedding + self.bias
        for start in range(0, views, FRAMES):
            part = slice(start, start + FRAMES)
            rows = self.operators.patch_rows(images[part], self.mean, self.std, self.side, inputs, dtype)
            torch.add(F.linear(rows, self.weight), shift, out=x[part, specials:])  # float32 inside, rounded once
        return x
