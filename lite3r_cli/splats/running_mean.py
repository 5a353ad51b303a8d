"""The running mean of a training's Gaussians: a single step follows one photograph, the mean follows all of them."""

from __future__ import annotations

import torch

from .gaussian_set import GaussianSet


class RunningMean:
    """Mean of the parameters over the last steps. The past has the weight `weight` per step, so that about
    1 / (1 − weight) steps count; before so many, all count equally. The number of Gaussians must stay the same.
    """

    def __init__(self, weight: float) -> None:
        self.weight, self.count = weight, 0
        self.current: GaussianSet | None = None

    @torch.no_grad()
    def add(self, splats: GaussianSet) -> None:
        """Take the present parameters into the mean."""
        self.count += 1
        if self.current is None:
            self.current = splats.copy()
            return
        mean, new = self.current.parameters, splats.parameters
        share = 1 - min(self.weight, 1 - 1 / self.count)
        torch._foreach_lerp_([mean[name] for name in new], list(new.values()), share)
