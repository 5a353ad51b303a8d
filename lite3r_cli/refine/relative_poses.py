"""All relative poses that the matches of two pictures allow: a plane that fills both pictures leaves two of them, and
surfaces that repeat leave one for each period.

The homography of a plane has up to four decompositions, two of them with the plane in front of both cameras (Malis &
Vargas, INRIA RR-6303, 2007). Matches off the plane decide which one is correct. If they are few, only the rotations of
other pairs can decide; therefore all poses that explain the matches about equally well are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np

from ..cores import count_cores
from ..scene import geometry
from ..scene.distortion import PINHOLES
from .backend import require_pycolmap
from .evidence import ray_errors, unit_rays
from .lens import Lens, Lenses
from .matching import Matches, Pair
from .refine_config import RefineConfig

_TIGHT = 0.25  # error at which the vote of a match is one half, as a share of the largest reprojection error
_ROUNDS = (1.0, 0.5, 0.25, 0.25)  # rounds of refinement: the tolerance of matches, as the same share
_LEAST = 8  # matches that refine a pose
_PROMISING = 0.15  # least share of the verified matches that a pose fits before refinement
_AS_GOOD = 0.85  # least share of the votes of the best pose for another pose to be kept
_SAME_TURN, _SAME_WAY = np.radians(0.5), np.radians(3.0)  # poses that differ by less count as equal
_NEARLY_AS_GOOD = 0.7  # the same share as `_AS_GOOD` for the ways of two neighbours in order, which others judge
_WAYS, _WAY_APART = 6, np.radians(30.0)  # ways of a pair that are refined, and the least angle between them
_LOOK = 60  # matches of which any two give a way
_FAR = 1e-9  # a cross product of less gives no direction


@dataclass(frozen=True)
class Choices:
    """The poses of one pair; the one with most votes comes first."""

    poses: np.ndarray  # (K, 3, 4) second from first, |t| = 1
    votes: np.ndarray  # (K,)


def pose_choices(matches: Matches, lenses: Lenses, config: RefineConfig) -> dict[Pair, Choices]:
    """The poses that each verified pair allows, refined on all of its matches; pairs without a pose are left out."""
    cameras = lenses.cameras()
    rays = unit_rays(matches, lenses)

    def one(pair: Pair) -> Choices | None:
        two = _Pair(matches, pair, lenses, cameras, rays, config)
        return _ranked(two, two.poses(), _AS_GOOD)

    pairs = sorted(matches.pairs)
    with ThreadPoolExecutor(count_cores()) as pool:
        found = dict(zip(pairs, pool.map(one, pairs), strict=True))
    return {pair: choices for pair, choices in found.items() if choices is not None}


def ways_with(
    turns: Mapping[Pair, np.ndarray], matches: Matches, lenses: Lenses, config: RefineConfig
) -> dict[Pair, Choices]:
    """The poses that the matches of each pair allow with about the rotation `turns` (3, 3), all of those with nearly
    as many votes as the best one: where surfaces repeat, the second camera may be ahead of the first one or behind it.
    """
    cameras, rays = lenses.cameras(), unit_rays(matches, lenses)

    def one(pair: Pair) -> Choices | None:
        two = _Pair(matches, pair, lenses, cameras, rays, config)
        return _ranked(two, two.ways(turns[pair]), _NEARLY_AS_GOOD)

    found = {pair: one(pair) for pair in sorted(turns)}
    return {pair: choices for pair, choices in found.items() if choices is not None}


def _ranked(two: _Pair, poses: list[np.ndarray], as_good: float) -> Choices | None:
    """The different ones of the poses whose votes are at least the share `as_good` of the best one's."""
    ranked = sorted(((two.votes(pose), k, pose) for k, pose in enumerate(poses)), key=lambda v: (-v[0], v[1]))
    kept: list[np.ndarray] = []
    votes: list[float] = []
    for vote, _, pose in ranked:
        if vote >= as_good * ranked[0][0] and not any(_same(pose, other) for other in kept):
            kept.append(pose)
            votes.append(vote)
    return Choices(np.stack(kept), np.array(votes)) if kept and votes[0] > 0 else None


def fitting_matches(
    matches: Matches, poses: Mapping[Pair, np.ndarray], lenses: Lenses, tolerance: float
) -> dict[Pair, np.ndarray]:
    """All matches (M, 2) of each pair within `tolerance` pixels of its pose (3, 4), second from first."""
    rays = unit_rays(matches, lenses)
    result = {}
    for (i, j), pose in poses.items():
        rows, focal = matches.raw[i, j], _focal(lenses, i, j)
        result[i, j] = rows[ray_errors(pose, rays[i][rows[:, 0]], rays[j][rows[:, 1]], focal, tolerance) < tolerance]
    return result


