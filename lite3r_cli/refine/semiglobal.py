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
    """Sum of the path costs (n, m, D) from line to line of cost (n, m, D), down and up. Both paths are followed at
    once, with few operations a line: lines are so short that the number of operations counts.
    """
    lines = torch.stack([cost, cost.flip(0)], dim=1)  # (n, 2, m, D)
    jumps = torch.stack([large, large.flip(0)], dim=1)[..., None]
    paths = torch.empty_like(lines)
    padded = torch.nn.functional.pad(lines[0], (1, 1), value=torch.inf)
    before, lower, higher = padded[..., 1:-1], padded[..., :-2], padded[..., 2:]
    paths[0] = lines[0]
    for now, jump, line in zip(paths[1:].unbind(), jumps.unbind(), lines[1:].unbind()):
        lowest = before.amin(dim=-1, keepdim=True)
        torch.minimum(lower, higher, out=now).add_(small)
        torch.minimum(now, before, out=now)
        torch.minimum(now, lowest + jump, out=now).add_(line).sub_(lowest)
        before.copy_(now)
    return paths[:, 0] + paths[:, 1].flip(0)
