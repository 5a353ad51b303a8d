"""Features and matches of pictures, found by one thread while the network runs; they do not depend on threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from threading import Event

import numpy as np

from ..layers.lone_threads import start_alone
from ..scene.facing import Facing
from .descriptors import Described, Pair, match_pairs
from .keypoints import Features, ReadImage, ReadMask, extract
from .pairing import pairs_of_few
from .refine_config import RefineConfig


@dataclass
class Begun:
    """What was found of a set of pictures."""

    features: dict[int, Features] = field(default_factory=dict)
    pairs: Sequence[Pair] | None = None  # that are to be matched; None: not chosen
    matches: dict[Pair, np.ndarray] = field(default_factory=dict)  # (M, 2) int64 rows of descriptors


NOTHING_BEGUN = Begun()


class _Ended(Exception):
    """The result is asked for: what is left is faster on all cores."""


class EarlyMatches:
    """Starts to find the features of pictures and, if a prediction is not needed to choose the pairs, their matches.

    `facings` has one entry for each picture; None for a usual one.
    """

    def __init__(
        self, facings: Sequence[Facing | None], read_rgb: ReadImage, read_mask: ReadMask, config: RefineConfig
    ) -> None:
        self._facings, self._read_rgb, self._read_mask, self._config = facings, read_rgb, read_mask, config
        self._begun, self._asked = Begun(), Event()
        self._thread = start_alone(self._work, "early matches")

    def end(self) -> Begun:
        """Stop, and return what was found."""
        self._asked.set()
        self._thread.join()
        return self._begun

    def _work(self) -> None:
        begun = self._begun
        try:
            for i in self._until_asked(range(len(self._facings))):
                begun.features[i] = extract(self._read_rgb(i), self._read_mask(i), self._config)
            if len(self._facings) > self._config.exhaustive_views:
                return
            features = [begun.features[i] for i in range(len(self._facings))]
            begun.pairs = pairs_of_few(features, self._facings, self._one_by_one)
            described = [Described(item.descriptors) for item in features]
            for pair in begun.pairs:
                begun.matches[pair] = match_pairs(described, [pair], self._one_by_one)[0]
        except _Ended:
            pass
        except Exception:  # comes again where the rest is found
            pass

    def _one_by_one(self, function: Callable[[Pair], np.ndarray], pairs: Iterable[Pair]) -> Iterator[np.ndarray]:
        return map(function, self._until_asked(pairs))

    def _until_asked(self, items):
        for item in items:
            if self._asked.is_set():
                raise _Ended
            yield item
