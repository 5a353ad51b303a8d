"""A short training of Gaussian splats on a few photographs, with early stopping on held-out photographs.

The loss is that of Kerbl et al. 2023, 0.8 L1 + 0.2 (1 − SSIM), plus the L1 error of inverse depth against the views'
depth maps. Early stopping is needed because ten photographs are overfitted within some thousand steps, and novel views
then get worse.
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
from .running_mean import RunningMean
from .shapes import Camera, ellipses

RATES = {"means": 1.6e-4, "scales": 5e-3, "quaternions": 1e-3, "opacity": 5e-2, "sh0": 2.5e-3, "shn": 1.25e-4}
LAST_RATE = 0.01  # last learning rate of the means relative to the first
PATIENCE = 3  # training ends after this many validations without a gain
GAIN = 0.02  # dB of PSNR that count as a gain
GROWS = (0.1, 0.6)  # Gaussians are added between these shares of the steps
BETWEEN = 100  # steps between two growth steps


@dataclass(frozen=True)
class Shot:
    """A photograph (3, H, W) in [0, 1] with its camera and optionally its z-depth (H, W), 0 = unknown."""

    name: str
    picture: torch.Tensor
    camera: Camera
    depth: torch.Tensor | None = None


@dataclass(frozen=True)
class Recipe:
    """The settings of a training."""

    steps: int = 1200
    look_every: int = 200  # steps between two validations
    degree: int = 2  # highest degree of the spherical harmonics
    degree_every: int = 400  # steps after which the degree increases by one
    depth_weight: float = 0.05
    opacity_weight: float = 0.0  # regulariser: weight of the mean opacity
    scale_weight: float = 0.0  # regulariser: weight of the mean scale
    drop: float = 0.1  # share of the Gaussians that the last step leaves out; it rises from 0
    average: float = 0.99  # weight of the past in the running mean of the Gaussians that is kept; 0 = no mean
    grow: bool = True
    most: int = 1_500_000  # upper limit of the Gaussians
    seed: int = 0


@dataclass(frozen=True)
class Look:
    """The result of a validation on the held-out photographs."""

    step: int
    psnr: float
    ssim: float
    gaussians: int


@dataclass
class Fitted:
    """The Gaussians with the best validation; the last ones if no photographs are held out."""

    splats: GaussianSet
    step: int = 0
    looks: list[Look] = field(default_factory=list)

    @property
    def best(self) -> Look | None:
        """The validation of `splats`; None without held-out photographs."""
        return next((look for look in self.looks if look.step == self.step), None)


def fit(
    splats: GaussianSet,
    shots: Sequence[Shot],
    held_out: Sequence[Shot],
    recipe: Recipe = Recipe(),
    told: Callable[[int, Look | None], None] = lambda step, look: None,
) -> Fitted:
    """Train `splats` on `shots`, in place. `told(step, look)` is called after every step, with the validation if there
    was one.

    The scene must have size 1: the cameras are within about this radius around the origin (`shots.size_one`).
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
    mean = RunningMean(recipe.average)
    grows = [share * recipe.steps for share in GROWS] if recipe.grow else [0, 0]
    found, waiting = Fitted(splats), 0
    order: list[int] = []
    for step in range(1, recipe.steps + 1):
        order = order or torch.randperm(len(shots), generator=turns).tolist()
        shot = shots[order.pop()]
        degree = min(step // recipe.degree_every, recipe.degree)
        factor = left_out(len(splats), recipe.drop * step / recipe.steps, random)
        loss, rows = _loss(splats, shot, degree, recipe, factor)
        loss.backward()
        optimisers["means"].param_groups[0]["lr"] = RATES["means"] * LAST_RATE ** (step / recipe.steps)
        for optimiser in optimisers.values():
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        if grows[0] <= step < grows[1]:
            assert rows.grad is not None
            growth.add(rows.grad[:, :2], shot.camera.width, shot.camera.height)
            if step % BETWEEN == 0:
                growth.grow(random)
        elif step >= grows[1] and recipe.average:
            mean.add(splats)
        look = None
        if held_out and (step % recipe.look_every == 0 or step == recipe.steps):
            now = mean.current or splats
            look = look_at(now, held_out, degree, step)
            gains = not found.looks or look.psnr > max(each.psnr for each in found.looks) + GAIN
            found.looks.append(look)
            if gains:
                found.splats, found.step, waiting = now.copy(), step, 0
            else:
                waiting += 1
        told(step, look)
        if waiting >= PATIENCE:
            break
    return found if held_out else Fitted((mean.current or splats).copy(), recipe.steps)


def left_out(count: int, share: float, random: torch.Generator) -> torch.Tensor | None:
    """Factors (count,) of opacities: 0 for this share of the Gaussians, at random, and more than 1 for the others, so
    that the mean stays (DropGaussian, Park et al. 2025). Against Gaussians that only fit one photograph.
    """
    if share <= 0:
        return None
    return (torch.rand(count, generator=random, device=random.device) >= share).float() / (1 - share)


def draw(
    splats: GaussianSet, camera: Camera, degree: int, factor: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Render the image (3, H, W) and inverse depth (H, W), 0 where nothing is; also returns the rows of `ellipses`."""
    rows, boxes = ellipses(splats, camera, degree, factor)
    if rows.requires_grad:
        rows.retain_grad()
    out = rasterise(rows, boxes, camera.width, camera.height)
    cover, depth = out[..., 4], out[..., 3]
    inverse = torch.where(cover > 0.5, cover / depth.clamp(min=1e-6), torch.zeros_like(cover))
    return out[..., :3].permute(2, 0, 1), inverse, rows


def _loss(
    splats: GaussianSet, shot: Shot, degree: int, recipe: Recipe, factor: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    picture, inverse, rows = draw(splats, shot.camera, degree, factor)
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
    """Validate: mean PSNR and SSIM over `shots`."""
    pictures = [draw(splats, shot.camera, degree)[0].clamp(0, 1) for shot in shots]
    likeness = [psnr(picture, shot.picture) for picture, shot in zip(pictures, shots)]
    alike = [float(ssim(picture, shot.picture)) for picture, shot in zip(pictures, shots)]
    return Look(step, math.fsum(likeness) / len(shots), math.fsum(alike) / len(shots), len(splats))
