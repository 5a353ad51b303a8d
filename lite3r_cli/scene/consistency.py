"""Do other views agree with a depth map? Every pixel is projected into the views that overlap most and compared there.

With z the point's depth in the other camera and d the depth seen there, r = z / d says: 1 ± tolerance, both see the
same surface; below, the point hangs in free space that the other view looks through; slightly above, a doubled surface;
far above, the point is merely hidden. Torn places (depth edges) get the benefit of the doubt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from . import geometry
from .view import View

_OUTSIDE = -10.0  # a pixel coordinate that no map covers
_TORN = 1.1  # ratio of depths within 3 × 3 pixels beyond which no surface is interpolated
_HIDDEN = 3.0  # a point deeper than this many tolerances behind a surface is hidden by it, not contradicted
_TOLERANCE_RANGE = (0.02, 0.15)
_SAME_SURFACE = 0.3  # deviations beyond this are another surface and say nothing about the fit
_CLOSE = 0.05  # relative deviation at which an agreement counts half
_SAMPLE_SIDE = 16  # points and coarse depth cells a side, for choosing neighbours
_KERNEL = np.ones((3, 3), np.uint8)
_SILENT = np.float32(1e30)  # inverse depth that never is the farthest surface


@dataclass(frozen=True)
class Verdict:
    """What the neighbours say of each pixel of a view."""

    contradicted: np.ndarray  # (h, w) bool: somebody should see the point, nobody does
    seen_through: np.ndarray  # (h, w) bool: more views look through the point than see it
    shift: np.ndarray | None  # (3, h, w) float32 in camera coordinates, to the mean of the agreeing surfaces


class VoterMap:
    """A view's depth map with the pixels that may speak, and its camera at the map's own size."""

    def __init__(self, view: View, alive: np.ndarray) -> None:
        self.depth = view.depth
        self.alive = alive
        height, width = alive.shape
        self.K = geometry.scale_intrinsics(view.K, width / view.width, height / view.height)
        self.cam_from_world = np.asarray(view.cam_from_world, np.float64)

    def camera_points(self, step: int = 1) -> np.ndarray:
        """Camera coordinates (3, h', w') float32 of every `step`-th pixel; 0 where there is no depth."""
        depth = np.where(self.alive, self.depth, 0)[::step, ::step].astype(np.float32)
        return _plane_combination(np.linalg.inv(self.K), depth.shape, step) * depth

    def world_points(self, shift: np.ndarray | None = None) -> np.ndarray:
        """World points (h, w, 3) float32 of every pixel, moved by `shift` (3, h, w) in camera coordinates."""
        points = self.camera_points() if shift is None else self.camera_points() + shift
        pose = geometry.invert_pose(self.cam_from_world)
        return np.stack([_affine(row, points) for row in pose.astype(np.float32)], axis=-1)

    def inverse_depth(self) -> np.ndarray:
        """(h, w) float32, 0 where the pixel may not speak."""
        return np.divide(1, self.depth, out=np.zeros(self.alive.shape, np.float32), where=self.alive)


def _affine(row: np.ndarray, points: np.ndarray) -> np.ndarray:
    """One row (4,) of [R | t] applied to points (3, h, w); element by element: no BLAS decides on the rounding."""
    return row[0] * points[0] + row[1] * points[1] + row[2] * points[2] + row[3]


def _plane_combination(matrix: np.ndarray, shape: tuple[int, int], step: int) -> np.ndarray:
    """matrix @ (u, v, 1) at the centres of every `step`-th pixel: (3, h', w') float32."""
    v, u = (np.arange(n, dtype=np.float64) * step + 0.5 for n in shape)
    rows = [(row[0] * u)[None, :] + (row[1] * v + row[2])[:, None] for row in matrix]
    return np.stack(rows).astype(np.float32)


# --- comparing --------------------------------------------------------------------------------------------------------


def check_view(view: VoterMap, neighbours: Sequence[VoterMap], tolerance: float, average: bool) -> Verdict:
    """Count for each pixel the neighbours that confirm, contradict and look through its point."""
    shape = view.alive.shape
    confirmed, doubled, through = (np.zeros(shape, np.uint8) for _ in range(3))
    shift = np.zeros((3, *shape), np.float32) if average else None
    points = view.camera_points()
    for other in neighbours:
        ratio, front, behind = _compare(view, points, other)
        agrees = np.abs(ratio - 1) <= tolerance  # NaN, not seen, is never true
        confirmed += agrees
        through += ~agrees & (front < 1 - tolerance)
        doubled += ~agrees & (behind > 1 + tolerance) & (behind < 1 + _HIDDEN * tolerance)
        if shift is not None:
            centre = geometry.camera_centres(geometry.relative_pose(view.cam_from_world, other.cam_from_world))
            along = np.where(agrees, 1 / np.where(agrees, ratio, 1) - 1, 0)
            for axis in range(3):
                shift[axis] += (points[axis] - np.float32(centre[axis])) * along
    if shift is not None:
        shift /= confirmed + np.float32(1)
    return Verdict((confirmed == 0) & (doubled + through > 0), through > confirmed, shift)


def _compare(view: VoterMap, points: np.ndarray, other: VoterMap, step: int = 1) -> tuple[np.ndarray, ...]:
    """Ratios z / d in `other` of the points (3, h, w) of `view`: to its surface, to the nearest and to the farthest
    depth within 3 × 3 pixels. NaN where `other` does not see the point.

    Inverse depth is affine in the pixel on a plane, so its bilinear interpolation is exact there; near pixels that may
    not speak the weights of the others are scaled up, and where the surface is torn the nearest pixel is taken.
    """
    x, y, z = _to_other(view, points, other)
    inverse = other.inverse_depth()
    valid = (inverse > 0).astype(np.float32)
    nearest_surface = cv2.dilate(inverse, _KERNEL)
    farthest_surface = cv2.erode(np.where(valid > 0, inverse, _SILENT), _KERNEL)
    smooth = cv2.remap(cv2.merge([inverse, valid]), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    stacked = cv2.merge([inverse, nearest_surface, farthest_surface])
    at, near, far = cv2.split(cv2.remap(stacked, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT))
    seen = (at > 0) & (z > 0) & view.alive[::step, ::step]
    interpolated = np.divide(smooth[..., 0], smooth[..., 1], out=at.copy(), where=seen & (near <= _TORN * far))
    z = np.where(seen, z, np.float32(np.nan))
    return z * interpolated, z * near, z * far


def _to_other(view: VoterMap, points: np.ndarray, other: VoterMap) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the camera points (3, h, w) of `view` lie in `other`: columns and rows counted from the centre of its first
    pixel, as OpenCV counts, and depth; all (h, w) float32."""
    pose = geometry.relative_pose(view.cam_from_world, other.cam_from_world)
    matrix = (other.K @ pose).astype(np.float32)
    u, v, z = (_affine(row, points) for row in matrix)
    in_front = z > 0
    coordinates = []
    for numerator, size in zip((u, v), other.alive.shape[::-1], strict=True):
        pixel = np.divide(numerator, z, out=np.full_like(z, _OUTSIDE), where=in_front) - np.float32(0.5)
        coordinates.append(np.clip(pixel, _OUTSIDE, size - _OUTSIDE))
    return (*coordinates, z)


