"""Consistency of a depth map with other views: every pixel is projected into the views with the most overlap and
compared there.

With z the depth of the point in the other camera and d the depth of that view's map, r = z / d: within 1 ± tolerance
both see the same surface; below, the point is in free space that the other view looks through; slightly above, the
surface is doubled; far above, the point is occluded. At depth edges a point is not contradicted.

One implementation for CPU and GPU. It uses only element-wise operations and gathers, whose results do not depend on the
number of threads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from . import geometry
from .map_groups import EachOf, MapGroup, Pixels, affine, groups_of
from .posed_view import View, known_depth
from .surfaces import TOGETHER, Surfaces, VoterMap, on_device

_HIDDEN = 3.0  # a point deeper than this many tolerances behind a surface is occluded, not contradicted
_TOLERANCE_RANGE = (0.02, 0.15)
_SAME_SURFACE = 0.3  # larger deviations are another surface and are ignored in the fit
_CLOSE = 0.05  # relative difference of depths with weight one half in `agreement`
_SAMPLES = 2000  # pixels of a view that the tolerance is found from
_SAMPLE_SIDE = 16  # points and coarse depth cells a side, for choosing neighbours
_TINY = 1e-30  # replaces a divisor of 0


@dataclass(frozen=True)
class Verdict:
    """What the neighbours tell about each of N pixels of a view."""

    contradicted: Tensor  # (N,) bool: some neighbour should see the point, and none does
    seen_through: Tensor  # (N,) bool: more neighbours look through the point than see it
    shift: Tensor | None  # (3, N) float32 in camera coordinates, to the mean of the agreeing surfaces


# --- comparing --------------------------------------------------------------------------------------------------------


def check_views(
    surfaces: Surfaces, group: MapGroup, pixels: Pixels, points: Tensor, neighbours: Sequence[Sequence[int]],
    tolerance: float, average: bool,
) -> Verdict:  # fmt: skip
    """For each of the pixels of a group, with its camera point in `points` (3, N), count the `neighbours` of its view
    that confirm it, contradict it, and look through it.
    """
    confirmed, doubled, through = (torch.zeros(len(pixels), dtype=torch.uint8, device=points.device) for _ in range(3))
    along = torch.zeros_like(points[0])  # Σ (1 / ratio − 1) over the neighbours that confirm
    centres = torch.zeros_like(points)  # the same, times the neighbour's centre in the frame of the view
    for cameras in _cameras(surfaces, group, pixels, neighbours):
        seen = _compare(surfaces, cameras, points)
        agrees = (seen.ratio - 1).abs_() <= tolerance
        confirmed += agrees[0] if len(agrees) == 1 else agrees.sum(0, dtype=torch.uint8)
        front, behind, pixel = seen.around(~agrees)
        through.index_add_(0, pixel, (front < 1 - tolerance).to(torch.uint8))
        doubled.index_add_(0, pixel, ((behind > 1 + tolerance) & (behind < 1 + _HIDDEN * tolerance)).to(torch.uint8))
        if average:
            change = seen.ratio.clamp_(min=1 - tolerance).reciprocal_().sub_(1).mul_(agrees)
            along += change[0] if len(change) == 1 else change.sum(0)
            cameras.add_centres(centres, change)
    shift = (points * along).sub_(centres).div_(confirmed + 1.0) if average else None
    return Verdict((confirmed == 0) & (doubled + through > 0), through > confirmed, shift)


class _Cameras:
    """The cameras of n other views of one size, for the points of one view or of several."""

    def __init__(self, surfaces: Surfaces, i: int, others: Sequence[int]) -> None:
        """For one view: a coefficient is a number, or (n, 1) for each of the others."""
        self.maps = list(others)
        self.valid: Tensor | None = None  # (n, N) float32, 1 where there is a comparison
        self.poses = surfaces.poses(i, others)  # (n, 3, 4)
        self.matrices = np.stack([surfaces.voter(j).K @ pose for j, pose in zip(others, self.poses)]).astype(np.float32)

    def rows(self, device: torch.device) -> list[Sequence[float] | Sequence[Tensor]]:
        """Three rows (4,) of K · [R | t]."""
        if len(self.maps) == 1:
            found: list[Sequence[float]] = self.matrices[0].tolist()
            return [*found]
        rows = torch.from_numpy(self.matrices).to(device)[..., None]  # (n, 3, 4, 1)
        return [rows[:, k].unbind(1) for k in range(3)]

    def offsets(self, area: int, device: torch.device) -> Tensor | None:
        """Where the maps begin in the flattened ones, (n, 1) or (n, N); None: there is one."""
        if len(self.maps) == 1:
            return None
        return torch.arange(0, len(self.maps) * area, area, dtype=torch.int32, device=device)[:, None]

    def add_centres(self, centres: Tensor, change: Tensor) -> None:
        """Add the others' centres in the frame of the view, times `change` (n, N), to `centres` (3, N)."""
        found = geometry.camera_centres(self.poses)  # (n, 3)
        if len(found) == 1:
            for axis, value in enumerate(found[0].tolist()):
                centres[axis].add_(change[0], alpha=value)
        else:
            centres.addmm_(torch.from_numpy(found.T.astype(np.float32)).to(change.device), change)