class _Pair:
    """The matches of two pictures, before verification, and how well a pose fits them."""

    def __init__(
        self, matches: Matches, pair: Pair, lenses: Lenses, cameras: list, rays: list[np.ndarray], config: RefineConfig
    ) -> None:
        i, j = pair
        self.seed, self.tolerance = (config.seed + 1_000_003 * i + j) % 2**31, config.max_error
        self.cameras, self.focal = (cameras[i], cameras[j]), _focal(lenses, i, j)
        self.lenses = [lenses.lenses[lenses.of_view[k]] for k in pair]
        rows = matches.raw[pair]
        self.points = [np.ascontiguousarray(matches.keypoints[k][rows[:, c]]) for c, k in enumerate(pair)]
        self.rays = [rays[k][rows[:, c]] for c, k in enumerate(pair)]
        self.verified = matches.pairs[pair]
        self.planar = [matches.keypoints[k][self.verified.matches[:, c]] for c, k in enumerate(pair)]

    def errors(self, pose: np.ndarray) -> np.ndarray:
        return ray_errors(pose, self.rays[0], self.rays[1], self.focal, self.tolerance)

    def votes(self, pose: np.ndarray) -> float:
        """The sum over all matches of 1 / (1 + (error / tight)²)."""
        return float((1 / (1 + (self.errors(pose) / (_TIGHT * self.tolerance)) ** 2)).sum())

    def poses(self) -> list[np.ndarray]:
        """The verified pose and those of a plane, refined."""
        stored = self.verified.second_from_first
        poses = [] if stored is None or np.linalg.norm(stored[:, 3]) == 0 else [stored]
        if all(lens.model in PINHOLES for lens in self.lenses):
            poses += self._of_a_plane()
        near = [(self.errors(pose) < self.tolerance).sum() for pose in poses]
        enough = _PROMISING * len(self.verified)
        return [self._refined(pose) for pose, count in zip(poses, near, strict=True) if count >= enough]

    def ways(self, turn: np.ndarray) -> list[np.ndarray]:
        """The poses near the rotation `turn`, refined: any two matches give a direction of the translation."""
        first, second = self.rays[0] @ turn.T, self.rays[1]
        across = np.cross(first, second)
        seen = np.linalg.norm(across, axis=1) > 2 * self.tolerance / self.focal  # the others give no direction
        first, second, across = first[seen], second[seen], across[seen]
        chosen = across[np.linspace(0, len(across) - 1, min(len(across), _LOOK)).astype(np.int64)]
        ways = np.cross(*(chosen[k] for k in np.triu_indices(len(chosen), 1)))
        ways = ways[np.linalg.norm(ways, axis=1) > _FAR]
        ways = np.concatenate([ways, -ways]) / np.linalg.norm(np.concatenate([ways, ways]), axis=1, keepdims=True)
        # for each way and match: distance from the epipolar plane, and whether the rays meet in front of both cameras
        sine = np.sqrt(np.maximum(1 - (ways @ first.T) ** 2, 1e-12))
        error = np.abs(ways @ across.T) / sine * self.focal
        ahead = (ways @ np.cross(first, across).T < 0) & (ways @ np.cross(second, across).T < 0)
        votes = (ahead / (1 + (error / (0.5 * self.tolerance)) ** 2)).sum(axis=1)
        found: list[np.ndarray] = []
        for k in np.argsort(-votes, kind="stable").tolist():
            if all(way @ ways[k] < np.cos(_WAY_APART) for way in found):
                found.append(ways[k])
            if len(found) == _WAYS:
                break
        return [self._refined(np.column_stack([turn, way])) for way in found]

    def _of_a_plane(self) -> list[np.ndarray]:
        pycolmap = require_pycolmap()
        options = pycolmap.RANSACOptions(max_error=0.5 * self.tolerance, random_seed=self.seed)
        found = pycolmap.estimate_homography_matrix(*self.planar, options)
        if found is None:
            return []
        first, second = (_intrinsics(lens) for lens in self.lenses)
        between = np.linalg.inv(second) @ np.asarray(found["H"]) @ first
        _, turns, ways, _ = cv2.decomposeHomographyMat(between, np.eye(3))
        lengths = [float(np.linalg.norm(way)) for way in ways]
        return [
            np.column_stack([turn, way.ravel() / length])
            for turn, way, length in zip(turns, ways, lengths, strict=True)
            if length > 1e-6 and np.isfinite(turn).all()
        ]

    def _refined(self, pose: np.ndarray) -> np.ndarray:
        pycolmap = require_pycolmap()
        for share in _ROUNDS:
            near = self.errors(pose) < share * self.tolerance
            if near.sum() < _LEAST:
                break
            first, second = self.points
            refined = pycolmap.refine_relative_pose(
                pycolmap.Rigid3d(pose), self.cameras[0], first, self.cameras[1], second, near
            )
            if refined is None or not np.isfinite(refined["cam2_from_cam1"].matrix()).all():
                break
            pose = np.asarray(refined["cam2_from_cam1"].matrix())
        return np.column_stack([pose[:, :3], pose[:, 3] / max(float(np.linalg.norm(pose[:, 3])), 1e-12)])


def _focal(lenses: Lenses, i: int, j: int) -> float:
    """The mean focal length of two views, in pixels at the size of the features."""
    return 0.5 * sum(float(np.mean(lens.of_picture(*lens.size).focal)) for lens in _of(lenses, i, j))


def _of(lenses: Lenses, i: int, j: int) -> tuple[Lens, Lens]:
    return lenses.lenses[lenses.of_view[i]], lenses.lenses[lenses.of_view[j]]


def _intrinsics(lens: Lens) -> np.ndarray:
    camera = lens.of_picture(*lens.size)
    return np.array([[camera.focal[0], 0, camera.centre[0]], [0, camera.focal[1], camera.centre[1]], [0, 0, 1.0]])


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    turn = geometry.rotation_angle((one[:, :3] @ other[:, :3].T)[None])[0]
    return bool(turn < _SAME_TURN and geometry.vector_angle(one[None, :, 3], other[None, :, 3])[0] < _SAME_WAY)
