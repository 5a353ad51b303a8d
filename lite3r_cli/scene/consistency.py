"""Consistency of a depth map with other views: every pixel is projected into the views with the most overlap and
compared there.

With z the depth of the point in the other camera and d the depth of that view's map, r = z / d: within 1 ± tolerance
both see the same surface; below, the point is in free space that the other view looks through; slightly above, the
surface is doubled; far above, the point is occluded. At depth edges a point is not contradicted.

One implementation for CPU and GPU. It uses only element-wise operations and gathers, whose results do not depend on the
number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from . import geometry
from .posed_view import View, known_depth
from .surfaces import TOGETHER, Surfaces, VoterMap

_HIDDEN = 3.0  # a point deeper than this many tolerances behind a surface is occluded, not contradicted
_TOLERANCE_RANGE = (0.02, 0.15)
_SAME_SURFACE = 0.3  # larger deviations are another surface and are ignored in the fit
_CLOSE = 0.05  # relative difference of depths with weight one half in `agreement`
_SAMPLE_SIDE = 16  # points and coarse depth cells a side, for choosing neighbours
_TINY = 1e-30  # replaces a divisor of 0


@dataclass(frozen=True)
class Verdict:
    """What the neighbours tell about each of N pixels of a view."""

    contradicted: Tensor  # (N,) bool: some neighbour should see the point, and none does
    seen_through: Tensor  # (N,) bool: more neighbours look through the point than see it
    shift: Tensor | None  # (3, N) float32 in camera coordinates, to the mean of the agreeing surfaces


def to_world(cam_from_world: np.ndarray, points: Tensor) -> Tensor:
    """Camera points (3, N) float32 → world points (3, N)."""
    pose = geometry.invert_pose(cam_from_world).astype(np.float32)
    return torch.stack([_affine(row, points) for row in pose.tolist()])


def _affine(row: Sequence[float] | Sequence[Tensor], points: Tensor) -> Tensor:
    """One row (4,) of [R | t] applied to points (3, N), element by element, because the rounding of BLAS varies. Rows
    of tensors (n, 1) give (n, N).
    """
    total = row[0] * points[0]
    for k in (1, 2):
        factor = row[k]
        if isinstance(factor, Tensor):
            total.addcmul_(factor, points[k])
        else:
            total.add_(points[k], alpha=factor)
    return total.add_(row[3])


# --- comparing --------------------------------------------------------------------------------------------------------


def check_view(
    surfaces: Surfaces, i: int, pixels: Tensor, points: Tensor, neighbours: Sequence[int], tolerance: float,
    average: bool,
) -> Verdict:  # fmt: skip
    """For each pixel of view i, with its camera point in `points` (3, N), count the neighbours that confirm it,
    contradict it, and look through it.
    """
    confirmed, doubled, through = (torch.zeros(len(pixels), dtype=torch.uint8, device=pixels.device) for _ in range(3))
    along = torch.zeros_like(points[0])  # Σ (1 / ratio − 1) over the neighbours that confirm
    centres = torch.zeros_like(points)  # the same, times the neighbour's centre in the frame of view i
    for others in _together(surfaces, neighbours):
        seen = _compare(surfaces, i, points, others)
        agrees = (seen.ratio - 1).abs_() <= tolerance
        confirmed += agrees[0] if len(others) == 1 else agrees.sum(0, dtype=torch.uint8)
        front, behind, pixel = seen.around(~agrees)
        through.index_add_(0, pixel, (front < 1 - tolerance).to(torch.uint8))
        doubled.index_add_(0, pixel, ((behind > 1 + tolerance) & (behind < 1 + _HIDDEN * tolerance)).to(torch.uint8))
        if average:
            change = seen.ratio.clamp_(min=1 - tolerance).reciprocal_().sub_(1).mul_(agrees)
            found = geometry.camera_centres(surfaces.poses(i, others))  # (n, 3)
            if len(others) == 1:
                along += change[0]
                for axis, value in enumerate(found[0].tolist()):
                    centres[axis].add_(change[0], alpha=value)
            else:
                along += change.sum(0)
                centres.addmm_(torch.from_numpy(found.T.astype(np.float32)).to(change.device), change)
    shift = (points * along).sub_(centres).div_(confirmed + 1.0) if average else None
    return Verdict((confirmed == 0) & (doubled + through > 0), through > confirmed, shift)


def _together(surfaces: Surfaces, neighbours: Sequence[int]) -> Iterator[list[int]]:
    """The neighbours, grouped by map size."""
    limit = TOGETHER.get(surfaces.voter(neighbours[0]).depth.device.type, len(neighbours)) if neighbours else 0
    part: list[int] = []
    for j in neighbours:
        if part and (len(part) == limit or surfaces.voter(j).shape != surfaces.voter(part[0]).shape):
            yield part
            part = []
        part.append(j)
    if part:
        yield part


@dataclass(frozen=True)
class _Seen:
    """Points (N,) as seen by n other views of one size."""

    z: Tensor  # (n, N) depth of the points in the other views
    place: Tensor  # (n, N) the pixels that they project to, in the flattened surfaces
    planes: Tensor  # (4, pixels) the flattened surfaces
    ratio: Tensor  # (n, N) z / d of the surface there; at most 0 if the other view does not see the point

    def around(self, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For the points `chosen` (n, N) that the other views see: the ratios to the nearest and to the farthest depth
        within 3 × 3 pixels, and the indices of these points; (M,) each.
        """
        which = (chosen & (self.ratio > 0)).view(-1).nonzero()[:, 0]
        place, z = (each.view(-1).index_select(0, which) for each in (self.place, self.z))
        front, behind = (plane.index_select(0, place).mul_(z) for plane in self.planes[1:3])
        return front, behind, which if len(self.z) == 1 else which % self.z.shape[1]


