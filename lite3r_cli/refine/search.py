"""The camera search: contradicting pairs are removed, hypotheses are made, and held-out matches choose between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import count

import numpy as np

from ..scene import geometry
from ..scene.posed_view import View
from . import bundle, observations
from .bundle import GLOBAL, PREDICTED, Hypothesis
from .evidence import Evidence, judge, pair_support, rays
from .in_order import PATH as IN_ORDER
from .in_order import in_order
from .lens import Lenses, start_lenses
from .lens_choice import Trial, choose_lenses
from .mapping import Workshop
from .matching import Matches, Pair, verified
from .refine_config import RefineConfig
from .rotations import Averaged, best_average

_LEAN_TRACKS = 500  # per picture, the longest ones, with which hypotheses and lenses are compared
_LEAST_VIEW = 0.5  # smallest share of explained observations of each picture if only one hypothesis is made
_CLEARLY = 0.01  # share of the observations by which a later hypothesis must be better
_TRAIN_ROUNDS, _LAST_ROUNDS = 3, 4  # rounds of triangulation and adjustment: without and with the held-out tracks
_CLOSE = 0.125  # of the largest reprojection error: how close an observation has to lie to tell solutions apart
_RIVAL = 0.02  # a hypothesis that is worse by at most this share is an alternative solution
_APART = np.radians(5.0)  # rotation of a picture between two hypotheses
_ABOVE_NOISE = 4.0  # usual triangulation angle of points, in units of the usual error, from which small ones count
_SMALLER = 4.0  # of these the smallest one that counts, as a fraction of the usual one


@dataclass(frozen=True)
class Tried:
    """A hypothesis, as in run.json."""

    path: str
    images: int
    explained: float  # share of the held-out observations
    error: float  # pixels at the size of the features, median over those explained


@dataclass(frozen=True)
class Found:
    """The result of the search."""

    hypothesis: Hypothesis
    matches: Matches  # verified with its lenses
    support: dict[Pair, float]  # share of each verified pair's matches that the cameras explain
    tried: list[Tried]
    trials: list[Trial] = field(default_factory=list)
    dropped: list[Pair] = field(default_factory=list)  # verified pairs that contradict the others
    elsewhere: list[int] = field(default_factory=list)  # views whose rotation differs in an equally good hypothesis


class Search:
    """Shared data of all hypotheses: the tracks of the agreeing pairs, some of them held out."""

    def __init__(
        self, views: Sequence[View], matches: Matches, config: RefineConfig, lenses: Lenses | None = None
    ) -> None:
        self.views, self.matches, self.config = views, matches, config
        self.agreeing = agreeing_pairs(views, matches, config)
        rows = {pair: matches.pairs[pair].matches for pair in self.agreeing}
        self.joined = observations.join([len(points) for points in matches.keypoints], rows)
        self.used, self.held_out = observations.split(self.joined, len(views))
        lenses = start_lenses(views, matches.sizes, config) if lenses is None else lenses
        if self.used is not self.held_out:
            rows = observations.without(matches, rows, self.held_out)
        self.workshop = Workshop("adjusted", matches, rows, lenses, config)
        self.lean = self._lean(rows)
        self._numbers = count()  # of the adjustments to all matches

    def _lean(self, rows: Mapping[Pair, np.ndarray]) -> Workshop:
        """A workshop with the longest tracks of each picture: they determine the cameras that held-out tracks judge,
        and further ones would only take time. The last adjustment uses all of them.
        """
        wanted = observations.longest_of_each(self.used, _LEAN_TRACKS)
        if 2 * wanted.sum() > self.used.count:
            return self.workshop
        rows = observations.without(self.matches, rows, self.used.chosen(~wanted))
        return Workshop("lean", self.matches, rows, self.workshop.lenses, self.config)

    def evidence(self, found: Hypothesis) -> Evidence:
        """How well a hypothesis explains the held-out tracks."""
        seen = rays(self.matches, self.held_out, found.lenses)
        return judge(found.poses, self.held_out, seen, len(self.views), self.config.max_error)

    def run(self) -> Found | None:
        """The best hypothesis with its lenses, adjusted to all matches that it explains; None without any."""
        made: list[tuple[Hypothesis, Evidence]] = []
        for found in self._hypotheses():
            if found is None or len(found.poses) < 2:
                continue
            evidence = self.evidence(found)
            made.append((found, evidence))
            if found.path == PREDICTED and evidence.explained >= self.config.explained:
                self._allow_angles_of(found)
            if self._enough(made):
                break
        tried = [
            Tried(found.path, len(found.poses), round(evidence.explained, 4), round(evidence.error, 3))
            for found, evidence in made
        ]
        for found, evidence in _best_first(made):
            settled = self._settled(found, made)
            if settled is None:
                continue
            last, matches, trials = self._with_lenses(settled)
            if last is None:
                continue
            support = pair_support(last.poses, matches, last.lenses, self.config.max_error)
            dropped = [pair for pair in matches.pairs if support.get(pair, 0.0) < self.config.pair_support]
            return Found(last, matches, support, tried, trials, dropped, _elsewhere(found, evidence, made))
        return None

    def _hypotheses(self) -> Iterator[Hypothesis | None]:
        """The hypotheses one after the other, until `_enough`. Incremental mapping takes most of the time and comes
        last. Global mapping takes one core and runs beside mapping in order, after which it is nearly always asked for.
        """
        yield bundle.from_prediction(self.views, self.matches, self.used, self.workshop)
        with ThreadPoolExecutor(1) as beside:
            globally = beside.submit(bundle.by_global_mapping, self.workshop)
            yield self._in_order()
            yield globally.result()
        yield bundle.incremental(self.workshop)

    def _allow_angles_of(self, found: Hypothesis) -> None:
        """Accept points with small angles if nearly all have them, but larger ones than noise explains: pictures taken
        within a step of one place. Without those points little would be left of the matches, and that by chance. Only
        with known lenses: a wrong focal length looks like small angles where a camera only turns.
        """
        if not all(lens.fixed for lens in self.workshop.lenses.lenses):
            return
        usual, noise = bundle.usual_angle(found)
        if self.config.min_angle_deg > usual > _ABOVE_NOISE * noise:
            self.config = replace(self.config, min_angle_deg=usual / _SMALLER)
            self.workshop.config = self.lean.config = self.config

    def _in_order(self) -> Hypothesis | None:
        predicted = np.stack([view.cam_from_world[:, :3] for view in self.views])
        return in_order(self.matches, self.held_out, self.workshop.lenses, [predicted], self.config)

    def _settled(self, found: Hypothesis, made: Sequence[tuple[Hypothesis, Evidence]]) -> Hypothesis | None:
        """The hypothesis adjusted until it settles, or the one in order where that fits the tracks held out closely
        more often: where surfaces repeat, wrong cameras explain as much, but less closely."""
        settled = bundle.settle(found, self.lean, self.config, _TRAIN_ROUNDS)
        ordered = [other for other, _ in made if other.path == IN_ORDER]
        if settled is None or not ordered or found is ordered[0]:
            return settled
        closely = [self._closely(each) for each in (settled, ordered[0])]
        return ordered[0] if closely[1] > closely[0] else settled

    def _closely(self, found: Hypothesis) -> float:
        """Share of the held-out observations that lie within a small part of the largest error."""
        seen = rays(self.matches, self.held_out, found.lenses)
        tolerance = _CLOSE * self.config.max_error
        return judge(found.poses, self.held_out, seen, len(self.views), tolerance).explained

    def _enough(self, made: Sequence[tuple[Hypothesis, Evidence]]) -> bool:
        """Whether no further hypothesis is needed: the last one is beyond doubt, or the one in order, which look-alike
        surfaces mislead least, places every view and explains more than the others, also closely.
        """
        last, evidence = made[-1]
        if last.path in (PREDICTED, IN_ORDER) and self._beyond_doubt(last, evidence):
            return True
        ordered = [
            (found, its) for found, its in made if found.path == IN_ORDER and len(found.poses) == len(self.views)
        ]
        if not ordered or last.path != GLOBAL:
            return False
        first, its = ordered[0]
        others = [(found, theirs) for found, theirs in made if found is not first]
        more = all(its.explained > theirs.explained + _CLEARLY for _, theirs in others)
        return more and all(self._closely(first) > self._closely(found) for found, _ in others)

    def _beyond_doubt(self, found: Hypothesis, evidence: Evidence) -> bool:
        return (
            evidence.explained >= self.config.explained
            and len(found.poses) == len(self.views)
            and bool(np.nanmin(evidence.views) >= _LEAST_VIEW)
        )

    def _seen_through(self, lenses: Lenses) -> Matches:
        """The matches, verified again if a lens has distortion: matches far from the centre do not fit a pinhole."""
        if not any(lens.distorted for lens in lenses.lenses):
            return self.matches
        return verified(self.matches, lenses.cameras(), self.config)

    def _with_lenses(self, settled: Hypothesis) -> tuple[Hypothesis | None, Matches, list[Trial]]:
        """The hypothesis with chosen lenses, adjusted to all matches, which are the second result. Mostly no trial of a
        lens is taken; so the adjustment begins beside them with the lenses as they are.
        """
        predicted = {i: view.cam_from_world for i, view in enumerate(self.views)}
        with ThreadPoolExecutor(1) as beside:
            unchanged = beside.submit(self._adjusted_to_all, settled)
            chosen, trials = choose_lenses(settled, self.lean, self.held_out, self.joined, predicted, self.config)
            return *(unchanged.result() if chosen is settled else self._adjusted_to_all(chosen)), trials

    def _adjusted_to_all(self, found: Hypothesis) -> tuple[Hypothesis | None, Matches]:
        """Adjusted again with the held-out tracks and with every pair that the cameras explain; and all matches."""
        matches = self._seen_through(found.lenses)
        support = pair_support(found.poses, matches, found.lenses, self.config.max_error)
        rows = {
            pair: matches.pairs[pair].matches for pair, share in support.items() if share >= self.config.pair_support
        }
        workshop = Workshop(f"all, {next(self._numbers)}", matches, rows, found.lenses, self.config)
        return bundle.settle(found, workshop, self.config, _LAST_ROUNDS), matches


def agreeing_pairs(views: Sequence[View], matches: Matches, config: RefineConfig) -> list[Pair]:
    """The verified pairs whose rotation agrees with the average."""
    relative = {
        pair: found.second_from_first[:, :3]
        for pair, found in matches.pairs.items()
        if found.second_from_first is not None
    }
    weights = {pair: float(len(matches.pairs[pair])) for pair in relative}
    predicted = np.stack([view.cam_from_world[:, :3] for view in views])
    averaged: Averaged = best_average(len(views), relative, weights, predicted)
    most = np.radians(config.cycle_deg)
    return [pair for pair in sorted(matches.pairs) if averaged.residuals.get(pair, 0.0) <= most]


def _best_first(made: Sequence[tuple[Hypothesis, Evidence]]) -> list[tuple[Hypothesis, Evidence]]:
    """Sorted by explained share in steps of `_CLEARLY`; equal ones in their order."""
    return sorted(made, key=lambda item: -round(item[1].explained / _CLEARLY))


def _elsewhere(chosen: Hypothesis, evidence: Evidence, made: Sequence[tuple[Hypothesis, Evidence]]) -> list[int]:
    """Views whose rotation differs in a hypothesis that explains as much."""
    found: set[int] = set()
    for other, its in made:
        if other is chosen or its.explained < evidence.explained - _RIVAL:
            continue
        both = sorted(chosen.poses.keys() & other.poses.keys())
        if len(both) < 3:
            continue
        turn = np.stack([chosen.poses[i][:, :3].T @ other.poses[i][:, :3] for i in both])
        apart = geometry.rotation_angle(np.swapaxes(turn, 1, 2)[:, None] @ turn[None])  # between any two
        middle = int(np.argmin(np.median(apart, axis=1)))
        found |= {i for i, angle in zip(both, apart[middle]) if angle > _APART}
    return sorted(found)
