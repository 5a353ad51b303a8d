"""Selects the lens model by held-out matches: a model with more parameters must explain them better.

Each trial adjusts a copy of the converged model with more freedom. It is used if the held-out tracks fit clearly better
(their mean loss decreases by more than noise explains), and if the loss of all tracks decreases by several of its
standard errors. But held-out tracks come from the same pictures: effects on a whole picture (a rolling shutter, a
sensor that is no pinhole) are in them, too, and focal lengths that differ by tenths of a percent explain a part of
these. So a shared lens is replaced by one per picture only if their focal lengths differ like those of a zoom, or fit
far better. Where the matches are too few to be sure of that, the predicted cameras are the second witness.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from ..cores import count_cores
from .adjustment import adjust, drop_weak_points
from .bundle import Hypothesis, freedom, from_model
from .evidence import change_of_pairs, rays, track_errors
from .lens import Lenses
from .mapping import Workshop
from .observations import Tracks
from .refine_config import RefineConfig

_SIGMAS = 4.0  # standard errors that the gain has to reach
# Standard errors, and factor of the usual gain, that are enough for a focal length per image if the cameras also come
# closer to the predicted ones.
_LIKELY, _LARGER = 1.5, 2.5
# Distortion needs less gain where it is surer: on eight pictures of a room through k1 = -0.02 it gains 0.017 to 0.024,
# at 8 standard errors; a courtyard, a kitchen and a tree seen through good lenses at most 0.003, at up to 6.
_SURER, _SMALLER = 6.5, 0.6
_CENTRE = "principal point"
_DISTORTION = ("radial distortion", "radial distortion of each image")
FOCAL_EACH = "a focal length for each image"
_CENTRE_VIEWS = 8  # views per lens from which the matches determine its principal point
_RADIAL_VIEWS = 3  # views per lens from which the matches determine its distortion
_TRIAL_ROUNDS = 2  # of adjustment, with removal of outliers between them
_HOPE = 0.5  # share of the least gain from which a trial gets its second round
# Spread of focal lengths that a zoom makes: 3 to 5 % on the sets with one. Without one 0.2 to 0.9 % were found; a desk
# with 3 % is refused by its gain.
_OTHER_FOCAL = 0.015
_FAR_BETTER = 5.0  # factor of the usual gain for focal lengths that differ by less
_MOST_OF_A_TRACK = 4.0  # largest change of a track's loss: one point behind a camera must not outweigh five hundred


@dataclass(frozen=True)
class Trial:
    """One lens model with more parameters, and the result on held-out matches, for run.json."""

    name: str
    gain: float  # relative decrease of the held-out loss; for two images, increase of their common points
    sigmas: float  # the gain in standard errors
    taken: bool
    apart_deg: float = 0.0  # movement of the cameras: the median over the pairs, see change_of_pairs
    closer_deg: float = 0.0  # of that, towards the predicted cameras


def choose_lenses(
    found: Hypothesis, workshop: Workshop, held_out: Tracks, everything: Tracks,
    predicted: Mapping[int, np.ndarray], config: RefineConfig,
) -> tuple[Hypothesis, list[Trial]]:  # fmt: skip
    """The hypothesis with the lenses that the held-out tracks and all tracks (`everything`) support, and the trials.
    `predicted`: view -> cam_from_world (3, 4) of the network.
    """
    trials: list[Trial] = []
    waiting = _ladder(config)
    with ThreadPoolExecutor(count_cores()) as pool:
        while waiting:
            # All at once, because most change nothing; those after one that is taken are made again from its result.
            start = _Start(len(trials), found, workshop, held_out, everything, predicted, config)
            made = [pool.submit(start.trial, name, enrich) for name, enrich in waiting]
            for step, future in enumerate(made):
                result = future.result()
                if result is None:
                    continue
                attempt, trial = result
                trials.append(trial)
                if trial.taken:
                    for later in made[step + 1 :]:
                        later.cancel()
                    found = attempt
                    break
            else:
                break
            waiting = waiting[step + 1 :]
    return found, trials


class _Start:
    """The hypothesis from which trials start, with the loss of its tracks."""

    def __init__(
        self, number: int, found: Hypothesis, workshop: Workshop, held_out: Tracks, everything: Tracks,
        predicted: Mapping[int, np.ndarray], config: RefineConfig,
    ) -> None:  # fmt: skip
        self.number = number  # of trials before: no two starts have the same
        self.found, self.workshop, self.predicted, self.config = found, workshop, predicted, config
        self.held_out, self.everything = _Loss(found, workshop, held_out), _Loss(found, workshop, everything)
        self.unseen = held_out.count < everything.count  # some tracks are not used by the adjustment

    def trial(self, name: str, enrich: Callable[[Lenses], Lenses | None]) -> tuple[Hypothesis, Trial] | None:
        """The hypothesis adjusted with richer lenses; None if the views do not allow them."""
        found, config = self.found, self.config
        richer = enrich(found.lenses)
        if richer is None or (len(found.poses) < 3 and not richer.focal_of_two):
            return None
        shop = self.workshop.with_lenses(f"{self.workshop.name}, {self.number}, {name}", richer)
        least = config.centre_gain if name == _CENTRE else config.lens_gain
        attempt, gain = self._adjusted(shop, least)
        _, sigmas = self.everything.gain(attempt)
        off = [float(np.degrees(change_of_pairs(self.predicted, each.poses))) for each in (found, attempt)]
        if richer.focal_of_two:  # two views fit nearly any focal length closely, but with fewer matches
            gain = attempt.model.num_points3D() / found.model.num_points3D() - 1
            taken = gain > config.lens_gain
        else:
            taken = bool(gain > least and sigmas > _SIGMAS)
            if name in _DISTORTION:
                taken |= bool(gain > _SMALLER * least and sigmas > _SURER)
            if name == FOCAL_EACH:
                zooms = _zooms(found.lenses, attempt.lenses)
                taken = focal_each(gain / least, sigmas, zooms, self.unseen and off[1] < off[0])
        apart = float(np.degrees(change_of_pairs(found.poses, attempt.poses)))
        closer = round(off[0] - off[1], 3)
        return attempt, Trial(name, round(gain, 4), round(float(sigmas), 1), taken, round(apart, 3), closer)

    def _adjusted(self, shop: Workshop, least: float) -> tuple[Hypothesis, float]:
        """The hypothesis adjusted with the lenses of the workshop, and the relative decrease of the held-out loss. One
        round is enough where its gain is far below `least`: nearly all trials of a lens that is right end so.
        """
        found, config = self.found, self.config
        model = shop.dressed(found.model)
        for turn in range(_TRIAL_ROUNDS):
            if turn:
                model = shop.triangulate(model)  # restores points that the simpler lens had excluded
            adjust(model, 1.0, freedom(model, shop.lenses))
            drop_weak_points(model, config.max_error, config.min_angle_deg)
            attempt = from_model(model, shop.lenses, found.path)
            gain, _ = self.held_out.gain(attempt)
            if gain < _HOPE * least and not shop.lenses.focal_of_two:
                break
        return attempt, gain


def focal_each(gain: float, sigmas: float, zooms: bool, seconded: bool) -> bool:
    """Whether each image gets its own focal length. `gain` is relative to the usual threshold; `zooms`: the focal
    lengths differ like those of a zoom; `seconded`: the cameras also come closer to the predicted ones, which is the
    second evidence where the matches are too few for `_SIGMAS` standard errors.
    """
    if not zooms:
        return gain > _FAR_BETTER and sigmas > _SIGMAS
    return (gain > 1 and sigmas > _SIGMAS) or (seconded and gain > _LARGER and sigmas > _LIKELY)


def _ladder(config: RefineConfig) -> list[tuple[str, Callable[[Lenses], Lenses | None]]]:
    steps: list[tuple[str, Callable[[Lenses], Lenses | None]]] = [("focal length of two images", _focal_of_two)]
    if config.camera_model == "auto":
        steps += [(_DISTORTION[0], _with_radial)]
    if config.intrinsics == "auto":
        steps.append((FOCAL_EACH, _split))
    if config.camera_model == "auto":
        steps += [(_DISTORTION[1], _with_radial_each)]
    steps.append((_CENTRE, _with_centre))
    return steps


def _focal_of_two(lenses: Lenses) -> Lenses | None:
    """One adjusted focal length for two views of one lens; None for more views."""
    if len(lenses.of_view) != 2 or len(lenses.lenses) != 1 or lenses.lenses[0].fixed:
        return None
    return replace(lenses, focal_of_two=True)


def _with_radial(lenses: Lenses) -> Lenses | None:
    """Lenses with enough views get one distortion coefficient each; None if no lens has enough."""
    counts = lenses.views_each
    bent = tuple(
        lens.bending("SIMPLE_RADIAL")
        if lens.model == "SIMPLE_PINHOLE" and not lens.fixed and count >= _RADIAL_VIEWS
        else lens
        for lens, count in zip(lenses.lenses, counts, strict=True)
    )
    return None if bent == lenses.lenses else replace(lenses, lenses=bent)


def _with_radial_each(lenses: Lenses) -> Lenses | None:
    """The same if each picture has its own focal length, and few pictures share one."""
    shared = max(lenses.views_each) >= _RADIAL_VIEWS  # was tried before
    if shared or len(lenses.of_view) < _RADIAL_VIEWS or any(lens.distorted for lens in lenses.lenses):
        return None
    bent = tuple(lens if lens.fixed else lens.bending("SIMPLE_RADIAL") for lens in lenses.lenses)
    return None if bent == lenses.lenses else replace(lenses, lenses=bent)


def _with_centre(lenses: Lenses) -> Lenses | None:
    """Free principal points; None if some lens has too few views."""
    counts = lenses.views_each
    open_to = [k for k, lens in enumerate(lenses.lenses) if not lens.fixed]
    if not open_to or min(counts[k] for k in open_to) < _CENTRE_VIEWS:
        return None
    return replace(lenses, lenses=tuple(replace(lens, centred=lens.fixed) for lens in lenses.lenses))


def _split(lenses: Lenses) -> Lenses | None:
    own = lenses.each_its_own()
    return own if len(own.lenses) > len(lenses.lenses) else None


def _zooms(shared: Lenses, own: Lenses) -> bool:
    """Whether the focal lengths of pictures that shared a lens differ by more than `_OTHER_FOCAL`: from the tenth to
    the ninetieth percentile of each group, because a picture with few matches may have any value.
    """
    focal = np.array([np.mean(own.lenses[k].of_picture(*own.lenses[k].size).focal) for k in own.of_view])
    groups = [focal[np.array(shared.of_view) == k] for k in set(shared.of_view)]
    return any(float(np.percentile(f, 90) / np.percentile(f, 10)) > 1 + _OTHER_FOCAL for f in groups)


class _Loss:
    """The loss of tracks, and how much another hypothesis decreases it.

    The loss of an observation is log(1 + (e/s)²), s the median error of the first hypothesis. With more than two views,
    tracks of two views do not count, because they fit nearly any lens.
    """

    def __init__(self, before: Hypothesis, workshop: Workshop, tracks: Tracks) -> None:
        self.tracks, self.matches = tracks, workshop.matches
        least = min(3, len(before.poses))
        self.often = np.bincount(tracks.track, minlength=tracks.count)[tracks.track] >= least
        error = self._errors(before)
        finite = error[np.isfinite(error)]
        self.scale = max(float(np.median(finite)), 1e-3) if len(finite) else 1.0
        self.before = self._of_tracks(error)

    def gain(self, after: Hypothesis) -> tuple[float, float]:
        """Relative decrease of the loss, and the decrease in standard errors over the tracks."""
        mean = float(self.before.sum())
        if mean == 0:
            return 0.0, 0.0
        loss = self._of_tracks(self._errors(after))
        fall = (self.before - loss)[(self.before > 0) | (loss > 0)]
        return float(fall.sum()) / mean, standard_errors(fall)

    def _errors(self, found: Hypothesis) -> np.ndarray:
        seen = rays(self.matches, self.tracks, found.lenses)
        return track_errors(found.poses, self.tracks, seen)[self.often]

    def _of_tracks(self, error: np.ndarray) -> np.ndarray:
        loss = np.log1p((np.minimum(error, 1e3) / self.scale) ** 2)
        return np.bincount(self.tracks.track[self.often], loss, self.tracks.count)


def standard_errors(fall: np.ndarray) -> float:
    """The sum of the decreases of tracks (N,) in units of its standard error, each limited to `_MOST_OF_A_TRACK`."""
    limited = np.clip(fall, -_MOST_OF_A_TRACK, _MOST_OF_A_TRACK)
    return float(limited.sum()) / max(float(limited.std()) * len(limited) ** 0.5, 1e-9)
