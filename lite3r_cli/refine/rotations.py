"""Rotation averaging, and the pairs that contradict the average.

Matches on look-alike surfaces pass every two-view test. But their rotation does not close the cycles that contain the
pair: in a robust average of all rotations (Chatterjee & Govindu, PAMI 2018) such a pair stays far from the average,
while correct pairs stay within a few degrees, even with a wrong focal length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..scene import geometry

Pair = tuple[int, int]
_ROUNDS, _ROBUST_FROM = 80, 25  # least absolute deviations first, then a redescending loss
_KNEE = np.radians(5.0)  # of that loss
_LEAST = np.radians(0.3)  # smaller deviations count as this one
_FITS = np.radians(2.0)  # an angle below which a rotation fits the average
_MOST_WEIGHT = 300  # number of matches beyond which the weight of a pair does not grow
_SETTLED = 1e-5  # radians


@dataclass(frozen=True)
class Averaged:
    """Rotations that explain those of the pairs."""

    rotations: np.ndarray  # (S, 3, 3) cam_from_world; free up to one rotation per connected component
    residuals: dict[Pair, float]  # radians, between the rotation of a pair and the averaged one
    cost: float  # robust, 0..1: weighted mean of 1 - 1 / (1 + (residual / knee)²)


def average(
    count: int, relative: Mapping[Pair, np.ndarray], weights: Mapping[Pair, float], start: np.ndarray | None = None
) -> Averaged:
    """Average the rotations `relative` (3, 3), second camera from first, of pairs of `count` cameras.

    Starts from `start` (S, 3, 3), or along the spanning tree of the heaviest pairs.
    """
    one = {pair: turn[None] for pair, turn in relative.items()}
    rotations = _along_tree(count, sorted(relative), relative, weights) if start is None else start
    return average_choices(count, one, weights, rotations)[0]


def average_choices(
    count: int, relative: Mapping[Pair, np.ndarray], weights: Mapping[Pair, float], start: np.ndarray | None = None
) -> tuple[Averaged, dict[Pair, int]]:
    """The same where a pair has several rotations (K, 3, 3), of which one is right, the most likely first: each counts
    by the one that fits the average, and the second result says by which; of several that fit, by the first.
    """
    pairs = sorted(relative)
    first, second = np.array(pairs, np.int64).reshape(-1, 2).T
    most = max((len(relative[pair]) for pair in pairs), default=1)
    measured = np.zeros((most, len(pairs), 3, 3))
    for number, pair in enumerate(pairs):
        measured[:, number] = relative[pair][np.minimum(np.arange(most), len(relative[pair]) - 1)]
    heavy = np.array([min(weights[pair], _MOST_WEIGHT) for pair in pairs], np.float64)
    if start is None:
        start = _along_tree(count, pairs, {pair: turns[0] for pair, turns in relative.items()}, weights)
    rotations = np.array(start, np.float64)
    column = np.arange(len(pairs))
    for turn in range(_ROUNDS if pairs else 0):
        left = np.stack([_residuals(rotations, first, second, each) for each in measured])
        angles = np.linalg.norm(left, axis=2)
        nearest = angles.argmin(axis=0)
        angle = angles[nearest, column]
        robust = turn >= _ROBUST_FROM
        weight = heavy / (1 + (angle / _KNEE) ** 2) ** 2 if robust else heavy / np.maximum(angle, _LEAST)
        step = _solve(count, first, second, weight, left[nearest, column])
        rotations = rotations @ rotation_from_vector(step)
        if robust and np.abs(step).max() < _SETTLED:
            break
    angles = np.stack([np.linalg.norm(_residuals(rotations, first, second, each), axis=1) for each in measured])
    chosen = (angles <= np.maximum(angles.min(axis=0), _FITS)).argmax(axis=0)
    angle = angles[chosen, column]
    cost = float((heavy * (1 - 1 / (1 + (angle / _KNEE) ** 2))).sum() / max(heavy.sum(), 1e-9))
    averaged = Averaged(rotations, dict(zip(pairs, angle.tolist(), strict=True)), cost)
    return averaged, dict(zip(pairs, chosen.tolist(), strict=True))


def best_average(
    count: int, relative: Mapping[Pair, np.ndarray], weights: Mapping[Pair, float], predicted: np.ndarray
) -> Averaged:
    """The better of the averages that start along the tree and from the `predicted` rotations (S, 3, 3)."""
    along = average(count, relative, weights)
    guess = average(count, relative, weights, predicted)
    return guess if guess.cost < along.cost else along


def vector_from_rotation(rotations: np.ndarray) -> np.ndarray:
    """Axis times angle (N, 3) of rotations (N, 3, 3)."""
    q = geometry.quaternion_from_matrix(rotations)
    sine = np.linalg.norm(q[..., :3], axis=-1)
    angle = 2 * np.arctan2(sine, q[..., 3])
    return q[..., :3] * np.where(sine > 1e-12, angle / np.maximum(sine, 1e-12), 2.0)[..., None]


def rotation_from_vector(vectors: np.ndarray) -> np.ndarray:
    """Rotations (N, 3, 3) about vectors (N, 3) by their lengths in radians."""
    angle = np.linalg.norm(vectors, axis=-1, keepdims=True)
    factor = np.where(angle > 1e-12, np.sin(angle / 2) / np.maximum(angle, 1e-12), 0.5)
    return geometry.matrix_from_quaternion(np.concatenate([vectors * factor, np.cos(angle / 2)], axis=-1))


def _residuals(rotations: np.ndarray, first: np.ndarray, second: np.ndarray, measured: np.ndarray) -> np.ndarray:
    return vector_from_rotation(np.swapaxes(rotations[second], 1, 2) @ measured @ rotations[first])


def _solve(count: int, first: np.ndarray, second: np.ndarray, weight: np.ndarray, left: np.ndarray) -> np.ndarray:
    """The steps (S, 3) that reduce the residuals `left` (P, 3) most: weighted least squares on the graph."""
    laplacian, right = np.zeros((count, count)), np.zeros((count, 3))
    for a, b, sign in ((first, second, -1.0), (second, first, 1.0)):
        np.add.at(laplacian, (a, a), weight)
        np.add.at(laplacian, (a, b), -weight)
        np.add.at(right, a, sign * weight[:, None] * left)
    laplacian += np.eye(count) * 1e-9 * max(float(weight.max()), 1e-9)  # every component is free as a whole
    return np.linalg.solve(laplacian, right)


def _along_tree(
    count: int, pairs: Sequence[Pair], relative: Mapping[Pair, np.ndarray], weights: Mapping[Pair, float]
) -> np.ndarray:
    """Rotations (S, 3, 3) along the spanning tree of the heaviest pairs; parts without a pair between them start at
    the identity."""
    part = list(range(count))
    rotations = np.tile(np.eye(3), (count, 1, 1))
    for i, j in sorted(pairs, key=lambda pair: (-weights[pair], pair)):
        if part[i] == part[j]:
            continue
        moved = [k for k in range(count) if part[k] == part[j]]
        # the second part turns as a whole, so that R_j = R_ij R_i
        turn = rotations[j].T @ relative[i, j] @ rotations[i]
        for k in moved:
            rotations[k], part[k] = rotations[k] @ turn, part[i]
    return rotations
