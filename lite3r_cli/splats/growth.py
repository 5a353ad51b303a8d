"""Adaptive density control: clone, split and remove Gaussians (Kerbl et al. 2023, section 5).

A Gaussian whose image position has a large mean gradient is too coarse: a small one is cloned, a large one is split
into two smaller ones. Transparent Gaussians are removed.
"""

from __future__ import annotations

import math

import torch

from .gaussian_set import GaussianSet

MOVING = 2e-4  # a Gaussian is too coarse above this mean gradient of its position, in half image sides
SMALL = 0.01  # largest scale of a small Gaussian, relative to the scene's extent
SPLIT = 1.6  # the scale of a split Gaussian is divided by this
FADED = 0.005  # Gaussians with less opacity are removed


class Growth:
    """Collects gradients with `add` in each step; `grow` changes the Gaussians and the optimiser states."""

    def __init__(self, splats: GaussianSet, optimisers: dict[str, torch.optim.Optimizer], most: int) -> None:
        self.splats, self.optimisers, self.most = splats, optimisers, most
        self.clear()

    def clear(self) -> None:
        """Forget the collected gradients."""
        mean = self.splats.parameters["means"]
        self.sums, self.counts = mean.new_zeros(len(mean)), mean.new_zeros(len(mean))

    @torch.no_grad()
    def add(self, gradient: torch.Tensor, width: int, height: int) -> None:
        """Add the gradient (N, 2) with respect to the image positions in pixels, for one image of this size."""
        length = torch.hypot(gradient[:, 0] * (width / 2), gradient[:, 1] * (height / 2))
        self.sums += length
        self.counts += length > 0

    @torch.no_grad()
    def grow(self, random: torch.Generator) -> None:
        """Clone, split and remove Gaussians."""
        p = self.splats.parameters
        coarse = self.sums / self.counts.clamp(min=1) > MOVING
        if len(coarse) + int(coarse.sum()) > self.most:
            coarse = torch.zeros_like(coarse)
        large = torch.exp(p["scales"]).amax(-1) > SMALL
        doubled, halved = (coarse & ~large).nonzero()[:, 0], (coarse & large).nonzero()[:, 0]
        stays = torch.sigmoid(p["opacity"]) > FADED
        stays[halved] = False
        axes = self.splats.axes()[halved]
        parts = {name: [value, value[doubled]] for name, value in p.items()}
        for _ in range(2):
            shift = torch.randn(len(halved), 3, generator=random, device=axes.device)
            for name, value in p.items():
                half = value[halved].clone()
                if name == "means":
                    half += torch.einsum("nij,nj->ni", axes, shift)
                elif name == "scales":
                    half -= math.log(SPLIT)
                parts[name].append(half)
        added = len(doubled) + 2 * len(halved)
        keep = torch.cat([stays, stays.new_ones(added)])
        for name, pieces in parts.items():
            self._replace(name, torch.cat(pieces)[keep], stays, added)
        self.clear()

    def _replace(self, name: str, value: torch.Tensor, stays: torch.Tensor, added: int) -> None:
        """Replace a parameter and the moments of its optimiser; the moments of new Gaussians are 0."""
        old = self.splats.parameters[name]
        new = value.detach().requires_grad_()
        self.splats.parameters[name] = new
        optimiser = self.optimisers[name]
        state = optimiser.state.pop(old, {})
        optimiser.param_groups[0]["params"] = [new]
        for key in ("exp_avg", "exp_avg_sq"):
            if key in state:
                moment = state[key]
                state[key] = torch.cat([moment[stays], moment.new_zeros(added, *moment.shape[1:])])
        if state:
            optimiser.state[new] = state