class _CamerasOfEach(_Cameras):
    """The same for the pixels of several views with up to n neighbours each."""

    def __init__(
        self, surfaces: Surfaces, group: MapGroup, pixels: Pixels, neighbours: Sequence[Sequence[int]]
    ) -> None:
        self.maps = sorted({j for others in neighbours for j in others})
        most = max(len(others) for others in neighbours)
        # a view with fewer neighbours is compared with one more often, without effect
        filled = [[*others, *[self.maps[0]] * (most - len(others))] for others in neighbours]
        poses = np.stack([surfaces.poses(i, others) for i, others in zip(group.views, filled)], axis=-1)  # (n, 3, 4, G)
        K = np.stack([[surfaces.voter(j).K for j in others] for others in filled])  # (G, n, 3, 3)
        matrices = np.einsum("gnij,njkg->nikg", K, poses).astype(np.float32)
        centres = -np.einsum("njig,njg->nig", poses[:, :, :3], poses[:, :, 3]).astype(np.float32)
        device, self._pixels = pixels.index.device, pixels
        self._matrices, self._centres = on_device(matrices, device), on_device(centres, device)  # (n, 3, 4 or 1, G)
        places = np.array([[self.maps.index(j) for j in others] for others in filled], np.int32).T
        self._places = pixels.each(on_device(places, device))  # (n, N)
        there = np.array([[k < len(others) for k in range(most)] for others in neighbours], np.float32).T
        self.valid = None if there.all() else pixels.each(on_device(there, device))  # (n, N)

    def rows(self, device: torch.device) -> list[Sequence[float] | Sequence[Tensor]]:
        return [EachOf(self._pixels, self._matrices[:, k]) for k in range(3)]

    def offsets(self, area: int, device: torch.device) -> Tensor | None:
        return self._places * area

    def add_centres(self, centres: Tensor, change: Tensor) -> None:
        for axis in range(3):
            centres[axis] += self._pixels.each(self._centres[:, axis]).mul_(change).sum(0)


def _cameras(
    surfaces: Surfaces, group: MapGroup, pixels: Pixels, neighbours: Sequence[Sequence[int]]
) -> Iterator[_Cameras]:
    """The neighbours of a group; those of a single view may be of several sizes."""
    if pixels.owner is not None:
        if any(neighbours):
            yield _CamerasOfEach(surfaces, group, pixels, neighbours)
        return
    for others in _together(surfaces, neighbours[0]):
        yield _Cameras(surfaces, group.views[0], others)


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


def _compare(surfaces: Surfaces, cameras: _Cameras, points: Tensor) -> _Seen:
    """The camera points (3, N) of one or several views in n views of one size.

    On a plane, inverse depth is affine in the pixel, so bilinear interpolation is exact. Next to unusable pixels the
    weights of the others are rescaled; at depth edges the nearest pixel is used.
    """
    height, width = surfaces.voter(cameras.maps[0]).shape
    x, y, z = _to_others(cameras, points)  # (n, N) each
    # the first border pixel represents everything outside: it has no depth
    column, row = x.round().clamp_(-1, width), y.round().clamp_(-1, height)
    stride = width + 4  # of a row of the surfaces
    place = (row.int() + 2).mul_(stride).add_(column.int()).add_(2)
    planes = _planes(surfaces, cameras.maps)
    if (first := cameras.offsets(stride * (height + 4), place.device)) is not None:
        place += first
    inverse = _interpolated(planes, place, x.sub_(column), y.sub_(row), stride)
    if cameras.valid is not None:
        inverse *= cameras.valid
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