def adaptive_tolerance(voters: Sequence[VoterMap | None], neighbours: Sequence[Sequence[int]]) -> float:
    """Three times the median relative disagreement between neighbouring depth maps, kept within 2–15 %.

    That is two standard deviations of a Gaussian: 95 % of what sees the same surface agrees. Networks differ in how
    well their depth maps fit together; a fixed tolerance would tear holes into the cloud of a weak one.
    """
    chosen = [i for i, others in enumerate(neighbours) if others]
    deviations = []
    for i in chosen[:: -(-len(chosen) // 32)]:
        step = max(1, round((voters[i].alive.size / 2000) ** 0.5))
        points = voters[i].camera_points(step)
        for j in neighbours[i]:
            deviation = np.abs(_compare(voters[i], points, voters[j], step)[0] - 1)
            deviations.append(deviation[deviation < _SAME_SURFACE])
    pooled = np.concatenate(deviations)
    typical = 3 * float(np.median(pooled)) if len(pooled) else 0.0
    return float(np.clip(typical, *_TOLERANCE_RANGE))


def agreement(views: Sequence[View], neighbours: Sequence[Sequence[int]], factor: float, samples: int) -> float:
    """How well the depth maps times `factor` agree with those of their neighbours, 0..1: the mean of
    1 / (1 + (log ratio / `_CLOSE`)²) over the pixels compared, about `samples` a view; unseen ones count as 0."""
    voters = [VoterMap(replace(view, depth=view.depth * np.float32(factor)), view.depth > 0) for view in views]
    total, count = 0.0, 0
    for voter, others in zip(voters, neighbours, strict=True):
        step = max(1, round((voter.alive.size / samples) ** 0.5))
        points = voter.camera_points(step)
        for j in others:
            ratio = _compare(voter, points, voters[j], step)[0]
            deviation = np.log(ratio[ratio > 0]) / _CLOSE
            total, count = total + float((1 / (1 + deviation**2)).sum()), count + ratio.size
    return total / max(count, 1)


# --- which views ------------------------------------------------------------------------------------------------------


def best_neighbours(voters: Sequence[VoterMap | None], count: int) -> list[list[int]]:
    """For each view at most `count` others, those that see most of its points first; none that sees nothing of it."""
    usable = [i for i, voter in enumerate(voters) if voter is not None and voter.alive.any()]
    result: list[list[int]] = [[] for _ in voters]
    if len(usable) < 2:
        return result
    coarse = np.stack([_coarse_depth(voters[i]) for i in usable])  # (S, n, n), 0 = unknown
    sizes = np.array([voters[i].alive.shape[::-1] for i in usable], np.float64)
    projections = np.stack([voters[i].K @ voters[i].cam_from_world for i in usable])  # (S, 3, 4)
    for row, i in enumerate(usable):
        points = _sample_points(voters[i])  # (M, 3) world
        homogeneous = points @ projections[:, :, :3].swapaxes(1, 2) + projections[:, None, :, 3]  # (S, M, 3)
        z = homogeneous[..., 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            cells = np.floor(homogeneous[..., :2] / z[..., None] * (_SAMPLE_SIDE / sizes[:, None]))
        inside = ((cells >= 0) & (cells < _SAMPLE_SIDE)).all(axis=-1) & (z > 0)
        column, line = (np.where(inside, cells[..., k], 0).astype(np.int64) for k in (0, 1))
        depth = coarse[np.arange(len(usable))[:, None], line, column]
        overlap = (inside & (z <= 1.25 * depth)).mean(axis=1)  # hidden points do not count
        overlap[row] = 0
        order = np.argsort(-overlap, kind="stable")[:count]
        result[i] = [usable[k] for k in order if overlap[k] > 0]
    return result


def _sample_points(voter: VoterMap) -> np.ndarray:
    """At most some hundred usable pixels (M, 3), spread over the map, as world points in float64."""
    step = max(1, int((voter.alive.size / _SAMPLE_SIDE**2) ** 0.5))
    while not voter.alive[::step, ::step].any():  # few pixels are left, and none of them on the coarse grid
        step = max(1, step // 2)
    points = voter.camera_points(step)[:, voter.alive[::step, ::step]].T
    return geometry.transform(geometry.invert_pose(voter.cam_from_world), points)


def _coarse_depth(voter: VoterMap) -> np.ndarray:
    """The farthest usable depth in each of n × n cells, 0 = none."""
    depth = np.where(voter.alive, voter.depth, 0).astype(np.float32)
    rows, columns = (np.minimum(np.arange(n) * _SAMPLE_SIDE // n, _SAMPLE_SIDE - 1) for n in depth.shape)
    cells = np.zeros((_SAMPLE_SIDE, _SAMPLE_SIDE), np.float32)
    np.maximum.at(cells, (rows[:, None], columns[None, :]), depth)
    return cells
