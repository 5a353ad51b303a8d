"""Registers predicted cameras with known ones: by one similarity transform, or relative to known neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..scene import geometry
from ..scene.geometry import Similarity
from ..scene.priors import CameraPriors

_NEIGHBOURS = 3  # known cameras that place an unknown one


def mean_rotation(rotations: np.ndarray, rounds: int = 10, weight: np.ndarray | None = None) -> np.ndarray:
    """The robust mean of rotations (N, 3, 3): chordal mean with Cauchy weights at the median angle, times `weight`."""
    given = np.ones(len(rotations)) if weight is None else weight
    weight = given
    for _ in range(rounds):
        u, _, vt = np.linalg.svd((weight[:, None, None] * rotations).sum(axis=0))
        mean = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
        angle = geometry.rotation_angle(rotations @ mean.T)
        weight = given / (1 + (angle / max(2 * float(np.median(angle)), 1e-4)) ** 2)
    return mean


def similarity_from_cameras(predicted: np.ndarray, given: np.ndarray) -> Similarity:
    """The Sim(3) from the frame of the cam_from_world `predicted` (N, 3, 4) to that of `given` (N, 3, 4).

    Rotations are used directly, so that cameras on a line are no problem. The scale is the median ratio of the
    distances between cameras (1 if the given ones do not move), the translation the median over the centres.
    """
    turns = np.swapaxes(given[:, :, :3], 1, 2) @ predicted[:, :, :3]
    rotation = mean_rotation(turns)
    source, target = geometry.camera_centres(predicted), geometry.camera_centres(given)
    scale = baseline_ratio(source, target)
    translation = np.median(target - scale * source @ rotation.T, axis=0)
    return Similarity(scale, rotation, translation)


def baseline_ratio(source: np.ndarray, target: np.ndarray) -> float:
    """The median ratio of the distances between the points `target` (N, 3) to those between `source`; 1 without any."""
    first, second = np.triu_indices(len(source), k=1)
    there, here = (np.linalg.norm(points[first] - points[second], axis=1) for points in (target, source))
    usable = (here > _same_place(source)) & (there > _same_place(target))
    return float(np.median(there[usable] / here[usable])) if usable.any() else 1.0


def tells_scale(priors: CameraPriors) -> bool:
    """Whether the known poses determine the scale: at least two, at places that differ by more than rounding."""
    if len(priors.known_poses) < 2:
        return False
    centres = geometry.camera_centres(priors.given_poses())
    return bool(np.linalg.norm(np.ptp(centres, axis=0)) > _same_place(centres))


def _same_place(centres: np.ndarray) -> float:
    """Smaller distances are rounding: of a file with six decimals, or of large coordinates in double precision."""
    return max(2e-6, 1e-9 * float(np.abs(centres).max()))


def place_beside(
    predicted: np.ndarray, known: Sequence[int], given: np.ndarray, scale: float, unknown: Sequence[int]
) -> np.ndarray:
    """Poses (U, 3, 4) of the views `unknown` in the frame of the `given` poses (K, 3, 4) of the views `known`.

    Errors of a network grow with the distance between two cameras. So each unknown camera keeps its predicted pose
    relative to the `_NEIGHBOURS` nearest known ones, weighted by inverse distance.
    """
    centres = geometry.camera_centres(predicted)
    placed = []
    for i in unknown:
        distance = np.linalg.norm(centres[list(known)] - centres[i], axis=1)
        nearest = np.argsort(distance, kind="stable")[:_NEIGHBOURS]
        weight = 1 / (distance[nearest] + 1e-3 * (distance.max() + 1e-12))
        proposals = np.stack([_beside(predicted[known[k]], predicted[i], given[k], scale) for k in nearest])
        u, _, vt = np.linalg.svd((weight[:, None, None] * proposals[:, :, :3]).sum(axis=0))
        rotation = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
        centre = (weight[:, None] * geometry.camera_centres(proposals)).sum(axis=0) / weight.sum()
        placed.append(np.concatenate([rotation, -rotation @ centre[:, None]], axis=1))
    return np.stack(placed)


def _beside(neighbour: np.ndarray, pose: np.ndarray, given: np.ndarray, scale: float) -> np.ndarray:
    """The pose that has the relative pose of `pose` and `neighbour` to `given`, at `scale`."""
    relative = geometry.relative_pose(neighbour, pose)
    relative[:, 3] *= scale
    return geometry.compose(relative, given)
