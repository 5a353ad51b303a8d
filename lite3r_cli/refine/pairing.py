"""Selects the pictures that are matched with each other: all of them, or, in larger sets, those that may overlap."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import numpy as np

from ..cores import count_cores
from ..scene.consistency import best_neighbours
from ..scene.facing import same_picture
from ..scene.posed_view import View
from ..scene.surfaces import VoterMap
from .keypoints import Features
from .refine_config import RefineConfig

_ADJACENT = 4  # pictures before and after in the order of the set
_LOOK = 256  # largest features of a picture for preemptive matching (Wu, 3DV 2013)
_FEW = 12  # pictures up to which preemptive matching would save little
# Largest features, and how many of them a pair must have in common to be matched, where nearly all pairs are: with them
# 45 % of the pairs of a kitchen are left out, and of the 83 pairs that can be verified two, with 16 and 17 matches.
_LOOK_CLOSELY, _PROMISING = 1024, 6
_BEST = 6  # pairs of each picture that are matched with fewer, too
_RATIO = 0.8  # of the distances to the best and the second-best descriptor
_SAME = 3  # smallest number of common features that counts in preemptive matching


def choose_pairs(features: Sequence[Features], views: Sequence[View], config: RefineConfig) -> list[tuple[int, int]]:
    """Pairs i < j to match, sorted. Up to `_FEW` pictures all pairs; up to `config.exhaustive_views` those that have
    some features in common in preemptive matching; beyond, for each view those with the largest overlap of predicted
    depth maps and those with the most common features. Neighbours in order are always matched.
    """
    count = len(features)
    if count <= _FEW:
        return apart(views, {(i, j) for i in range(count) for j in range(i + 1, count)})
    if count <= config.exhaustive_views:
        common = common_features(features, _LOOK_CLOSELY)
        first, second = np.nonzero(np.triu(common >= _PROMISING, 1))
        chosen = set(zip(first.tolist(), second.tolist(), strict=True)) | most_similar(common, _BEST)
    else:
        common = common_features(features, _LOOK)
        chosen = overlapping_pairs(views, config.pair_neighbours) | most_similar(common, config.pair_neighbours)
    chosen |= {(i, j) for i in range(count) for j in range(i + 1, min(i + 1 + _ADJACENT, count))}
    return apart(views, chosen)


def apart(views: Sequence[View], pairs: set[tuple[int, int]]) -> list[tuple[int, int]]:
    """The sorted pairs of different centres: views of one 360° picture have the same centre."""
    return sorted((i, j) for i, j in pairs if not same_picture(views[i].facing, views[j].facing))


def overlapping_pairs(views: Sequence[View], count: int) -> set[tuple[int, int]]:
    """For each view the `count` others that see most of its surface, according to the predicted depth maps."""
    voters = [None if view.depth is None else VoterMap(view, view.depth > 0) for view in views]
    return {(min(i, j), max(i, j)) for i, others in enumerate(best_neighbours(voters, count)) for j in others}


def common_features(features: Sequence[Features], count: int) -> np.ndarray:
    """How many of the `count` largest features each two of S pictures have in common (S, S), 0 on the diagonal."""
    look = [item.descriptors[np.argsort(-item.scales, kind="stable")[:count]].astype(np.float32) for item in features]
    common = np.zeros((len(look), len(look)), np.int64)
    pairs = list(combinations(range(len(look)), 2))
    with ThreadPoolExecutor(count_cores()) as pool:
        found = pool.map(lambda pair: _in_common(look[pair[0]], look[pair[1]]), pairs)
        for (i, j), number in zip(pairs, found, strict=True):
            common[i, j] = common[j, i] = number
    return common


def most_similar(common: np.ndarray, count: int) -> set[tuple[int, int]]:
    """Of each picture the `count` others with most features in common (S, S), at least `_SAME`."""
    best = np.argsort(-common, axis=1, kind="stable")[:, :count]
    return {(min(i, j), max(i, j)) for i, row in enumerate(best) for j in row.tolist() if common[i, j] >= _SAME}


def _in_common(here: np.ndarray, there: np.ndarray) -> int:
    """Mutual nearest neighbours of descriptors (N, 128), (M, 128) that pass the ratio test both ways."""
    if min(len(here), len(there)) < 2:
        return 0
    similar = here @ there.T  # integers, exact in float32
    turned = np.ascontiguousarray(similar.T)
    column, row = similar.argmax(axis=1), turned.argmax(axis=1)
    mutual = np.flatnonzero(row[column] == np.arange(len(here)))
    column = column[mutual]
    return int((_clear(similar[mutual], column) & _clear(turned[column], mutual)).sum())


def _clear(similar: np.ndarray, best: np.ndarray) -> np.ndarray:
    """Whether the most similar column `best` (N,) of each row passes the ratio test (N,); changes `similar` (N, M)."""
    rows = np.arange(len(similar))
    first = similar[rows, best]
    similar[rows, best] = -np.inf
    length = 512.0**2
    return length - first < _RATIO**2 * (length - similar.max(axis=1, initial=-np.inf))
