"""Decides which cameras of a model are verified, finds weak parts, and writes the warnings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..scene import geometry
from ..scene.facing import Facing, rigs_of
from ..scene.posed_view import View
from .evidence import change_of_pairs
from .lens_choice import FOCAL_EACH, Trial
from .links import Cut, closest_two, largest_part, weakest_cuts
from .refine_config import RefineConfig
from .search import Found

REFINED, ROTATION, KEPT, GIVEN = "refined", "rotation", "kept", "given"
_STRONG = 30  # matches of a pair that are seldom due to chance
_FARTHER = 2.0  # factor of the usual distance of a camera from the prediction
_MORE_THAN_NOISE = 0.005  # gain of a focal length per image from which the matches lean towards it at all
_LEAST_OPEN = 1.0  # degrees: a smaller ambiguity is no reason to keep the predicted cameras
# Usual triangulation angle, in units of the usual error, from which the matches determine positions: 5 for pictures
# within five centimetres of one place in a street; the other sets measured have 20 and more.
_POSITIONED = 10.0
_NAMES = 3  # pictures named in a warning


@dataclass(frozen=True)
class Verdict:
    """The outcome of one image's camera."""

    cameras: str  # REFINED, KEPT or GIVEN; ROTATION: refined, but the positions are little more than noise
    reason: str
    observations: int = 0  # sparse points that it sees
    support: float | None = None  # share of its matches with other images that its camera explains


@dataclass(frozen=True)
class Account:
    """The result of the search, for run.json."""

    path: str  # the selected hypothesis
    hypotheses: list[dict[str, Any]]
    lenses: list[dict[str, Any]]
    lens_trials: list[dict[str, Any]]
    pairs: int  # with verified matches
    contradicting_pairs: int  # of these, pairs that the cameras do not explain: look-alike surfaces, or chance
    parallax_deg: float  # usual triangulation angle of the points
    error_deg: float  # usual error of their observations
    weakest_link: dict[str, Any] | None  # the cut that the fewest points cross: its images and their number
    weak_parts: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    positions: dict[str, Any] | None = None  # the effect of known camera positions

    def as_dict(self) -> dict[str, Any]:
        told = asdict(self)
        if self.positions is None:
            del told["positions"]
        return told


def image_support(found: Found, matches_of: dict[tuple[int, int], int], views: int) -> np.ndarray:
    """Share (S,) of each image's matches that the cameras explain, over its pairs; over the strong
    pairs if it has any.
    """
    share = np.full(views, np.nan)
    for i in found.hypothesis.poses:
        mine = [pair for pair in found.support if i in pair]
        strong = [pair for pair in mine if matches_of[pair] >= _STRONG] or mine
        if strong:
            weight = [min(matches_of[pair], 100) for pair in strong]
            share[i] = float(np.average([found.support[pair] for pair in strong], weights=weight))
    return share


def undetermined(views: Sequence[View], poses: np.ndarray, trials: Sequence[Trial]) -> str | None:
    """Why the matches do not determine the cameras better than the network does; None if they do.

    A focal length per image was not used but fits slightly better, and moves the cameras by more than the result,
    `poses` (S, 3, 4), is from the prediction: the ambiguity of the lens is as large as the refinement.
    """
    predicted = {i: view.cam_from_world for i, view in enumerate(views)}
    changed = float(np.degrees(change_of_pairs(predicted, dict(enumerate(poses)))))
    for trial in trials:
        open_still = trial.name == FOCAL_EACH and not trial.taken and trial.gain > _MORE_THAN_NOISE
        if open_still and trial.apart_deg > max(changed, _LEAST_OPEN):
            return (
                f"its matches fit other focal lengths as well, which move the cameras by {trial.apart_deg:.1f}°, more "
                f"than the {changed:.1f}° that they are from the predicted ones; --focal or EXIF would tell"
            )
    return None


def positioned(parallax: float, error: float) -> bool:
    """Whether the usual triangulation angle is large enough, compared with the usual error, to determine where the
    cameras are.
    """
    return parallax >= _POSITIONED * error


