"""Helpers for the facts of several networks: names of layers, and configurations from tensor shapes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]


def count_layers(shapes: Shapes, pattern: str) -> int:
    """The number of layers whose tensor names match `pattern`, whose one group is the layer index."""
    return 1 + max((int(m[1]) for name in shapes if (m := re.match(pattern, name))), default=-1)


def dpt_sizes(shapes: Shapes, prefix: str) -> dict[str, Any]:
    """The widths of the DPT head whose tensor names start with `prefix`. Raises KeyError if one is missing."""
    return {
        "head_features": shapes[f"{prefix}.scratch.layer1_rn.weight"][0],
        "head_stages": tuple(shapes[f"{prefix}.projects.{i}.weight"][0] for i in range(4)),
    }


def aggregator_sizes(shapes: Shapes, dense_head: str) -> dict[str, Any]:
    """The configuration of VGGT and networks of the same layout, as far as shapes determine it. Raises KeyError.

    The layout: pairs of blocks, within and across views, under `aggregator`; a camera head; a DPT head `dense_head`.
    """
    dim = shapes["aggregator.camera_token"][-1]
    return {
        "dim": dim,
        "pairs": count_layers(shapes, r"aggregator\.frame_blocks\.(\d+)\."),
        "heads": dim // shapes["aggregator.frame_blocks.0.attn.q_norm.weight"][0],
        "encoder_depth": count_layers(shapes, r"aggregator\.patch_embed\.blocks\.(\d+)\."),
        "camera_depth": count_layers(shapes, r"camera_head\.trunk\.(\d+)\."),
        **dpt_sizes(shapes, dense_head),
    }


def last_pair(across: str) -> Callable[[Any], list[str]]:
    """A function: configuration → output projections of the attention in the last pair of blocks. `across` is the name
    of the cross-view blocks.
    """
    return lambda config: [f"aggregator.{kind}_blocks.{config.pairs - 1}.attn.proj" for kind in ("frame", across)]


def alternating(prefix: str) -> Callable[[Any], list[str]]:
    """A function: configuration with `depth` and `is_global(i)` → names of the cross-view attention modules."""
    return lambda config: [f"{prefix}{i}.attn" for i in range(config.depth) if config.is_global(i)]


def last_two(prefix: str) -> Callable[[Any], list[str]]:
    """A function: configuration with `depth` → output projections of the attention in the last two blocks."""
    return lambda config: [f"{prefix}{i}.attn.proj" for i in range(max(0, config.depth - 2), config.depth)]
