"""Mirror images among the pictures: slides scanned the wrong way round, flipped copies.

Windows look nearly the same in a mirror. So a mirrored photo of a facade has verified matches with the right ones and
fits beside them, as if it showed more of the facade. But once it is flipped, it has many times as many.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from .descriptors import Described, Pair, match_pairs
from .keypoints import Features

_LOOK = 256  # largest features of each picture that are compared
_LEAST = 20  # of them that a mirror image has in common with another picture once it is flipped
# How many times as many these have to be as those without the flip, over all pairs and in the best one. Of mirrored
# photos 3.4 to 5 times as many were found; of four photos of a courtyard whose walls are alike, .6 times in the best.
_TIMES = 2.0
# A SIFT descriptor has 4 rows of 4 cells in the direction of its keypoint, and 8 directions in each. A mirror exchanges
# the two sides of that direction.
_ROW, _CELL, _DIRECTION = np.ogrid[:4, :4, :8]
_FLIP = ((3 - _ROW) * 32 + _CELL * 8 + (-_DIRECTION) % 8).ravel()


def mirror_images(features: Sequence[Features], pairs: Sequence[Pair] | None = None) -> list[int]:
    """The pictures that match the others much better once they are flipped; if those are more than half, the others.
    Compares `pairs`, None = all. Two pictures do not tell which one is the mirror image.
    """
    count = len(features)
    pairs = list(combinations(range(count), 2)) if pairs is None else pairs
    if count < 3 or not pairs:
        return []
    rows = [item.descriptors[np.argsort(-item.scales, kind="stable")[:_LOOK]] for item in features]
    seen = [Described(each) for each in rows] + [Described(flip(each)) for each in rows]
    flipped = _common(seen, pairs, count, count)
    if flipped.max() < _LEAST:
        return []
    plain = _common(seen, pairs, count, 0)
    # pictures of one kind have the same sign in the eigenvector of the largest eigenvalue
    sign = np.linalg.eigh(plain - flipped)[1][:, -1] < 0
    few = sign if 2 * sign.sum() < count or (2 * sign.sum() == count and not sign[0]) else ~sign
    for _ in range(count):  # those that match one of the rest directly are none, and so are those that match these
        through, directly = flipped[:, ~few], plain[:, ~few]
        clear = through.max(axis=1) >= np.maximum(_TIMES * directly.max(axis=1), _LEAST)
        clear &= through.sum(axis=1) >= _TIMES * directly.sum(axis=1)
        if clear[few].all():
            break
        few &= clear
    return np.flatnonzero(few).tolist()


def flip(descriptors: np.ndarray) -> np.ndarray:
    """The descriptors (N, 128) that the picture would have in a mirror."""
    return np.ascontiguousarray(descriptors[:, _FLIP])


def _common(seen: Sequence[Described], pairs: Sequence[Pair], count: int, offset: int) -> np.ndarray:
    """How many features the pictures i and j + `offset` of each pair have in common (S, S)."""
    common = np.zeros((count, count))
    for (i, j), found in zip(pairs, match_pairs(seen, [(i, j + offset) for i, j in pairs]), strict=True):
        common[i, j] = common[j, i] = len(found)
    return common
