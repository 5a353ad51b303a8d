"""Semi-global matching (Hirschmüller, PAMI 2008): selects a hypothesis per pixel with a smoothness term."""

from __future__ import annotations

import torch
from torch import Tensor


def select(cost: Tensor, small: float, large_down: Tensor, large_right: Tensor) -> tuple[Tensor, Tensor]:
    """Index (h, w) of the hypothesis with the least cost (D, h, w), as an integer and with sub-step accuracy by a
    parabola.

    `small`: penalty of a change by one between neighbours. `large_down` (h − 1, w), `large_right` (h, w − 1): penalty
    of any larger change. Four paths: along rows and columns, in both directions.
    """
    cost = cost.permute(1, 2, 0).contiguous()  # (h, w, D)
    total = _both_ways(cost, small, large_down)
    total += _both_ways(cost.transpose(0, 1).contiguous(), small, large_right.T).transpose(0, 1)
    best = total.argmin(dim=-1)
    if cost.shape[-1] < 3:
        return best, best.float()
    middle = best.clamp(1, cost.shape[-1] - 2)
    left, centre, right = (total.gather(-1, (middle + k)[..., None])[..., 0] for k in (-1, 0, 1))
    fraction = (0.5 * (left - right) / (left - 2 * centre + right).clamp_min(1e-6)).clamp(-1, 1)
    return best, torch.where(best == middle, middle + fraction, best.float())


def _both_ways(cost: Tensor, small: float, large: Tensor) -> Tensor:
    """Sum of the path costs (n, m, D) from line to line of cost (n, m, D), down and up."""
    total = torch.zeros_like(cost)
    for backwards in (False, True):
        before = None
        for i in range(len(cost) - 1, -1, -1) if backwards else range(len(cost)):
            if before is None:
                now = cost[i]
            else:
                lowest = before.amin(dim=-1, keepdim=True)
                best = torch.minimum(before, lowest + large[i if backwards else i - 1][:, None])
                best[:, 1:] = torch.minimum(best[:, 1:], before[:, :-1] + small)
                best[:, :-1] = torch.minimum(best[:, :-1], before[:, 1:] + small)
                now = best.add_(cost[i]).sub_(lowest)
            total[i] += now
            before = now
    return total
