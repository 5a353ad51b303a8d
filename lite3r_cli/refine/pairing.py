"""Selects the pictures that are matched with each other: all of them, or, in larger sets, those that may overlap."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from ..scene.consistency import best_neighbours
from ..scene.facing import Facing, same_picture
from ..scene.posed_view import View
from ..scene.surfaces import VoterMap
from .descriptors import Described, Each, match_pairs, on_all_cores
from .keypoints import Features
from .refine_config import RefineConfig

# Pictures before and after in the order of the set: where all pairs are compared, the others show in their features.
_ADJACENT, _NEXT = 4, 1
_LOOK = 256  # largest features of a picture for preemptive matching (Wu, 3DV 2013)
_FEW = 12  # pictures up to which preemptive matching would save little
# Largest features, and how many of them a pair must have in common to be matched, where nearly all pairs are: with them
# 57 % of the pairs of a kitchen are left out, and of the 87 pairs that can be verified four, with 15 to 17 matches.
_LOOK_CLOSELY, _PROMISING = 1024, 8
_BEST = 6  # pairs of each picture that are matched with fewer, too
_SAME = 3  # smallest number of common features that counts in preemptive matching


def choose_pairs(features: Sequence[Features], views: Sequence[View], config: RefineConfig) -> list[tuple[int, int]]:
    """Pairs i < j to match, sorted. Up to `config.exhaustive_views` those of `pairs_of_few`; beyond, for each view
    those with the largest overlap of predicted depth maps and those with most common features, and neighbours in order.
    """
    facings = [view.facing for view in views]
    if len(features) <= config.exhaustive_views:
        return pairs_of_few(features, facings)
    chosen = overlapping_pairs(views, config.pair_neighbours)
    chosen |= most_similar(common_features(features, _LOOK), config.pair_neighbours)
    return apart(facings, chosen | in_order(len(features), _ADJACENT))


def pairs_of_few(
    features: Sequence[Features], facings: Sequence[Facing | None], each: Each = on_all_cores
) -> list[tuple[int, int]]:
    """Pairs i < j to match, sorted, without a prediction. Up to `_FEW` pictures all pairs; beyond, those that have some
    features in common in preemptive matching, and neighbours in order. `each` matches the pairs.
    """
    count = len(features)
    if count <= _FEW:
        return apart(facings, set(combinations(range(count), 2)))
    common = common_features(features, _LOOK_CLOSELY, each)
    first, second = np.nonzero(np.triu(common >= _PROMISING, 1))
    chosen = set(zip(first.tolist(), second.tolist(), strict=True)) | most_similar(common, _BEST)
    return apart(facings, chosen | in_order(count, _NEXT))


def in_order(count: int, steps: int) -> set[tuple[int, int]]:
    """The pairs of `count` pictures that are at most `steps` apart in order."""
    return {(i, j) for i in range(count) for j in range(i + 1, min(i + 1 + steps, count))}


def apart(facings: Sequence[Facing | None], pairs: set[tuple[int, int]]) -> list[tuple[int, int]]:
    """The sorted pairs of different centres: views of one 360° picture have the same centre."""
    return sorted((i, j) for i, j in pairs if not same_picture(facings[i], facings[j]))


def overlapping_pairs(views: Sequence[View], count: int) -> set[tuple[int, int]]:
    """For each view the `count` others that see most of its surface, according to the predicted depth maps."""
    voters = [None if view.depth is None else VoterMap(view, view.depth > 0) for view in views]
    return {(min(i, j), max(i, j)) for i, others in enumerate(best_neighbours(voters, count)) for j in others}


def common_features(features: Sequence[Features], count: int, each: Each = on_all_cores) -> np.ndarray:
    """How many of the `count` largest features each two of S pictures have in common (S, S), 0 on the diagonal."""
    look = [Described(item.descriptors[np.argsort(-item.scales, kind="stable")[:count]]) for item in features]
    common = np.zeros((len(look), len(look)), np.int64)
    pairs = list(combinations(range(len(look)), 2))
    for (i, j), found in zip(pairs, match_pairs(look, pairs, each), strict=True):
        common[i, j] = common[j, i] = len(found)
    return common


def most_similar(common: np.ndarray, count: int) -> set[tuple[int, int]]:
    """Of each picture the `count` others with most features in common (S, S), at least `_SAME`."""
    best = np.argsort(-common, axis=1, kind="stable")[:, :count]
    return {(min(i, j), max(i, j)) for i, row in enumerate(best) for j in row.tolist() if common[i, j] >= _SAME}
