"""Selects the pictures that are matched with each other: all of them, or, in larger sets, those that may overlap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..scene.consistency import best_neighbours
from ..scene.facing import same_picture
from ..scene.posed_view import View
from ..scene.surfaces import VoterMap
from .keypoints import Features
from .refine_config import RefineConfig

_ADJACENT = 4  # pictures before and after in the order of the set
_LOOK = 256  # largest features of a picture for preemptive matching (Wu, 3DV 2013)
_RATIO = 0.8  # of the distances to the best and the second-best descriptor
_SAME = 3  # smallest number of common features that counts in preemptive matching


def choose_pairs(features: Sequence[Features], views: Sequence[View], config: RefineConfig) -> list[tuple[int, int]]:
    """Pairs i < j to match, sorted. Up to `config.exhaustive_views` all pairs; beyond, for each view those with the
    largest overlap of predicted depth maps, those with the most features in preemptive matching, and its neighbours in
    order.
    """
    count = len(features)
    if count <= config.exhaustive_views:
        return apart(views, {(i, j) for i in range(count) for j in range(i + 1, count)})
    chosen = overlapping_pairs(views, config.pair_neighbours) | similar_pairs(features, config.pair_neighbours)
    chosen |= {(i, j) for i in range(count) for j in range(i + 1, min(i + 1 + _ADJACENT, count))}
    return apart(views, chosen)


def apart(views: Sequence[View], pairs: set[tuple[int, int]]) -> list[tuple[int, int]]:
    """The sorted pairs of different centres: views of one 360° picture have the same centre."""
    return sorted((i, j) for i, j in pairs if not same_picture(views[i].facing, views[j].facing))


def overlapping_pairs(views: Sequence[View], count: int) -> set[tuple[int, int]]:
    """For each view the `count` others that see most of its surface, according to the predicted depth maps."""
    voters = [None if view.depth is None else VoterMap(view, view.depth > 0) for view in views]
    return {(min(i, j), max(i, j)) for i, others in enumerate(best_neighbours(voters, count)) for j in others}


def similar_pairs(features: Sequence[Features], count: int) -> set[tuple[int, int]]:
    """Of each picture the `count` others with most features in common, among the `_LOOK` largest of each."""
    look = [item.descriptors[np.argsort(-item.scales, kind="stable")[:_LOOK]].astype(np.float32) for item in features]
    common = np.zeros((len(look), len(look)), np.int64)
    for i, here in enumerate(look):
        for j in range(i + 1, len(look)):
            common[i, j] = common[j, i] = _in_common(here, look[j])
    best = np.argsort(-common, axis=1, kind="stable")[:, :count]
    return {(min(i, j), max(i, j)) for i, row in enumerate(best) for j in row.tolist() if common[i, j] >= _SAME}


def _in_common(here: np.ndarray, there: np.ndarray) -> int:
    """Mutual nearest neighbours of descriptors (N, 128), (M, 128) that pass the ratio test both ways."""
    if min(len(here), len(there)) < 2:
        return 0
    similar = here @ there.T  # integers, exact in float32
    column, clear_here = _clear_best(similar)
    row, clear_there = _clear_best(np.ascontiguousarray(similar.T))
    mutual = row[column] == np.arange(len(here))
    return int((mutual & clear_here & clear_there[column]).sum())


def _clear_best(similar: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The most similar column of each row (N,), and whether it passes the ratio test (N,)."""
    rows = np.arange(len(similar))
    best = similar.argmax(axis=1)
    first = similar[rows, best]
    rest = similar.copy()
    rest[rows, best] = -np.inf
    length = 512.0**2
    return best, length - first < _RATIO**2 * (length - rest.max(axis=1))
