"""A short training of Gaussians on a few photographs: it ends where photographs that it does not see no longer gain.

The loss is that of Kerbl et al. 2023, 0.8 L1 + 0.2 (1 − SSIM), and the difference of inverse depths from the views' own
depth maps. Ten photographs are learnt by heart within some thousand steps, and what was not photographed gets worse.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from .gaussian_set import GaussianSet
from .growth import Growth
from .likeness import psnr, ssim
from .rasteriser import rasterise
from .shapes import Camera, ellipses

RATES = {"means": 1.6e-4, "scales": 5e-3, "quaternions": 1e-3, "opacity": 5e-2, "sh0": 2.5e-3, "shn": 1.25e-4}
LAST_RATE = 0.01  # of the means' first
PATIENCE = 3  # looks at the held-out photographs without a gain, after which the training ends
GAIN = 0.02  # decibels that count as one
GROWS = (0.1, 0.6)  # shares of the steps between which Gaussians are added
BETWEEN = 100  # steps from one growth to the next


@dataclass(frozen=True)
class Shot:
    """A photograph (3, H, W) in [0, 1] with its camera and, where known, its depth (H, W), 0 = unknown."""

    name: str
    picture: torch.Tensor
    camera: Camera
    depth: torch.Tensor | None = None


@dataclass(frozen=True)
class Recipe:
    """How to train."""

    steps: int = 2000
    look_every: int = 200  # steps from one look at the held-out photographs to the next
    degree: int = 2  # of the spherical harmonics, reached one after the other
    degree_every: int = 500
    depth_weight: float = 0.05
    opacity_weight: float = 0.0  # of the mean opacity and of the mean width: what is not needed fades and shrinks
    scale_weight: float = 0.0
    grow: bool = True
    most: int = 1_500_000  # Gaussians
    seed: int = 0


@dataclass(frozen=True)
class Look:
    """What the held-out photographs said at a step."""

    step: int
    psnr: float
    ssim: float
    gaussians: int


@dataclass
class Fitted:
    """The best Gaussians; without held-out photographs the last ones."""

    splats: GaussianSet
    step: int = 0
    looks: list[Look] = field(default_factory=list)

    @property
    def best(self) -> Look | None:
        return next((look for look in self.looks if look.step == self.step), None)


def fit(
    splats: GaussianSet,
    shots: Sequence[Shot],
    held_out: Sequence[Shot],
    recipe: Recipe = Recipe(),
    told: Callable[[int, Look | None], None] = lambda step, look: None,
) -> Fitted:
    """Train `splats`, which are changed, on `shots`. `told` hears of every step, and of every look.

    The scene is of size 1: the cameras lie in a ball of about that radius around the origin.
    """
    device = splats.parameters["means"].device
    random = torch.Generator(device).manual_seed(recipe.seed)
    turns = torch.Generator().manual_seed(recipe.seed)
    fused = device.type == "cuda"
    optimisers: dict[str, torch.optim.Optimizer] = {
        name: torch.optim.Adam([splats.parameters[name]], lr=rate, eps=1e-15, fused=fused)
        for name, rate in RATES.items()
    }
    growth = Growth(splats, optimisers, recipe.most)
    found, waiting = Fitted(splats), 0
    order: list[int] = []
    for step in range(1, recipe.steps + 1):
        order = order or torch.randperm(len(shots), generator=turns).tolist()
        shot = shots[order.pop()]
        degree = min(step // recipe.degree_every, recipe.degree)
        loss, rows = _loss(splats, shot, degree, recipe)
        loss.backward()
        optimisers["means"].param_groups[0]["lr"] = RATES["means"] * LAST_RATE ** (step / recipe.steps)
        for optimiser in optimisers.values():
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        if recipe.grow and GROWS[0] * recipe.steps <= step < GROWS[1] * recipe.steps:
            assert rows.grad is not None
            growth.add(rows.grad[:, :2], shot.camera.width, shot.camera.height)
            if step % BETWEEN == 0:
                growth.grow(random)
        look = None
        if held_out and (step % recipe.look_every == 0 or step == recipe.steps):
            look = look_at(splats, held_out, degree, step)
            gains = not found.looks or look.psnr > max(each.psnr for each in found.looks) + GAIN
            found.looks.append(look)
            if gains:
                found.splats, found.step, waiting = splats.copy(), step, 0
            else:
                waiting += 1
        told(step, look)
        if waiting >= PATIENCE:
            break
    return found if held_out else Fitted(splats.copy(), recipe.steps)


def draw(splats: GaussianSet, camera: Camera, degree: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The picture (3, H, W), inverse depth (H, W), 0 where nothing is, and the ellipses' rows."""
    rows, boxes = ellipses(splats, camera, degree)
    if rows.requires_grad:
        rows.retain_grad()
    out = rasterise(rows, boxes, camera.width, camera.height)
    cover, depth = out[..., 4], out[..., 3]
    inverse = torch.where(cover > 0.5, cover / depth.clamp(min=1e-6), torch.zeros_like(cover))
    return out[..., :3].permute(2, 0, 1), inverse, rows


def _loss(splats: GaussianSet, shot: Shot, degree: int, recipe: Recipe) -> tuple[torch.Tensor, torch.Tensor]:
    picture, inverse, rows = draw(splats, shot.camera, degree)
    loss = 0.8 * (picture - shot.picture).abs().mean() + 0.2 * (1 - ssim(picture, shot.picture))
    if recipe.opacity_weight or recipe.scale_weight:
        loss = loss + recipe.opacity_weight * torch.sigmoid(splats.parameters["opacity"]).mean()
        loss = loss + recipe.scale_weight * torch.exp(splats.parameters["scales"]).mean()
    if recipe.depth_weight and shot.depth is not None:
        known = (shot.depth > 0) & (inverse > 0)
        apart = torch.where(known, inverse - 1 / shot.depth.clamp(min=1e-6), torch.zeros_like(inverse))
        loss = loss + recipe.depth_weight * apart.abs().mean()
    return loss, rows


@torch.no_grad()
def look_at(splats: GaussianSet, shots: Sequence[Shot], degree: int, step: int) -> Look:
    """Mean PSNR and SSIM of photographs."""
    pictures = [draw(splats, shot.camera, degree)[0].clamp(0, 1) for shot in shots]
    likeness = [psnr(picture, shot.picture) for picture, shot in zip(pictures, shots)]
    alike = [float(ssim(picture, shot.picture)) for picture, shot in zip(pictures, shots)]
    return Look(step, math.fsum(likeness) / len(shots), math.fsum(alike) / len(shots), len(splats))
