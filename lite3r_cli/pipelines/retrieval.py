"""Finds the photographs of a scene that show what a new photo shows: by one descriptor per picture, then by feature
matching.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from math import log10

import numpy as np

from ..cores import count_cores
from ..io.view_memory import Features
from ..long.loop_search import centred, residuals, vocabulary
from ..world.ties import TIED, Agreement, Keypoints, agreement, find_keypoints, keypoints_of
from .scene_memory import COUNT, SIDE

_FINE = (1024, 3000)  # size and number of features of larger pictures, for photos that few features do not match
_ASKED, _FINE_ASKED = 16, 8  # photographs that are matched with a new photo


@dataclass(frozen=True)
class Match:
    """A photograph of the scene and its similarity to a new photo."""

    image: int  # of the set
    likeness: float  # cosine similarity of the descriptors, −1..1
    agreement: Agreement | None = None  # the feature matches; None: not asked for

    @property
    def evidence(self) -> float:
        """The decimal logarithm of the number of false alarms; inf: no matches."""
        return np.inf if self.agreement is None else self.agreement.evidence


@dataclass(frozen=True)
class Matches:
    """The photographs most similar to a new photo; those with feature matches come first."""

    matches: list[Match]
    asked: int  # number of comparisons, each of which may give a false alarm

    @property
    def tied(self) -> bool:
        """Whether features connect the photo to the scene, beyond the false alarms of so many comparisons."""
        return len(self.sure()) > 0

    def sure(self) -> list[Match]:
        """The photographs that features connect to the photo, beyond the false alarms of so many comparisons."""
        return [match for match in self.matches if match.evidence < TIED - log10(max(self.asked, 1))]


class Retrieval:
    """Searches the photographs of a scene. `small(i)`, `large(i)`: image i (h, w, 3) uint8 at the network's size and at
    its own; `kept(i)`: its stored features, else None.
    """

    def __init__(
        self,
        captured: Sequence[int],
        small: Callable[[int], np.ndarray],
        large: Callable[[int], np.ndarray],
        kept: Callable[[int], Features | None] = lambda i: None,
    ) -> None:
        self.captured = list(captured)
        self._small, self._kept = small, kept
        self._coarse: Callable[[int], Keypoints] = cache(self._look)
        self._fine: Callable[[int], Keypoints] = cache(lambda i: find_keypoints(large(i), *_FINE))
        with ThreadPoolExecutor(min(4, count_cores())) as pool:
            features = list(pool.map(self._coarse, self.captured))
        self._words = vocabulary(features)
        self._sums = None if self._words is None else residuals(features, self._words)

    def _look(self, i: int) -> Keypoints:
        found = self._kept(i)
        return find_keypoints(self._small(i), SIDE, COUNT) if found is None else keypoints_of(found)

    def add(self, photo: int) -> None:
        """Include image `photo` in the scene."""
        self.captured.append(photo)
        if self._words is not None and self._sums is not None:
            self._sums = np.concatenate([self._sums, residuals([self._coarse(photo)], self._words)])

    def find(self, photo: int, among: Container[int] | None = None) -> Matches:
        """The photographs that are similar to image `photo`; only those in `among`, if given."""
        mine, likeness = self._coarse(photo), self._likeness(photo)
        allowed = [k for k, i in enumerate(self.captured) if i != photo and (among is None or i in among)]
        order = sorted(allowed, key=lambda k: -likeness[k])[:_ASKED]
        found = [
            Match(self.captured[k], float(likeness[k]), agreement(mine, self._coarse(self.captured[k]))) for k in order
        ]
        first = Matches(_best_first(found), len(found))
        if first.tied or not found:
            return first
        fine = self._fine(photo)
        again = [
            min(match, replace(match, agreement=agreement(fine, self._fine(match.image))), key=lambda m: m.evidence)
            for match in first.matches[:_FINE_ASKED]
        ]
        return Matches(_best_first([*again, *first.matches[_FINE_ASKED:]]), len(found) + len(again))

    def _likeness(self, photo: int) -> np.ndarray:
        """(N,) of all captured photographs."""
        if self._words is None or self._sums is None:
            return np.zeros(len(self.captured))
        vectors = centred(np.concatenate([self._sums, residuals([self._coarse(photo)], self._words)]))
        return vectors[:-1] @ vectors[-1]


def _best_first(found: Sequence[Match]) -> list[Match]:
    return sorted(found, key=lambda match: (match.evidence, -match.likeness))