def _compare(surfaces: Surfaces, i: int, points: Tensor, others: Sequence[int]) -> _Seen:
    """The points (3, N) of view i in n views of one size.

    On a plane, inverse depth is affine in the pixel, so bilinear interpolation is exact. Next to unusable pixels the
    weights of the others are rescaled; at depth edges the nearest pixel is used.
    """
    height, width = surfaces.voter(others[0]).shape
    x, y, z = _to_others(surfaces, i, points, others)  # (n, N) each
    # the first border pixel represents everything outside: it has no depth
    column, row = x.round().clamp_(-1, width), y.round().clamp_(-1, height)
    stride = width + 4  # of a row of the surfaces
    place = (row.int() + 2).mul_(stride).add_(column.int()).add_(2)
    planes = _planes(surfaces, others)
    if len(others) > 1:
        area = stride * (height + 4)
        place += torch.arange(0, len(others) * area, area, dtype=torch.int32, device=place.device)[:, None]
    inverse = _interpolated(planes, place, x.sub_(column), y.sub_(row), stride)
    return _Seen(z, place, planes, inverse.mul_(z))


def _planes(surfaces: Surfaces, others: Sequence[int]) -> Tensor:
    """The surfaces of the others, concatenated: four flattened maps."""
    maps = [surfaces.of(j) for j in others]
    return maps[0].flatten(1) if len(maps) == 1 else torch.stack(maps, dim=1).flatten(1)


def _interpolated(planes: Tensor, place: Tensor, right: Tensor, down: Tensor, stride: int) -> Tensor:
    """Bilinear inverse depth (n, N) at offsets `right` and `down` of at most ½ pixel from pixel centres."""

    def at(plane: Tensor, place: Tensor) -> Tensor:
        return plane.index_select(0, place.view(-1)).view(place.shape)

    inverse, whole = planes[0], at(planes[3], place)
    beside = torch.copysign(torch.ones_like(right), right).int()
    below = torch.copysign(torch.ones_like(down), down).int().mul_(stride)
    right, down = right.abs_().mul_(whole), down.abs_().mul_(whole)
    value = at(inverse, place)
    corners = (
        value,
        at(inverse, place + beside),
        at(inverse, place.add(below)),
        at(inverse, beside.add_(below).add_(place)),
    )
    known = [corner.sign() for corner in corners]  # 1 where there is depth
    total, weight = (
        torch.lerp(torch.lerp(a, b, right), torch.lerp(c, d, right), down) for a, b, c, d in (corners, known)
    )
    return total.div_(weight.clamp_(min=_TINY)).mul_(known[0])


