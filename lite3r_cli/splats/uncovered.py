"""Adds Gaussians where the start leaves a photograph uncovered: places that only one photograph shows, and surfaces
without texture, whose depth is unknown. Training alone closes such holes slowly, by Gaussians that grow into them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from .fit import Shot, draw
from .gaussian_set import SH0, GaussianSet

STRIDE = 2  # pixels between new Gaussians
WIDTH = 0.8  # standard deviation of a new Gaussian, in distances to its neighbours
OPACITY = {True: 0.5, False: 0.3}  # of new Gaussians with known depth, and with depth from their surroundings


@torch.no_grad()
def cover(splats: GaussianSet, shots: Sequence[Shot]) -> GaussianSet:
    """`splats` and new Gaussians on the uncovered pixels of `shots`, one photograph after the other."""
    for shot in shots:
        new = _missing(splats, shot)
        joined = {name: torch.cat([value.detach(), new[name]]) for name, value in splats.parameters.items()}
        splats = GaussianSet({name: value.requires_grad_() for name, value in joined.items()})
    return splats


def _missing(splats: GaussianSet, shot: Shot) -> dict[str, Tensor]:
    """The parameters of the new Gaussians of one photograph."""
    inverse = draw(splats, shot.camera, 0)[1]
    bare = inverse == 0
    measured = torch.zeros_like(bare)
    if shot.depth is not None:
        measured = bare & (shot.depth > 0)
        inverse = torch.where(measured, 1 / shot.depth.clamp(min=1e-6), inverse)
    inverse = fill(inverse[None, None], (inverse > 0)[None, None])[0, 0]
    row, column = (bare[::STRIDE, ::STRIDE] & (inverse[::STRIDE, ::STRIDE] > 0)).nonzero(as_tuple=True)
    row, column = row * STRIDE, column * STRIDE
    depth = 1 / inverse[row, column]
    K, pose = shot.camera.K, shot.camera.pose
    rays = torch.stack([column + 0.5, row + 0.5, torch.ones_like(depth)], 1) @ torch.linalg.inv(K).T
    means = (rays * depth[:, None] - pose[:, 3]) @ pose[:, :3]
    width = torch.log(WIDTH * STRIDE * depth / K[0, 0])
    level = [math.log(OPACITY[flag] / (1 - OPACITY[flag])) for flag in (True, False)]
    opacity = torch.where(measured[row, column], level[0], level[1]).to(depth)
    quaternions = torch.zeros(len(depth), 4, device=depth.device)
    quaternions[:, 0] = 1
    return {
        "means": means, "scales": width[:, None].expand(-1, 3), "quaternions": quaternions, "opacity": opacity,
        "sh0": (shot.picture[:, row, column].T - 0.5) / SH0,
        "shn": depth.new_zeros(len(depth), *splats.parameters["shn"].shape[1:]),
    }  # fmt: skip


def fill(values: Tensor, known: Tensor) -> Tensor:
    """`values` (1, 1, H, W) with smooth values where `known` is false: means of coarser and coarser levels; 0 if
    nothing is known.
    """
    height, width = values.shape[-2:]
    if bool(known.all()) or max(height, width) == 1:
        return torch.where(known, values, torch.zeros_like(values))
    share = avg_pool2d(known.float(), 2, ceil_mode=True)
    mean = avg_pool2d(torch.where(known, values, torch.zeros_like(values)), 2, ceil_mode=True) / share.clamp(min=1e-9)
    coarse = fill(mean, share > 0)
    smooth = interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
    return torch.where(known, values, smooth)
