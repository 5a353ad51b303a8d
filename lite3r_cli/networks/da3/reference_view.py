"""Which view's camera becomes the world frame of Depth-Anything-3, from the views' class tokens halfway through."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

FEWEST_VIEWS = 3  # with fewer the first view is the reference


def _similarity(features: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines between views, the diagonal near 0 (B, S, S), and the unit features (B, S, C)."""
    unit = features / features.norm(dim=-1, keepdim=True)
    cosines = unit @ unit.transpose(1, 2)
    return cosines - torch.eye(features.shape[1], device=features.device, dtype=features.dtype), unit


def _saddle_balanced(features: Tensor) -> Tensor:
    """The view nearest to the middle of the range in similarity to the others, feature norm and feature variance."""
    cosines, unit = _similarity(features)
    views = features.shape[1]
    measures = torch.stack([cosines.sum(-1) / (views - 1), features.norm(dim=-1), unit.var(dim=-1)])  # (3, B, S)
    low, high = measures.amin(-1, keepdim=True), measures.amax(-1, keepdim=True)
    return (((measures - low) / (high - low + 1e-8)) - 0.5).abs().sum(0).argmin(-1)


def _saddle_sim_range(features: Tensor) -> Tensor:
    """The view whose similarities to the others spread most."""
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
    """Class tokens (B, S, C) → index of the reference view (B,). Raises KeyError for a
    strategy that is not in STRATEGIES.
    """
    choose = STRATEGIES[strategy]
    if features.shape[1] < FEWEST_VIEWS:
        return torch.zeros(len(features), dtype=torch.long, device=features.device)
    with torch.autocast(features.device.type, enabled=False):  # half precision could choose another view
        return choose(features.float())
