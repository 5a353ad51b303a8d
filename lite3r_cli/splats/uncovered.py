"""Adds Gaussians where the start leaves a photograph uncovered: places that only one photograph shows, and surfaces
without texture, whose depth is unknown. Training alone closes such holes slowly, by Gaussians that grow into them.

New views also show places just outside of all photographs. There the surfaces of the photographs go on without detail.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

from .fit import Shot, draw
from .gaussian_set import SH0, GaussianSet

STRIDE = 2  # pixels between new Gaussians
WIDTH = 0.8  # standard deviation of a new Gaussian, in distances to its neighbours
OPACITY = {True: 0.5, False: 0.3}  # of new Gaussians with known depth, and with depth from their surroundings
MARGIN = 0.25  # of the longer side: so far outside of a photograph its surfaces go on
COARSE = 8  # pixels between Gaussians outside of the photographs
SOLID = 0.8  # their opacity
BEND = 2.0  # factor up to which inverse depth changes outside
SMOOTHED = 9  # pixels over which depth is averaged before its slope at the border is taken


@torch.no_grad()
def cover(splats: GaussianSet, shots: Sequence[Shot], margin: float = MARGIN) -> GaussianSet:
    """`splats` and new Gaussians on the uncovered pixels of `shots`, one photograph after the other, then around them
    up to `margin`, a share of a photograph's longer side.
    """
    for shot in shots:
        splats = _joined(splats, _missing(splats, shot))
    for shot in shots if margin else ():
        splats = _joined(splats, _around(splats, shot, margin))
    return splats


def _joined(splats: GaussianSet, new: dict[str, Tensor]) -> GaussianSet:
    joined = {name: torch.cat([value.detach(), new[name]]) for name, value in splats.parameters.items()}
    return GaussianSet({name: value.requires_grad_() for name, value in joined.items()})


def _missing(splats: GaussianSet, shot: Shot) -> dict[str, Tensor]:
    """The parameters of the new Gaussians of one photograph."""
    inverse = draw(splats, shot.camera, 0)[1]
    bare = inverse == 0
    measured = torch.zeros_like(bare)
    if shot.depth is not None:
        measured = bare & (shot.depth > 0)
        inverse = torch.where(measured, 1 / shot.depth.clamp(min=1e-6), inverse)
    inverse = fill(inverse[None, None], (inverse > 0)[None, None])[0, 0]
    return _placed(splats, shot, bare, inverse, STRIDE, torch.where(measured, OPACITY[True], OPACITY[False]))


def _around(splats: GaussianSet, shot: Shot, margin: float) -> dict[str, Tensor]:
    """The parameters of new Gaussians around one photograph, where nothing is drawn. Inverse depth goes on with the
    slope that it has at the border, which is right for planes; colours go on as means.
    """
    camera = shot.camera
    wide = COARSE * math.ceil(margin * max(camera.width, camera.height) / COARSE)
    K = camera.K.clone()
    K[:2, 2] += wide
    padded = replace(camera, K=K, width=camera.width + 2 * wide, height=camera.height + 2 * wide)
    bare = draw(splats, padded, 0)[1] == 0
    inside = torch.zeros_like(bare)
    inside[wide:-wide, wide:-wide] = True
    inverse = draw(splats, camera, 0)[1][None, None]
    inverse = fill(inverse, inverse > 0)
    inverse = avg_pool2d(beyond(inverse, SMOOTHED // 2), SMOOTHED, 1)
    picture = torch.cat([fill(pad(each, [wide] * 4)[None, None], inside[None, None]) for each in shot.picture], 1)[0]
    outside, opacity = replace(shot, camera=padded, picture=picture), torch.full_like(picture[0], SOLID)
    return _placed(splats, outside, bare & ~inside, beyond(inverse, wide)[0, 0], COARSE, opacity)


def beyond(values: Tensor, wide: int) -> Tensor:
    """(1, 1, H, W) → (1, 1, H + 2 wide, W + 2 wide): continued with the slope at the border, up to a factor BEND."""
    for axis in (-2, -1):
        count = values.shape[axis]
        place = torch.arange(-wide, count + wide, device=values.device)
        edge = place.clamp(0, count - 1)
        at_edge = values.index_select(axis, edge)
        turned = 2 * at_edge - values.index_select(axis, (2 * edge - place).clamp(0, count - 1))
        values = torch.minimum(torch.maximum(turned, at_edge / BEND), at_edge * BEND)
    return values


def _placed(
    splats: GaussianSet, shot: Shot, bare: Tensor, inverse: Tensor, stride: int, opacity: Tensor
) -> dict[str, Tensor]:
    """The parameters of Gaussians at every `stride`-th of the pixels `bare` (H, W) of a photograph, at inverse depth
    (H, W), with opacity (H, W).
    """
    start = stride // 2
    row, column = (bare & (inverse > 0))[start::stride, start::stride].nonzero(as_tuple=True)
    row, column = row * stride + start, column * stride + start
    depth = 1 / inverse[row, column]
    K, pose = shot.camera.K, shot.camera.pose
    rays = torch.stack([column + 0.5, row + 0.5, torch.ones_like(depth)], 1) @ torch.linalg.inv(K).T
    means = (rays * depth[:, None] - pose[:, 3]) @ pose[:, :3]
    width = torch.log(WIDTH * stride * depth / K[0, 0])
    quaternions = torch.zeros(len(depth), 4, device=depth.device)
    quaternions[:, 0] = 1
    return {
        "means": means, "scales": width[:, None].expand(-1, 3), "quaternions": quaternions,
        "opacity": torch.logit(opacity[row, column]),
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
