"""Images → patch tokens with one matrix product, a few frames at a time, written into the token
buffer of the blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from lite3r_cli.engine.layers import Prepared, Tokens
from lite3r_cli.engine.operators import biased, operators
from lite3r_cli.layers.buckets import IMAGE_MEAN, IMAGE_STD
from lite3r_cli.layers.vit import PatchEmbed

FRAMES = 16  # frames at a time
ALIGNED = 8  # columns are padded to this multiple: half-precision products are faster with rows of 16·n bytes


class Patches:
    """Patch embedding with the weights of the network's own `embed`, in `dtype`."""

    def __init__(self, embed: PatchEmbed, dtype: torch.dtype, kernels: bool | None = None):
        weight = embed.proj.weight.detach()
        self.side, inputs = weight.shape[-1], weight[0].numel()
        self.weight = F.pad(weight.flatten(1), (0, -inputs % ALIGNED)).to(dtype)
        self.bias = biased(embed.proj)[1].float()
        self.operators = operators(weight.device, kernels)
        # on the device, because a graph capture cannot copy from the host
        self.mean, self.std = (torch.tensor(v, device=weight.device) for v in (IMAGE_MEAN, IMAGE_STD))

    def __call__(self, images: Tensor, embedding: Tensor, first: Tensor, out: Tensor) -> None:
        """Images (S, 3, H, W) → tokens in `out` (S, specials + N, C): `first` (specials, C), then patches plus
        `embedding` (N, C).
        """
        specials, inputs, dtype = len(first), self.weight.shape[1], self.weight.dtype
        out[:, :specials] = first.to(dtype)
        shift = embedding + self.bias
        for start in range(0, len(images), FRAMES):
            part = slice(start, start + FRAMES)
            rows = self.operators.patch_rows(images[part], self.mean, self.std, self.side, inputs, dtype)
            torch.add(F.linear(rows, self.weight), shift, out=out[part, specials:])  # `shift` is float32: rounds once

    def tokens(
        self, images: Sequence[Tensor], embeddings: Sequence[Tensor], first: Tensor, prepared: Prepared
    ) -> Tokens:
        """Images (S_b, 3, H, W) and position embeddings (N_b, C) of each size → the tokens of all views."""
        x = torch.empty(prepared.packing.tokens, len(self.weight), device=images[0].device, dtype=self.weight.dtype)
        for bucket, stack, embedding in zip(prepared.packing.buckets, images, embeddings):
            self(stack, embedding, first, bucket.frames(x))
        return Tokens(x, prepared)
