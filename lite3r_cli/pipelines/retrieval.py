"""Which photographs of a scene show what a new photo shows: by one descriptor a picture, then feature by feature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from math import log10

import numpy as np

from ..cores import count_cores
from ..long.loop_search import descriptors
from ..world.ties import TIED, Keypoints, evidence, find_keypoints

_COARSE = (518, 1000)  # side of the picture and number of its features
_FINE = (1024, 3000)  # of larger pictures, where few features tie nothing
_ASKED, _FINE_ASKED = 16, 8  # photographs that a new photo is compared with, feature by feature


@dataclass(frozen=True)
class Match:
    """A photograph of the scene beside a new photo."""

    image: int  # of the set
    likeness: float  # of the descriptors, −1..1
    evidence: float  # decimal logarithm of the number of false alarms; inf: the features agree on nothing


@dataclass(frozen=True)
class Matches:
    """The photographs most like a new photo, those first that features tie to it."""

    matches: list[Match]
    asked: int  # comparisons, each of which could have been a false alarm

    @property
    def tied(self) -> bool:
        """Whether features tie the photo to the scene, by more than as many comparisons give by chance."""
        return min(match.evidence for match in self.matches) < TIED - log10(max(self.asked, 1))


class Retrieval:
    """Looks for photos among the photographs of a scene. `small(i)`, `large(i)`: image i (h, w, 3) uint8 at the
    network's size, and at its own.
    """

    def __init__(
        self, captured: Sequence[int], small: Callable[[int], np.ndarray], large: Callable[[int], np.ndarray]
    ) -> None:
        self.captured = list(captured)
        self._small = small
        self._fine: Callable[[int], Keypoints] = cache(lambda i: find_keypoints(large(i), *_FINE))
        with ThreadPoolExecutor(min(4, count_cores())) as pool:
            self._features = list(pool.map(lambda i: find_keypoints(small(i), *_COARSE), self.captured))

    def find(self, photo: int) -> Matches:
        """The photographs that are like image `photo`."""
        mine = find_keypoints(self._small(photo), *_COARSE)
        vectors = descriptors([*self._features, mine])
        likeness = vectors[:-1] @ vectors[-1]
        order = np.argsort(-likeness, kind="stable")[:_ASKED].tolist()
        found = [Match(self.captured[k], float(likeness[k]), evidence(mine, self._features[k])) for k in order]
        first = Matches(_best_first(found), len(found))
        if first.tied:
            return first
        fine = self._fine(photo)
        again = [
            Match(match.image, match.likeness, min(match.evidence, evidence(fine, self._fine(match.image))))
            for match in first.matches[:_FINE_ASKED]
        ]
        return Matches(_best_first([*again, *first.matches[_FINE_ASKED:]]), len(found) + len(again))


def _best_first(found: Sequence[Match]) -> list[Match]:
    return sorted(found, key=lambda match: (match.evidence, -match.likeness))
