"""Choose the reference view of Depth-Anything-3, whose camera is the world frame, from the views' class tokens before
the cross-view blocks.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

FEWEST_VIEWS = 3  # with fewer views the first one is the reference


def _similarity(features: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine similarities between views (B, S, S), with the diagonal set to about 0, and unit features (B, S, C)."""
    unit = features / features.norm(dim=-1, keepdim=True)
    cosines = unit @ unit.transpose(1, 2)
    return cosines - torch.eye(features.shape[1], device=features.device, dtype=features.dtype), unit


def _saddle_balanced(features: Tensor) -> Tensor:
    """The view closest to the middle of the range of three measures: mean similarity to the other views, feature norm,
    and feature variance.
    """
    cosines, unit = _similarity(features)
    views = features.shape[1]
    measures = torch.stack([cosines.sum(-1) / (views - 1), features.norm(dim=-1), unit.var(dim=-1)])  # (3, B, S)
    low, high = measures.amin(-1, keepdim=True), measures.amax(-1, keepdim=True)
    return (((measures - low) / (high - low + 1e-8)) - 0.5).abs().sum(0).argmin(-1)


def _saddle_sim_range(features: Tensor) -> Tensor:
    """The view with the largest range of similarities to the others."""
    cosines, _ = _similarity(features)
    return (cosines.amax(-1) - cosines.amin(-1)).argmax(-1)


def _constant(index: Callable[[int], int]) -> Callable[[Tensor], Tensor]:
    return lambda features: torch.full((len(features),), index(features.shape[1]), device=features.device)


STRATEGIES: dict[str, Callable[[Tensor], Tensor]] = {
    "saddle_balanced": _saddle_balanced,
    "saddle_sim_range": _saddle_sim_range,
    "middle": _constant(lambda views: views // 2),
    "first": _constant(lambda views: 0),
}


def choose_reference(features: Tensor, strategy: str = "saddle_balanced") -> Tensor:
    """Class tokens (B, S, C) → index of the reference view (B,). Raises KeyError if the strategy is
    not in STRATEGIES.
    """
    choose = STRATEGIES[strategy]
    if features.shape[1] < FEWEST_VIEWS:
        return torch.zeros(len(features), dtype=torch.long, device=features.device)
    with torch.autocast(features.device.type, enabled=False):  # rounding to half precision could change the choice
        return choose(features.float())
