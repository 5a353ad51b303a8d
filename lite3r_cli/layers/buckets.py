"""Views of any sizes in one network: equal sizes share a bucket for per-view work, all tokens are
packed for work across views.

A bucket holds (B, S_b, P_b, C) tokens; attention across views sees the real tokens of all buckets
in one row, without padding.
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

IMAGE_MEAN = (0.485, 0.456, 0.406)  # ImageNet, as every encoder here was trained with
IMAGE_STD = (0.229, 0.224, 0.225)

CHUNK_FRAMES = {"cpu": 2}  # a GPU needs more views at a time to be busy
HALF_PRECISION = (torch.bfloat16, torch.float16)


def group_by_size(images: Sequence[Tensor]) -> list[list[int]]:
    """Indices of the images of each size, in order of first appearance."""
    return group_sizes([(image.shape[-2], image.shape[-1]) for image in images])


def in_view_order(parts: Sequence[Tensor], groups: Sequence[Sequence[int]]) -> Tensor:
    """Per-bucket values (B, S_b, …) → (B, S, …) in the order of the views."""
    order = torch.tensor([i for group in groups for i in group], device=parts[0].device)
    return torch.cat(list(parts), dim=1)[:, order.argsort()]


def in_buckets(values: Tensor, groups: Sequence[Sequence[int]]) -> list[Tensor]:
    """Values (B, S, …) in the order of the views → per bucket (B, S_b, …)."""
    return [values[:, list(group)] for group in groups]


def normalise(images: Tensor) -> Tensor:
    """RGB (…, 3, H, W) in [0, 1] → what the image encoders expect."""
    mean, std = _mean_and_std(images.device, images.dtype)
    return (images - mean) / std


@cache
def _mean_and_std(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(3, 1, 1) each; kept, because a copy from the host makes it wait for all that the GPU has yet to do."""
    with torch.inference_mode(False):  # first made in `predict`, they must serve training too
        mean, std = (torch.tensor(v, device=device, dtype=dtype).view(3, 1, 1) for v in (IMAGE_MEAN, IMAGE_STD))
    return mean, std


def pack_ropes(ropes: Sequence[RopeTable], views: Sequence[int]) -> RopeTable:
    """Tables of one view of each bucket → the table of all packed tokens."""
    cos, sin = (torch.cat([r[k].repeat(n, 1) for r, n in zip(ropes, views)]) for k in (0, 1))
    return cos, sin


def run_each(
    block: nn.Module, buckets: Sequence[Tensor], ropes: Sequence[RopeTable | None], seen: Seen | None = None
) -> list[Tensor]:
    """A block within each view; only what is `seen` are keys."""
    return [
        run_within(block, b.flatten(0, 1), rope, rows).unflatten(0, b.shape[:2])
        for b, rope, rows in zip(buckets, ropes, Seen.rows(seen, len(buckets)))
    ]


def run_within(block: nn.Module, tokens: Tensor, rope: RopeTable | None, seen: Tensor | None) -> Tensor:
    """A block within views (S, T, C), whose keys are special tokens and the patches `seen` (S, N) bool; None: all."""
    if seen is None:
        return block(tokens, rope)
    out = torch.empty_like(tokens)
    for views, keys in keys_within(seen, tokens.shape[1], tokens.device):
        out[views] = block(tokens[views], rope, keys).to(out.dtype)
    return out


def run_packed(
    block: nn.Module, buckets: Sequence[Tensor], rope: RopeTable | None, seen: Seen | None = None
) -> list[Tensor]:
    """A block across all tokens of all views; only what is `seen` are keys."""
    sizes = [b.shape[1] * b.shape[2] for b in buckets]
    packed = torch.cat([b.flatten(1, 2) for b in buckets], dim=1)
    tokens = [b.shape[2] for b in buckets]
    shards = current()
    if shards is not None:  # keys are those of all views
        seen, specials = shards.seen, shards.specials(packed.shape[1])
        tokens = [specials + rows * columns for rows, columns in shards.grids]
    keys = () if seen is None else (seen.across(tokens, packed.device),)
    with across_views():
        parts = block(packed, rope, *keys).split(sizes, dim=1)
    return [part.unflatten(1, b.shape[1:3]) for part, b in zip(parts, buckets)]


def in_chunks(function: Callable[[list[Tensor]], Tensor], taps: Sequence[Tensor], frames: int | None = None) -> Tensor:
    """`function` of tapped tokens, each (B, S, N, C) → (B·S, …), `frames` views at a time:
    dense heads are the memory peak.
    """
    if frames is None:
        frames = CHUNK_FRAMES.get(taps[0].device.type, 8)
    flat = [t.flatten(0, 1) for t in taps]
    parts = [function([t[i : i + frames] for t in flat]) for i in range(0, len(flat[0]), frames)]
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def trunk_precision(device: torch.device, dtype: torch.dtype) -> AbstractContextManager:
    """Half precision as the authors use it: matrix products in `dtype`, residual stream and norms in float32."""
    return torch.autocast(device.type, dtype) if dtype in HALF_PRECISION else nullcontext()


def own_precision(device: torch.device) -> AbstractContextManager[None]:
    """Inside `trunk_precision`: products in the precision of their operands again. Tensors without values have none."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def cast_products(module: nn.Module, dtype: torch.dtype) -> None:
    """Keep the weights of a module's matrix products in `dtype`; norms, tokens and scales stay in float32."""
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Conv2d)):
            part.to(dtype)