def _to_others(cameras: _Cameras, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Projections of camera points (3, N) into n other views: columns and rows (n, N) counted from the centre of the
    first pixel, and depth (n, N); float32. Points behind a view project far outside, except on its axis.
    """
    u, v, z = (torch.atleast_2d(affine(row, points)) for row in cameras.rows(points.device))
    positive = z.clamp(min=_TINY)
    return u.div_(positive).sub_(0.5), v.div_(positive).sub_(0.5), z


def adaptive_tolerance(surfaces: Surfaces, neighbours: Sequence[Sequence[int]]) -> float:
    """Three times the median relative disagreement between neighbouring depth maps, limited to 2–15 %.

    That is two standard deviations of a Gaussian: 95 % of the pixels of the same surface agree. Depth maps of different
    networks agree differently well; a fixed tolerance would tear holes into the cloud of a weak network.
    """
    chosen = [i for i, others in enumerate(neighbours) if others]
    some = set(chosen[:: -(-len(chosen) // 32)])
    voters = [voter if i in some else None for i, voter in enumerate(surfaces.voters)]
    deviations = []
    for group in groups_of(voters, surfaces.voters, neighbours, _SAMPLES):
        for ratio in _sampled_ratios(surfaces, group, neighbours, _SAMPLES):
            deviation = (ratio - 1).abs()
            deviations.append(deviation[deviation < _SAME_SURFACE])
    pooled = torch.cat(deviations).cpu().numpy()
    typical = 3 * float(np.median(pooled)) if len(pooled) else 0.0
    return float(np.clip(typical, *_TOLERANCE_RANGE))


def _sampled_ratios(
    surfaces: Surfaces, group: MapGroup, neighbours: Sequence[Sequence[int]], samples: int
) -> Iterator[Tensor]:
    """z / d (n, M) of about `samples` pixels of each view of a group in its neighbours; at most 0 where they do not see
    them. `neighbours` are those of all views.
    """
    step = max(1, round((group.height * group.width / samples) ** 0.5))
    pixels = group.pixels(step)
    points = group.camera_points(pixels)
    for cameras in _cameras(surfaces, group, pixels, [neighbours[i] for i in group.views]):
        yield _compare(surfaces, cameras, points).ratio


def correspondences(surfaces: Surfaces, i: int, j: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Projections of the pixels of view i into view j in the convention of cv2.remap, and the ratio of their depth to
    that of j, 0 where j sees nothing: three (h, w) float32 arrays.
    """
    view = surfaces.voter(i)
    pixels = view.pixels()
    points = view.camera_points(pixels)
    cameras = _Cameras(surfaces, i, [j])
    x, y, _ = _to_others(cameras, points)
    ratio = _compare(surfaces, cameras, points).ratio
    maps = []
    for values, outside in ((x, -1e4), (y, -1e4), (ratio, 0.0)):
        whole = torch.full((view.height * view.width,), outside, device=pixels.device)
        whole[pixels] = values[0].clamp(-1e4, 1e4)
        maps.append(whole.view(view.shape).cpu().numpy())
    return maps[0], maps[1], maps[2]


def ratios_in(surfaces: Surfaces, i: int, others: Sequence[int], step: int = 1) -> Iterator[Tensor]:
    """z / d of the pixels of view i, in every `step`-th row and column, in the others: (n, M) for n of one size; at
    most 0 where they do not see a pixel.
    """
    view = surfaces.voter(i)
    points = view.camera_points(view.pixels(step))
    for part in _together(surfaces, others):
        yield _compare(surfaces, _Cameras(surfaces, i, part), points).ratio


def agreement(views: Sequence[View], neighbours: Sequence[Sequence[int]], factor: float, samples: int) -> float:
    """Agreement, 0..1, of the depth maps times `factor` with those of their neighbours: the mean of 1 / (1 + (log ratio
    / `_CLOSE`)²) over about `samples` pixels per view; unseen pixels count as 0.
    """
    maps = [known_depth(view) for view in views]
    surfaces = Surfaces(
        [VoterMap(replace(v, depth=depth * np.float32(factor)), depth > 0) for v, depth in zip(views, maps)]
    )
    total, count = 0.0, 0
    for group in groups_of(surfaces.voters, surfaces.voters, neighbours):
        for ratio in _sampled_ratios(surfaces, group, neighbours, samples):
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
    groups = list(groups_of([maps.get(i) for i in range(len(voters))]))
    coarse = torch.cat([_coarse_depth(group) for group in groups]).flatten()  # (S · n · n,), 0 = unknown
    sizes = torch.tensor([[voter.width, voter.height] for voter in maps.values()], dtype=torch.float64, device=device)
    matrices = np.stack([voter.K @ voter.cam_from_world for voter in maps.values()])
    projections = torch.from_numpy(matrices).to(device)[..., None]  # (S, 3, 4, 1)
    first = torch.arange(len(usable), device=device)[:, None] * _SAMPLE_SIDE**2
    scales = (_SAMPLE_SIDE / sizes)[..., None]  # (S, 2, 1)
    overlaps: list[Tensor] = []
    for group, pixels in _samples(groups):
        points = group.to_world(pixels, group.camera_points(pixels).double())  # (3, M)
        u, v, z = (affine(projections[:, k].unbind(1), points) for k in range(3))  # (S, M) each
        column, line = (torch.floor(value / z * scales[:, k]) for k, value in enumerate((u, v)))
        inside = (column >= 0) & (column < _SAMPLE_SIDE) & (line >= 0) & (line < _SAMPLE_SIDE) & (z > 0)
        cell = first + torch.where(inside, line * _SAMPLE_SIDE + column, 0).to(torch.int64)
        seen = inside & (z <= 1.25 * coarse[cell])  # occluded points do not count
        if pixels.owner is None:
            overlaps.append(seen.sum(1) / seen.shape[1])
        else:
            counted = torch.zeros(len(usable) + 1, len(group.views), device=device)
            with_all = torch.cat([seen, torch.ones_like(seen[:1])])  # the last row counts the points themselves
            counted.index_add_(1, pixels.owner, with_all.float())
            overlaps += (counted[:-1] / counted[-1]).unbind(1)
    overlap = torch.stack(overlaps).fill_diagonal_(0).cpu().numpy()
    for row, i in enumerate(usable):
        order = np.argsort(-overlap[row], kind="stable")[:count]
        result[i] = [usable[k] for k in order if overlap[row, k] > 0]
    return result


def _samples(groups: Iterable[MapGroup]) -> Iterator[tuple[MapGroup, Pixels]]:
    """For each map at most a few hundred usable pixels, spread over the map. Each map has a usable pixel."""
    for group in groups:
        step = max(1, int((group.height * group.width / _SAMPLE_SIDE**2) ** 0.5))
        pixels = group.pixels(step)
        if pixels.owner is not None and len(pixels.owner.unique_consecutive()) < len(group.views):
            yield from _samples(group.alone())  # some have few usable pixels, which need another step
            continue
        while not len(pixels):  # few usable pixels, and none of them on the coarse grid
            step = max(1, step // 2)
            pixels = group.pixels(step)
        yield group, pixels


def _coarse_depth(group: MapGroup) -> Tensor:
    """The largest usable depth in each of n × n cells of each map, 0 = none: (G, n · n)."""
    alive, depth = (torch.stack(maps) for maps in zip(*((voter.alive, voter.depth) for voter in group.voters)))
    rows, columns = (torch.arange(n, device=depth.device) * _SAMPLE_SIDE // n for n in (group.height, group.width))
    cell = (rows[:, None] * _SAMPLE_SIDE + columns).flatten().expand(len(depth), -1)
    found = torch.zeros(len(depth), _SAMPLE_SIDE**2, device=depth.device)
    return found.scatter_reduce_(1, cell, torch.where(alive, depth, 0).flatten(1), "amax")