def _to_others(surfaces: Surfaces, i: int, points: Tensor, others: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Projections of the camera points (3, N) of view i into n other views: columns and rows (n, N) counted from the
    centre of the first pixel, and depth (n, N); float32. Points behind a view project far outside, except on its axis.
    """
    poses = surfaces.poses(i, others)
    matrices = np.stack([surfaces.voter(j).K @ pose for j, pose in zip(others, poses)]).astype(np.float32)
    if len(others) == 1:
        u, v, z = (_affine(row, points)[None] for row in matrices[0].tolist())
    else:
        rows = torch.from_numpy(matrices).to(points.device)[..., None]  # (n, 3, 4, 1)
        u, v, z = (_affine(rows[:, k].unbind(1), points) for k in range(3))
    positive = z.clamp(min=_TINY)
    return u.div_(positive).sub_(0.5), v.div_(positive).sub_(0.5), z


def adaptive_tolerance(surfaces: Surfaces, neighbours: Sequence[Sequence[int]]) -> float:
    """Three times the median relative disagreement between neighbouring depth maps, limited to 2–15 %.

    That is two standard deviations of a Gaussian: 95 % of the pixels of the same surface agree. Depth maps of different
    networks agree differently well; a fixed tolerance would tear holes into the cloud of a weak network.
    """
    chosen = [i for i, others in enumerate(neighbours) if others]
    deviations = []
    for i in chosen[:: -(-len(chosen) // 32)]:
        for ratio in _sampled_ratios(surfaces, i, neighbours[i], 2000):
            deviation = (ratio - 1).abs()
            deviations.append(deviation[deviation < _SAME_SURFACE])
    pooled = torch.cat(deviations).cpu().numpy()
    typical = 3 * float(np.median(pooled)) if len(pooled) else 0.0
    return float(np.clip(typical, *_TOLERANCE_RANGE))


def _sampled_ratios(surfaces: Surfaces, i: int, neighbours: Sequence[int], samples: int) -> Iterator[Tensor]:
    """z / d (n, M) of about `samples` pixels of view i in its neighbours; at most 0 where they do not see them."""
    view = surfaces.voter(i)
    step = max(1, round((view.alive.numel() / samples) ** 0.5))
    points = view.camera_points(view.pixels(step))
    for others in _together(surfaces, neighbours):
        yield _compare(surfaces, i, points, others).ratio


def correspondences(surfaces: Surfaces, i: int, j: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Projections of the pixels of view i into view j in the convention of cv2.remap, and the ratio of their depth to
    that of j, 0 where j sees nothing: three (h, w) float32 arrays.
    """
    view = surfaces.voter(i)
    pixels = view.pixels()
    points = view.camera_points(pixels)
    x, y, _ = _to_others(surfaces, i, points, [j])
    ratio = _compare(surfaces, i, points, [j]).ratio
    maps = []
    for values, outside in ((x, -1e4), (y, -1e4), (ratio, 0.0)):
        whole = torch.full((view.height * view.width,), outside, device=pixels.device)
        whole[pixels] = values[0].clamp(-1e4, 1e4)
        maps.append(whole.view(view.shape).cpu().numpy())
    return maps[0], maps[1], maps[2]


def agreement(views: Sequence[View], neighbours: Sequence[Sequence[int]], factor: float, samples: int) -> float:
    """Agreement, 0..1, of the depth maps times `factor` with those of their neighbours: the mean of 1 / (1 + (log ratio
    / `_CLOSE`)²) over about `samples` pixels per view; unseen pixels count as 0.
    """
    maps = [known_depth(view) for view in views]
    surfaces = Surfaces(
        [VoterMap(replace(v, depth=depth * np.float32(factor)), depth > 0) for v, depth in zip(views, maps)]
    )
    total, count = 0.0, 0
    for i, others in enumerate(neighbours):
        for ratio in _sampled_ratios(surfaces, i, others, samples):
            deviation = ratio[ratio > 0].log() / _CLOSE
            total, count = total + float((1 / (1 + deviation**2)).sum(dtype=torch.float64)), count + ratio.numel()
    return total / max(count, 1)


# --- which views ------------------------------------------------------------------------------------------------------


def best_neighbours(voters: Sequence[VoterMap | None], count: int) -> list[list[int]]:
    """For each view at most `count` others that see its points, those that see most first."""
    maps = {i: voter for i, voter in enumerate(voters) if voter is not None and bool(voter.alive.any())}
    usable = list(maps)
    result: list[list[int]] = [[] for _ in voters]
    if len(usable) < 2:
        return result
    device = maps[usable[0]].depth.device
    coarse = torch.stack([_coarse_depth(voter) for voter in maps.values()]).flatten()  # (S · n · n,), 0 = unknown
    sizes = torch.tensor([[voter.width, voter.height] for voter in maps.values()], dtype=torch.float64, device=device)
    matrices = np.stack([voter.K @ voter.cam_from_world for voter in maps.values()])
    projections = torch.from_numpy(matrices).to(device)[..., None]  # (S, 3, 4, 1)
    first = torch.arange(len(usable), device=device)[:, None] * _SAMPLE_SIDE**2
    scales = (_SAMPLE_SIDE / sizes)[..., None]  # (S, 2, 1)
    overlaps = []
    for voter in maps.values():
        points = _sample_points(voter)  # (3, M) world, float64
        u, v, z = (_affine(projections[:, k].unbind(1), points) for k in range(3))  # (S, M) each
        column, line = (torch.floor(value / z * scales[:, k]) for k, value in enumerate((u, v)))
        inside = (column >= 0) & (column < _SAMPLE_SIDE) & (line >= 0) & (line < _SAMPLE_SIDE) & (z > 0)
        cell = first + torch.where(inside, line * _SAMPLE_SIDE + column, 0).to(torch.int64)
        seen = inside & (z <= 1.25 * coarse[cell])  # occluded points do not count
        overlaps.append(seen.sum(1) / seen.shape[1])
    overlap = torch.stack(overlaps).fill_diagonal_(0).cpu().numpy()
    for row, i in enumerate(usable):
        order = np.argsort(-overlap[row], kind="stable")[:count]
        result[i] = [usable[k] for k in order if overlap[row, k] > 0]
    return result


def _sample_points(voter: VoterMap) -> Tensor:
    """At most a few hundred usable pixels, spread over the map, as world points (3, M) in float64."""
    step = max(1, int((voter.alive.numel() / _SAMPLE_SIDE**2) ** 0.5))
    pixels = voter.pixels(step)
    while not len(pixels):  # few usable pixels, and none of them on the coarse grid
        step = max(1, step // 2)
        pixels = voter.pixels(step)
    points = voter.camera_points(pixels).double()
    return torch.stack([_affine(row, points) for row in geometry.invert_pose(voter.cam_from_world).tolist()])


def _coarse_depth(voter: VoterMap) -> Tensor:
    """The largest usable depth in each of n × n cells, 0 = none."""
    device = voter.depth.device
    rows, columns = (torch.arange(n, device=device) * _SAMPLE_SIDE // n for n in voter.shape)
    cell = (rows[:, None] * _SAMPLE_SIDE + columns).flatten()
    depth = torch.where(voter.alive, voter.depth, 0).flatten()
    return torch.zeros(_SAMPLE_SIDE**2, device=device).scatter_reduce_(0, cell, depth, "amax")
