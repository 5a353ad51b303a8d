"""Depth by looking at the other views: a narrow sweep around the aligned depth, coarse to fine.

Every hypothesis is the depth map as it is times a factor, so windows follow the surface that the network saw. The score
is the normalised cross-correlation on small windows, averaged over the better half of the neighbours (the others may
not see the point). Semi-global propagation (Hirschmüller, PAMI 2008) along rows and columns picks the factor of each
pixel, a parabola its fraction; where nothing is textured the factor follows the surroundings and the network's shape
stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_LEVELS = ((4, 0.30, 2), (2, 0.05, 3), (1, 0.012, 3))  # (shrink, half range in log depth, half window in pixels)
_STEP_PIXELS = 0.6  # motion in the best neighbour from one hypothesis to the next
_MAX_HALF_STEPS = 20
_SMALL, _LARGE = 0.06, 0.35  # penalties of the propagation: one step, any jump
_EDGE = 0.05  # a jump of log depth at which the large penalty is halved
_NOISE = 2e-4  # variance of grey values (0..1) below which a window counts as blank
_ANCHOR, _ANCHOR_WIDTH = 1.5, 0.006  # score of a hypothesis that meets a sparse point, and its width in log depth
_PRIOR = 0.05  # what the farthest hypothesis costs beside its score: without evidence the depth stays
_TRUST = 0.35  # correlation from which a pixel speaks for its surroundings


@dataclass(frozen=True)
class Camera:
    """A view as the sweep needs it, all at the size of its depth map."""

    grey: Tensor  # (h, w) float32 in 0..1
    depth: Tensor  # (h, w) float32, 0 = unknown
    K: Tensor  # (3, 3) float32
    cam_from_world: Tensor  # (3, 4) float32
    anchors: Tensor | None = None  # (M, 3) sparse points: u, v in 0..1 of the map's sides, log depth


@dataclass(frozen=True)
class Swept:
    """A refined depth map and how well it explains the neighbours."""

    depth: Tensor  # (h, w)
    correlation: Tensor  # (h, w) in −1..1 at the refined depth, 0 where blank or unseen
    before: float  # mean correlation of the map that came in


def sweep(camera: Camera, neighbours: Sequence[Camera]) -> Swept:
    """Refine one depth map against its neighbours; the other views' depth is not used."""
    known = camera.depth > 0
    filled = torch.where(known, camera.depth, camera.depth[known].median())
    factor = torch.zeros((1, 1, 1, 1), device=filled.device)
    before = 0.0
    for shrink, half_range, half_window in _LEVELS:
        small = [_shrink(c, shrink) for c in (camera, *neighbours)]
        base = _resize(filled[None, None].log(), small[0].grey.shape)[0, 0]
        factor = _resize(factor, base.shape) if factor.numel() > 1 else torch.zeros((1, 1, *base.shape)).to(base)
        start = base + factor[0, 0]
        steps, step = _hypotheses(small[0], small[1:], start.exp(), half_range)
        volume = torch.stack(
            [_score(small[0], small[1:], (start + k * step).exp(), half_window) for k in steps.tolist()]
        )
        if shrink == _LEVELS[-1][0]:
            before = float(volume[len(steps) // 2].mean())
        shift, correlation = _select(volume, _anchored(volume, camera.anchors, start, steps * step), start, step)
        factor = _smooth(factor + shift[None, None], correlation)
    depth = torch.where(known, (filled.log() + factor[0, 0]).exp(), 0.0)
    return Swept(depth, correlation, before)


def _resize(values: Tensor, shape) -> Tensor:
    return F.interpolate(values, size=tuple(shape), mode="bilinear", align_corners=False)


def _shrink(camera: Camera, factor: int) -> Camera:
    """The picture smaller by about `factor`, K with it; the depth is not needed."""
    if factor == 1:
        return camera
    height, width = camera.grey.shape
    size = (max(8, round(height / factor)), max(8, round(width / factor)))
    grey = F.interpolate(camera.grey[None, None], size=size, mode="bilinear", antialias=True, align_corners=False)
    ratio = torch.tensor([size[1] / width, size[0] / height, 1.0], device=camera.K.device)
    return Camera(grey[0, 0], camera.depth, camera.K * ratio[:, None], camera.cam_from_world)


def _rays(camera: Camera) -> Tensor:
    """Directions (3, h·w) with z = 1 through the pixel centres."""
    height, width = camera.grey.shape
    device = camera.grey.device
    v, u = torch.meshgrid(
        torch.arange(height, device=device) + 0.5, torch.arange(width, device=device) + 0.5, indexing="ij"
    )
    return torch.linalg.inv(camera.K) @ torch.stack([u.flatten(), v.flatten(), torch.ones_like(u).flatten()])


def _project(camera: Camera, other: Camera, depth: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels (2, h·w) and z (h·w,) in `other` of the pixels of `camera` at `depth` (h, w)."""
    R, t = camera.cam_from_world[:, :3], camera.cam_from_world[:, 3]
    rotation = other.cam_from_world[:, :3] @ R.T
    translation = other.cam_from_world[:, 3] - rotation @ t
    points = other.K @ (rotation @ (_rays(camera) * depth.flatten()) + translation[:, None])
    return points[:2] / points[2].clamp_min(1e-6), points[2]


def _hypotheses(camera: Camera, neighbours: Sequence[Camera], depth: Tensor, half_range: float) -> tuple[Tensor, float]:
    """Numbers −n..n of the hypotheses and the step between them in log depth."""
    motion = []
    for other in neighbours:
        a, za = _project(camera, other, depth)
        b, _ = _project(camera, other, depth * 1.01)
        moved = (b - a).norm(dim=0)[za > 0]
        motion.append(float(moved.median()) * 100 if len(moved) else 0.0)
    step = _STEP_PIXELS / max(*motion, 1e-3) if len(motion) > 1 else _STEP_PIXELS / max(motion[0], 1e-3)
    step = max(step, half_range / _MAX_HALF_STEPS)
    half = min(_MAX_HALF_STEPS, max(2, round(half_range / step)))
    return torch.arange(-half, half + 1), step


def _box(values: Tensor, half: int) -> Tensor:
    """Means (B, h, w) over windows, smaller at the border."""
    side = 2 * half + 1
    rows = F.avg_pool2d(values[:, None], (side, 1), stride=1, padding=(half, 0), count_include_pad=False)
    return F.avg_pool2d(rows, (1, side), stride=1, padding=(0, half), count_include_pad=False)[:, 0]


def _score(camera: Camera, neighbours: Sequence[Camera], depth: Tensor, half: int) -> Tensor:
    """Correlation (h, w) of the windows with the better half of the neighbours; 0 where blank or unseen."""
    shape = camera.grey.shape
    grids, seen = [], []
    for other in neighbours:
        pixel, z = _project(camera, other, depth)
        size = torch.tensor(other.grey.shape[::-1], dtype=torch.float32, device=pixel.device)
        where = pixel.T / size * 2 - 1  # pixel centres at +0.5: −1 and 1 are the image's borders
        grids.append(where.reshape(*shape, 2))
        seen.append(((where.abs() <= 1).all(dim=-1) & (z > 0)).reshape(shape))
    warped = torch.stack(
        [
            F.grid_sample(o.grey[None, None], g[None].clamp(-2, 2), align_corners=False, padding_mode="border")[0, 0]
            for o, g in zip(neighbours, grids)
        ]
    )
    count, grey = len(neighbours), camera.grey[None]
    sums = _box(torch.cat([grey, grey * grey, warped, warped * warped, warped * grey]), half)
    mean, square = sums[0], sums[1]
    other_mean, other_square, product = sums[2 : 2 + count], sums[2 + count : 2 + 2 * count], sums[2 + 2 * count :]
    variance = (square - mean * mean).clamp_min(0)
    other_variance = (other_square - other_mean * other_mean).clamp_min(0)
    ncc = (product - mean * other_mean) / ((variance + _NOISE) * (other_variance + _NOISE)).sqrt()
    ncc = torch.where(torch.stack(seen), ncc, torch.zeros(()))
    best = ncc.topk(max(1, (count + 1) // 2), dim=0).values
    return best.mean(dim=0).clamp(-1, 1)


def _anchored(volume: Tensor, anchors: Tensor | None, log_depth: Tensor, shifts: Tensor) -> Tensor:
    """Scores (D, h, w) less the prior, with a bonus where a hypothesis meets the sparse point of its pixel."""
    shifts = shifts.to(volume)
    result = volume - _PRIOR * (shifts / shifts[-1]).square()[:, None, None]
    if anchors is None or not len(anchors):
        return result
    height, width = log_depth.shape
    column = (anchors[:, 0] * width).long().clamp(0, width - 1)
    row = (anchors[:, 1] * height).long().clamp(0, height - 1)
    away = log_depth[row, column] + shifts[:, None] - anchors[:, 2]  # (D, M)
    spread = max(_ANCHOR_WIDTH, float(shifts[1] - shifts[0]))
    result[:, row, column] += _ANCHOR * torch.exp(-((away / spread) ** 2))
    return result


def _select(volume: Tensor, score: Tensor, log_depth: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """The shift (h, w) in log depth of the best score and the correlation there, from both (D, h, w)."""
    cost = (1 - score).permute(1, 2, 0).contiguous()  # (h, w, D)
    total = torch.zeros_like(cost)
    for transpose in (False, True):
        lines = cost.transpose(0, 1) if transpose else cost
        surface = log_depth.T if transpose else log_depth
        for flip in (False, True):
            along, levels = (lines.flip(0), surface.flip(0)) if flip else (lines, surface)
            path = _propagate(along.contiguous(), levels)
            path = path.flip(0) if flip else path
            total += path.transpose(0, 1) if transpose else path
    best = total.argmin(dim=-1)
    middle = best.clamp(1, cost.shape[-1] - 2)
    left, centre, right = (total.gather(-1, (middle + k)[..., None])[..., 0] for k in (-1, 0, 1))
    curvature = (left - 2 * centre + right).clamp_min(1e-6)
    fraction = (0.5 * (left - right) / curvature).clamp(-1, 1)
    number = torch.where(best == middle, middle + fraction, best.float()) - (cost.shape[-1] - 1) / 2
    return number * step, volume.gather(0, best[None])[0]


def _propagate(cost: Tensor, log_depth: Tensor) -> Tensor:
    """Path costs (n, m, D) of semi-global matching from line to line of cost (n, m, D)."""
    jump = (log_depth[1:] - log_depth[:-1]).abs()
    large = _SMALL + (_LARGE - _SMALL) / (1 + jump / _EDGE)  # (n − 1, m)
    result = torch.empty_like(cost)
    result[0] = cost[0]
    for i in range(1, len(cost)):
        before = result[i - 1]
        lowest = before.amin(dim=-1, keepdim=True)
        best = torch.minimum(before, lowest + large[i - 1][:, None])
        best[:, 1:] = torch.minimum(best[:, 1:], before[:, :-1] + _SMALL)
        best[:, :-1] = torch.minimum(best[:, :-1], before[:, 1:] + _SMALL)
        result[i] = cost[i] + best - lowest
    return result


def _smooth(factor: Tensor, correlation: Tensor) -> Tensor:
    """Pixels that explain nothing take the factor of those around them (normalised convolution in 15 × 15 pixels), and
    none where nobody around explains anything."""
    trust = ((correlation - _TRUST) / (1 - _TRUST)).clamp(0, 1)[None, None]
    around = _box((factor * trust)[0], 7) / (_box(trust[0], 7) + 0.002)
    return trust.sqrt() * factor + (1 - trust.sqrt()) * around[None]
