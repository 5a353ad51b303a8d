"""How many matches a set of cameras explains, including matches that no adjustment has used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..scene import geometry
from .lens import Lenses
from .matching import Matches, Pair
from .observations import Tracks

_ROUNDS = 4  # of triangulation with weights
_FAR = 1e-12  # a fourth coordinate below this counts as a direction


@dataclass(frozen=True)
class Rays:
    """Viewing rays of observations, and the focal length that converts angles to pixels."""

    direction: np.ndarray  # (O, 3) unit vectors
    focal: np.ndarray  # (O,) pixels


@dataclass(frozen=True)
class Evidence:
    """How well cameras explain tracks."""

    explained: float  # share of the observations, 0..1; observations in pictures without a camera count as unexplained
    error: float  # pixels: median over the explained observations of tracks seen three times or more
    views: np.ndarray  # (S,) share of each picture's observations that are explained; NaN without any


def rays(matches: Matches, tracks: Tracks, lenses: Lenses) -> Rays:
    """The rays of the observations, by the lens of each picture."""
    pixels = tracks.pixels(matches)
    direction, focal = np.zeros((len(pixels), 3)), np.ones(len(pixels))
    for k, lens in enumerate(lenses.lenses):
        mine = np.flatnonzero(np.array(lenses.of_view)[tracks.image] == k)
        camera = lens.of_picture(*lens.size)
        direction[mine] = _known(camera.rays(pixels[mine]))
        focal[mine] = np.mean(camera.focal)
    return Rays(direction, focal)


def _known(rays: np.ndarray) -> np.ndarray:
    """Replaces rays (N, 3) that a lens cannot compute by the backward direction, on which no point lies."""
    return np.where(np.isfinite(rays), rays, np.array([0.0, 0.0, -1.0]))


def judge(poses: Mapping[int, np.ndarray], tracks: Tracks, seen: Rays, views: int, tolerance: float) -> Evidence:
    """Triangulate every track with the cameras `poses` (cam_from_world, 3 × 4) and count the observations within
    `tolerance` pixels of it and in front of the camera.
    """
    errors = track_errors(poses, tracks, seen)
    good = errors < tolerance
    good &= np.bincount(tracks.track[good], minlength=tracks.count)[tracks.track] >= 2  # a single ray fits any point
    share = np.full(views, np.nan)
    for i in range(views):
        mine = tracks.image == i
        if mine.any():
            share[i] = good[mine].mean()
    often = good & (np.bincount(tracks.track[good], minlength=tracks.count)[tracks.track] >= 3)
    error = float(np.median(errors[often])) if often.any() else tolerance
    return Evidence(float(good.mean()) if len(good) else 0.0, error, share)


def track_errors(poses: Mapping[int, np.ndarray], tracks: Tracks, seen: Rays) -> np.ndarray:
    """Reprojection errors (O,) in pixels of the observations with points triangulated from their tracks; infinite
    without a point.

    A point is the eigenvector with the smallest eigenvalue of Σ w Pᵀ(I − d dᵀ)P over its observations, so that it may
    be at infinity; the weights w are those of a Cauchy loss, in angles.
    """
    known = np.array([i in poses for i in range(int(tracks.image.max(initial=-1)) + 1)], bool)
    usable = known[tracks.image] if len(tracks.image) else np.zeros(0, bool)
    errors = np.full(len(usable), np.inf)
    if not usable.any():
        return errors
    track, image = tracks.track[usable], tracks.image[usable]
    d, focal = seen.direction[usable], seen.focal[usable]
    table = np.zeros((len(known), 3, 4))
    for i, pose in poses.items():
        if i < len(known):
            table[i] = pose
    P = table[image]  # (O, 3, 4)
    across = P - d[:, :, None] * np.einsum("oi,oij->oj", d, P)[:, None]  # (I − d dᵀ) P
    quadratic = np.einsum("oki,okj->oij", across, across).reshape(-1, 16)
    weight = np.ones(len(d))
    for _ in range(_ROUNDS):
        sums = np.stack([np.bincount(track, weight * column, tracks.count) for column in quadratic.T], axis=1)
        point = np.linalg.eigh(sums.reshape(-1, 4, 4))[1][:, :, 0]
        at = np.einsum("oij,oj->oi", P, point[track])
        # the sign of a homogeneous point is free: choose the one that puts it in front of most cameras
        ahead = np.bincount(track, weight * np.sign(np.einsum("oi,oi->o", at, d)), tracks.count)
        point *= np.where(ahead < 0, -1.0, 1.0)[:, None]
        point[:, 3] = np.maximum(point[:, 3], 0)  # rays that meet behind the cameras: at most a direction
        at = np.einsum("oij,oj->oi", P, point[track])
        angle = geometry.vector_angle(at, d)
        weight = 1 / (1 + (angle * focal / 2.0) ** 2)
    errors[usable] = angle * focal
    alone = np.bincount(track, minlength=tracks.count) < 2
    errors[alone[tracks.track]] = np.inf
    return errors


def pair_support(
    poses: Mapping[int, np.ndarray], matches: Matches, lenses: Lenses, tolerance: float
) -> dict[Pair, float]:
    """Share of each pair's matches that its two cameras explain: the Sampson distance is within `tolerance` pixels (at
    the focal length), and the rays meet in front of both cameras. Pairs without both cameras are missing.
    """
    cameras = [lens.of_picture(*lens.size) for lens in lenses.lenses]
    flat = unit_rays(matches, lenses)
    result = {}
    for (i, j), pair in matches.pairs.items():
        if i in poses and j in poses:
            relative = geometry.relative_pose(poses[i], poses[j])
            focal = 0.5 * sum(float(np.mean(cameras[lenses.of_view[k]].focal)) for k in (i, j))
            first, second = flat[i][pair.matches[:, 0]], flat[j][pair.matches[:, 1]]
            result[i, j] = float((ray_errors(relative, first, second, focal, tolerance) < tolerance).mean())
    return result


def unit_rays(matches: Matches, lenses: Lenses) -> list[np.ndarray]:
    """Where the keypoints of each picture look: unit rays (N, 3) in its camera, by its lens."""
    cameras = [lens.of_picture(*lens.size) for lens in lenses.lenses]
    return [_known(cameras[lenses.of_view[i]].rays(points)) for i, points in enumerate(matches.keypoints)]


def ray_errors(
    relative: np.ndarray, first: np.ndarray, second: np.ndarray, focal: float, tolerance: float
) -> np.ndarray:
    """Errors (M,) in pixels (at the `focal` length) of matched unit rays (M, 3) against the pose (3, 4) of the second
    camera from the first: the distance from the epipolar line (Sampson, on the sphere); infinite where the rays meet
    behind a camera by more than `tolerance` pixels leave open."""
    R, t = relative[:, :3], relative[:, 3]
    turned = first @ R.T  # where the first camera's rays point in the second
    length = np.linalg.norm(t)
    if length < _FAR:
        return geometry.vector_angle(turned, second) * focal
    E = np.array([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]]) @ R / length
    line, back = first @ E.T, second @ E
    residual = (second * line).sum(axis=1)
    # slopes along the rays do not count
    scale = np.sqrt(np.maximum((line**2).sum(axis=1) + (back**2).sum(axis=1) - 2 * residual**2, 0))
    error = np.abs(residual) / np.maximum(scale, 1e-12) * focal
    # depths z₁, z₂ of z₂ second = z₁ turned + t by least squares: both have to be positive, or too far to tell
    a, b, c = (turned**2).sum(1), (second**2).sum(1), (turned * second).sum(1)
    p, q = -(turned @ t), second @ t
    determinant = a * b - c * c
    z1, z2 = p * b + q * c, q * a + p * c
    parallel = determinant < (4 * tolerance / focal) ** 2 * a * b
    return np.where(parallel | ((z1 > 0) & (z2 > 0)), error, np.inf)


def change_of_pairs(before: Mapping[int, np.ndarray], after: Mapping[int, np.ndarray]) -> float:
    """Difference (radians) between two sets of poses (view -> cam_from_world): for each pair of views the larger of
    rotation and change of direction, the median over the pairs; 0 without pairs.
    """
    both = sorted(before.keys() & after.keys())
    first, second = np.triu_indices(len(both), 1)
    if not len(first):
        return 0.0
    one, other = (np.stack([poses[i] for i in both]) for poses in (before, after))
    one, other = (geometry.relative_pose(poses[first], poses[second]) for poses in (one, other))
    turn = geometry.rotation_angle(one[:, :, :3] @ np.swapaxes(other[:, :, :3], 1, 2))
    return float(np.median(np.maximum(turn, geometry.vector_angle(one[:, :, 3], other[:, :, 3]))))


def mean_support(support: Mapping[Pair, float], matches: Matches, pairs: Sequence[Pair]) -> float:
    """The mean share over `pairs`, each weighted by its matches up to a hundred; pairs without cameras count as 0."""
    weight = np.array([min(len(matches.pairs[pair]), 100) for pair in pairs], np.float64)
    share = np.array([support.get(pair, 0.0) for pair in pairs])
    return float((weight * share).sum() / max(weight.sum(), 1e-9))
