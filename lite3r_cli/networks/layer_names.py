"""What the facts of several networks have in common: names of layers, and configurations read off shapes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]


def count_layers(shapes: Shapes, pattern: str) -> int:
    """How many layers of a list there are: `pattern` has one group, the index."""
    return 1 + max((int(m[1]) for name in shapes if (m := re.match(pattern, name))), default=-1)


def dpt_sizes(shapes: Shapes, prefix: str) -> dict[str, Any]:
    """The widths of a DPT head whose tensors start with `prefix`. Raises KeyError."""
    return {
        "head_features": shapes[f"{prefix}.scratch.layer1_rn.weight"][0],
        "head_stages": tuple(shapes[f"{prefix}.projects.{i}.weight"][0] for i in range(4)),
    }


def aggregator_sizes(shapes: Shapes, dense_head: str) -> dict[str, Any]:
    """What VGGT and the networks that follow its plan tell by their shapes alone. Raises KeyError.

    Pairs of blocks, within and across views, under `aggregator`; a camera head; a DPT head under the name `dense_head`.
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
    """The output layers of the attention of an aggregator's last pair of blocks; `across` names the second kind."""
    return lambda config: [f"aggregator.{kind}_blocks.{config.pairs - 1}.attn.proj" for kind in ("frame", across)]


def alternating(prefix: str) -> Callable[[Any], list[str]]:
    """Global layers of a network whose configuration has `depth` blocks and tells which of them `is_global`."""
    return lambda config: [f"{prefix}{i}.attn" for i in range(config.depth) if config.is_global(i)]


def last_two(prefix: str) -> Callable[[Any], list[str]]:
    """The output layers of the attention of the last two of `depth` blocks."""
    return lambda config: [f"{prefix}{i}.attn.proj" for i in range(max(0, config.depth - 2), config.depth)]
