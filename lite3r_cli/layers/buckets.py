"""Views of different sizes in one network. Views of equal size share a bucket for layers within a view; for layers
across views, the tokens of all buckets are packed into one sequence.

A bucket holds tokens (B, S_b, P_b, C): S_b views of P_b tokens. The packed sequence has no padding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
from torch import Tensor, nn

from lite3r_cli.layers.seen import Seen, keys_within
from lite3r_cli.layers.view_shards import across_views, current, group_sizes
from lite3r_cli.layers.vit import RopeTable

IMAGE_MEAN = (0.485, 0.456, 0.406)  # ImageNet statistics; every encoder here was trained with them
IMAGE_STD = (0.229, 0.224, 0.225)

CHUNK_FRAMES = {"cpu": 2}  # views at a time; a GPU needs more to be busy
HALF_PRECISION = (torch.bfloat16, torch.float16)


def group_by_size(images: Sequence[Tensor]) -> list[list[int]]:
    """Indices of the images (…, H, W) of each size, in order of first appearance."""
    return group_sizes([(image.shape[-2], image.shape[-1]) for image in images])


def in_view_order(parts: Sequence[Tensor], groups: Sequence[Sequence[int]]) -> Tensor:
    """Per-bucket values (B, S_b, …) → (B, S, …) in the order of the views."""
    values = torch.cat(list(parts), dim=1)
    if len(groups) == 1:  # in this order already; and a list of numbers would have to be copied to the device
        return values
    order = torch.tensor([i for group in groups for i in group], device=values.device)
    return values[:, order.argsort()]


def in_buckets(values: Tensor, groups: Sequence[Sequence[int]]) -> list[Tensor]:
    """Values (B, S, …) in the order of the views → per bucket (B, S_b, …)."""
    return [values[:, list(group)] for group in groups]


def normalise(images: Tensor) -> Tensor:
    """RGB (…, 3, H, W) in [0, 1] → normalised by the ImageNet mean and standard deviation."""
    mean, std = _mean_and_std(images.device, images.dtype)
    return (images - mean) / std


@cache
def _mean_and_std(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(3, 1, 1) each. Cached, because copying them from the host would synchronise with the GPU."""
    with torch.inference_mode(False):  # a cached tensor from a prediction must also work in training
        mean, std = (torch.tensor(v, device=device, dtype=dtype).view(3, 1, 1) for v in (IMAGE_MEAN, IMAGE_STD))
    return mean, std


def pack_ropes(ropes: Sequence[RopeTable], views: Sequence[int]) -> RopeTable:
    """RoPE tables of one view per bucket, and the number of views per bucket → the table of all packed tokens."""
    cos, sin = (torch.cat([r[k].repeat(n, 1) for r, n in zip(ropes, views)]) for k in (0, 1))
    return cos, sin


def run_each(
    block: nn.Module, buckets: Sequence[Tensor], ropes: Sequence[RopeTable | None], seen: Seen | None = None
) -> list[Tensor]:
    """Run a block within each view of `buckets`, (B, S_b, P_b, C) each. Only patches in `seen` are keys."""
    return [
        run_within(block, b.flatten(0, 1), rope, rows).unflatten(0, b.shape[:2])
        for b, rope, rows in zip(buckets, ropes, Seen.rows(seen, len(buckets)))
    ]


def run_within(block: nn.Module, tokens: Tensor, rope: RopeTable | None, seen: Tensor | None) -> Tensor:
    """Run a block within each view of `tokens` (S, T, C). Keys are the special tokens and the patches in the mask
    `seen` (S, N); None: all.
    """
    if seen is None:
        return block(tokens, rope)
    out = torch.empty_like(tokens)
    for views, keys in keys_within(seen, tokens.shape[1], tokens.device):
        out[views] = block(tokens[views], rope, keys).to(out.dtype)
    return out


def run_packed(
    block: nn.Module, buckets: Sequence[Tensor], rope: RopeTable | None, seen: Seen | None = None
) -> list[Tensor]:
    """Run a block over the packed tokens of all views. Only special tokens and patches in `seen` are keys."""
    sizes = [b.shape[1] * b.shape[2] for b in buckets]
    packed = torch.cat([b.flatten(1, 2) for b in buckets], dim=1)
    tokens = [b.shape[2] for b in buckets]
    shards = current()
    if shards is not None:  # keys come from the views of all processes
        seen, specials = shards.seen, shards.specials(packed.shape[1])
        tokens = [specials + rows * columns for rows, columns in shards.grids]
    keys = () if seen is None else (seen.across(tokens, packed.device),)
    with across_views():
        parts = block(packed, rope, *keys).split(sizes, dim=1)
    return [part.unflatten(1, b.shape[1:3]) for part, b in zip(parts, buckets)]


def in_chunks(function: Callable[[list[Tensor]], Tensor], taps: Sequence[Tensor], frames: int | None = None) -> Tensor:
    """Apply `function` to the tapped tokens, (B, S, N, C) each, `frames` views at a time → (B·S, …). This limits
    memory: dense heads need the most.
    """
    if frames is None:
        frames = CHUNK_FRAMES.get(taps[0].device.type, 8)
    flat = [t.flatten(0, 1) for t in taps]
    parts = [function([t[i : i + frames] for t in flat]) for i in range(0, len(flat[0]), frames)]
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def trunk_precision(device: torch.device, dtype: torch.dtype) -> AbstractContextManager:
    """Mixed precision of the original networks: products in `dtype`, residual stream and norms in float32."""
    return torch.autocast(device.type, dtype) if dtype in HALF_PRECISION else nullcontext()


def own_precision(device: torch.device) -> AbstractContextManager[None]:
    """Switches autocast off inside `trunk_precision`. The meta device has no autocast."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def cast_products(module: nn.Module, dtype: torch.dtype) -> None:
    """Convert the weights of a module's matrix products to `dtype`, in place; norms, tokens and scales stay float32."""
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Conv2d)):
            part.to(dtype)