def by_rig(facings: Sequence[Facing | None], seen: np.ndarray, support: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (S,) and support (S,), where the views of a 360° picture get their common values, because they share a
    pose.
    """
    seen, support = seen.copy(), support.copy()
    for members in rigs_of(facings).values():
        told = [i for i in members if np.isfinite(support[i])]
        if told and seen[told].sum() > 0:
            support[members] = np.average(support[told], weights=seen[told])
        seen[members] = seen[members].sum()
    return seen, support


def verified_images(
    views: Sequence[View], found: Found, seen: np.ndarray, support: np.ndarray, config: RefineConfig
) -> tuple[list[int], dict[int, str]]:
    """The views with verified cameras, and for each other view the reason. `seen` (S,): points of the model."""
    reasons = {}
    for i in range(len(views)):
        if i in found.matches.mirrored:
            reasons[i] = "a mirror image: it matches the others only when it is flipped left to right, so flip it"
        elif i not in found.hypothesis.poses or seen[i] < config.min_observations:
            reasons[i] = "too few of its matches could be verified"
        elif support[i] < config.min_support:
            reasons[i] = "most of its matches contradict each other"
    kept = [i for i in range(len(views)) if i not in reasons]
    for i in _contradicted(views, found, kept, seen, config):
        reasons[i] = "its few matches contradict the predicted cameras"
    return [i for i in kept if i not in reasons], reasons


def separate(
    views: Sequence[View], chosen: Sequence[int], image: np.ndarray, point: np.ndarray, config: RefineConfig
) -> dict[int, str]:
    """The `chosen` views that too few points connect to the others, with the reason; observations by `image` and
    `point`. However well such a part is adjusted, its pose relative to the others is not.

    With three or more views only points in three views count: those in two leave the distance between them open. On
    the sets measured, right cameras are connected by at least 25 of them; in a courtyard of 8 views two that were 12
    and 18 degrees off, with 155 and 296 points in two views, have none.
    """
    stands, least = _stands(views), config.min_observations
    image, point = np.unique(np.stack([stands[image], point]), axis=1)
    part = largest_part(sorted(set(stands[list(chosen)].tolist())), image, point, least)
    if len(part) > 2:
        inside = np.isin(image, part)
        image, point = image[inside], point[inside]
        often = np.bincount(point)[point] >= 3
        firm = largest_part(part, image[often], point[often], least)
        part = firm if len(firm) > 1 else closest_two(image, point)
    return {i: "too few points connect it to the other images" for i in chosen if stands[i] not in part}


def _stands(views: Sequence[View]) -> np.ndarray:
    """For each view (S,) the first one of its 360° picture, or itself: those are connected by definition."""
    stands = np.arange(len(views))
    for members in rigs_of([view.facing for view in views]).values():
        stands[members] = members[0]
    return stands


def _contradicted(
    views: Sequence[View], found: Found, chosen: Sequence[int], seen: np.ndarray, config: RefineConfig
) -> list[int]:
    """Views with few points that are farther from the prediction than the firm ones.

    The distance of a view is the median, over the other images, of the larger of rotation and change of direction. The
    firm views show the usual error of the network in this set. More than `_FARTHER` times that, and
    `contradiction_deg`, is attributed to the few points. With fewer than two firm views, twice `contradiction_deg` is
    the threshold. Set on 49 such views, of random small parts of nine sets.
    """
    few = [i for i in chosen if seen[i] < config.firm_observations]
    if not few or len(chosen) < 2:
        return []
    poses = np.stack([found.hypothesis.poses[i] for i in chosen])
    predicted = np.stack([views[i].cam_from_world for i in chosen])
    larger = np.zeros((len(chosen), len(chosen)))
    for k in range(len(chosen)):
        here, before = (geometry.relative_pose(p, p[k]) for p in (poses, predicted))
        turn = geometry.rotation_angle(here[:, :, :3] @ np.swapaxes(before[:, :, :3], 1, 2))
        larger[k] = np.maximum(turn, geometry.vector_angle(here[:, :, 3], before[:, :, 3]))
    firm = [k for k, i in enumerate(chosen) if i not in few]
    least = 2 * np.radians(config.contradiction_deg)
    if len(firm) >= 2:
        usual = float(np.median(larger[np.ix_(firm, firm)][np.triu_indices(len(firm), 1)]))
        least = max(least / 2, _FARTHER * usual)
    others = ~np.eye(len(chosen), dtype=bool)
    return [i for k, i in enumerate(chosen) if i in few and np.median(larger[k][others[k]]) > least]


def account(
    views: Sequence[View], found: Found, chosen: Sequence[int], image: np.ndarray, point: np.ndarray,
    matches_of: dict[tuple[int, int], int], parallax: tuple[float, float], config: RefineConfig,
) -> Account:  # fmt: skip
    """The entry of run.json, including warnings of weak and ambiguous parts; observations by `image` and `point`,
    `parallax` from `usual_angle`.
    """
    against = {
        pair: round(matches_of[pair] * (1 - found.support[pair]))
        for pair in found.dropped
        if pair in found.support and matches_of[pair] >= _STRONG
    }
    stands = _stands(views)
    apart: dict[tuple[int, int], int] = {}
    for (i, j), matches in against.items():
        pair = (int(stands[i]), int(stands[j]))
        apart[pair] = apart.get(pair, 0) + matches
    cuts = weakest_cuts(sorted(set(stands[list(chosen)].tolist())), stands[image], point, apart)
    weakest = min(cuts, key=lambda cut: cut.strength, default=None)
    parts, warnings = [], []
    for cut in cuts:
        rival = cut.against >= config.rival_share * cut.strength and cut.against > 0
        if cut.strength < config.firm_tie or rival:
            parts.append({**_named(cut, views), "could_stand_elsewhere": rival})
            warnings.append(_warning(cut, views, rival))
    if found.elsewhere:
        names = names_of(views, found.elsewhere)
        warnings.append(f"--refine: the poses of {names} are ambiguous: two solutions explain the matches equally well")
    if not positioned(*parallax):
        warnings.append(
            f"--refine: the images were taken from nearly one place (parallax of the points {parallax[0]:.2g}°, "
            f"error {parallax[1]:.2g}°): only the rotations are verified; take the images further apart"
        )
    return Account(
        path=found.hypothesis.path,
        hypotheses=[asdict(tried) for tried in found.tried],
        lenses=[_lens(found, k, views) for k in range(len(found.hypothesis.lenses.lenses))],
        lens_trials=[asdict(trial) for trial in found.trials],
        pairs=len(matches_of),
        contradicting_pairs=len(found.dropped),
        parallax_deg=round(parallax[0], 3),
        error_deg=round(parallax[1], 4),
        weakest_link=None if weakest is None else _named(weakest, views),
        weak_parts=parts,
        warnings=warnings,
    )


def _named(cut: Cut, views: Sequence[View]) -> dict[str, Any]:
    return {
        "images": [views[i].name for i in cut.part],
        "shared_points": int(cut.strength),
        "contradicting_matches": int(cut.against),
    }


def _warning(cut: Cut, views: Sequence[View], rival: bool) -> str:
    names = names_of(views, cut.part)
    if rival:
        return (
            f"--refine: the poses of {names} may be wrong: {int(cut.strength)} points connect them to the others, "
            f"{int(cut.against)} matches contradict this"
        )
    return f"--refine: only {int(cut.strength)} points connect {names} to the others: add images between them"


def names_of(views: Sequence[View], chosen: Sequence[int]) -> str:
    """Some names of the views, and how many more there are."""
    rest = len(chosen) - _NAMES
    return ", ".join(views[i].name for i in chosen[:_NAMES]) + (f" and {rest} more" if rest > 0 else "")


def _lens(found: Found, k: int, views: Sequence[View]) -> dict[str, Any]:
    lenses = found.hypothesis.lenses
    lens = lenses.lenses[k]
    return {
        "model": lens.model,
        "size": list(lens.size),
        "params": [round(p, 6) for p in lens.params],
        "known": lens.fixed,
        "images": [views[i].name for i, own in enumerate(lenses.of_view) if own == k],
    }
