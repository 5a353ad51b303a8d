"""A hypothesis for pictures taken one after the other, as on a walk around a block.

Paving and similar houses repeat. Two pictures taken one period apart then match as if they were taken at the same
place, with the correct rotation and many matches. Rotations and match counts cannot detect this, and the reconstructed
path between them collapses to a point. Consecutive pictures are less than a period apart. Therefore the chain of
consecutive pictures is mapped first. Its points give the distance between the cameras of every other pair. Pairs that
contradict the chain are left out, pairs that close a loop are added, and all of them are mapped together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..scene import geometry
from . import bundle, observations
from .bundle import Hypothesis
from .evidence import unit_rays
from .lens import Lenses
from .mapping import Workshop
from .matching import Matches, Pair, TwoView
from .observations import Tracks
from .refine_config import RefineConfig
from .relative_poses import fitting_matches, pose_choices
from .rotations import average_choices
from .steady_steps import steadiest_steps

PATH = "mapping in order"
LEAST_VIEWS = 8  # with fewer pictures the other hypotheses suffice
_CYCLE = np.radians(3.0)  # largest angle between the rotation of a pair and the averaged rotations
_CLOSE = 0.5  # tolerance of matches to the pose of their pair, as a share of the largest reprojection error
_SPAN = 10  # steps within which the drift of the chain is small enough to judge a pair
_LEAST_DEPTHS = 8  # points of the chain needed to measure the distance of a pair
_OFF = 0.35  # largest difference between a pair and the chain, as a share of the distance along the chain
_ROUNDS = 3  # of triangulation and adjustment at the end
_CALIBRATED = 2  # of pycolmap.TwoViewGeometryConfiguration


def in_order(
    matches: Matches, held_out: Tracks, lenses: Lenses, starts: Sequence[np.ndarray], config: RefineConfig
) -> Hypothesis | None:
    """Cameras of pictures that are in the order of a walk; None if some consecutive pictures do not match.

    `starts`: further rotations (S, 3, 3) from which rotation averaging may start. The tracks `held_out` are not used.
    """
    count = len(matches.keypoints)
    if count < LEAST_VIEWS or any(lenses.facings) or not all((i, i + 1) in matches.pairs for i in range(count - 1)):
        return None
    posed = posed_pairs(matches, lenses, starts, config)
    chain = [(i, i + 1) for i in range(count - 1)]
    if any(pair not in posed.pairs for pair in chain):
        return None
    mapped = bundle.by_global_mapping(workshop("chain", posed, chain, held_out, lenses, config))
    if mapped is None or len(mapped.poses) < count:
        return None
    agreeing = chain + agreeing_with(mapped, posed)
    shop = workshop("in order", posed, sorted(agreeing), held_out, mapped.lenses, config)
    whole = bundle.by_global_mapping(shop)
    if whole is None or len(whole.poses) < 2:
        return None
    settled = bundle.settle(whole, shop, config, _ROUNDS)
    return None if settled is None else replace(settled, path=PATH)


def posed_pairs(matches: Matches, lenses: Lenses, starts: Sequence[np.ndarray], config: RefineConfig) -> Matches:
    """The pairs whose rotation agrees with the averaged rotations, each with that pose and the matches that fit it."""
    choices = pose_choices(matches, lenses, config)
    turns = {pair: each.poses[:, :, :3] for pair, each in choices.items()}
    votes = {pair: float(each.votes[0]) for pair, each in choices.items()}
    averages = [average_choices(len(matches.keypoints), turns, votes, start) for start in (None, *starts)]
    averaged, chosen = min(averages, key=lambda each: each[0].cost)
    poses = {pair: choices[pair].poses[chosen[pair]] for pair, angle in averaged.residuals.items() if angle <= _CYCLE}
    poses |= steadiest_steps(averaged.rotations, poses, matches, lenses, config)
    rows = fitting_matches(matches, poses, lenses, _CLOSE * config.max_error)
    pairs = {
        pair: TwoView(rows[pair], pose, _CALIBRATED)
        for pair, pose in poses.items()
        if len(rows[pair]) >= config.min_matches
    }
    return replace(matches, pairs=pairs)


def workshop(
    name: str, matches: Matches, pairs: Sequence[Pair], held_out: Tracks, lenses: Lenses, config: RefineConfig
) -> Workshop:
    """A workshop of these pairs, without the tracks `held_out`."""
    rows = {pair: matches.pairs[pair].matches for pair in pairs}
    return Workshop(name, matches, observations.without(matches, rows, held_out), lenses, config)


def agreeing_with(chain: Hypothesis, matches: Matches) -> list[Pair]:
    """The pairs, except consecutive ones, that agree with the chain. Pairs far apart in order, where the chain may have
    drifted, only have to be measurable from both ends.
    """
    centres = geometry.camera_centres(np.stack([chain.poses[i] for i in range(len(matches.keypoints))]))
    distances = _distances(chain, matches.keypoints)
    rays = unit_rays(matches, chain.lenses)
    found = []
    for (i, j), pair in sorted(matches.pairs.items()):
        if j - i < 2:
            continue
        apart = _how_far_apart(pair, (i, j), rays, distances)
        if apart is None:
            continue
        assert pair.second_from_first is not None  # all of them are posed
        measured = -chain.poses[j][:, :3].T @ pair.second_from_first[:, 3] * apart
        way = centres[j] - centres[i]
        if j - i > _SPAN or np.linalg.norm(measured - way) <= _OFF * np.linalg.norm(way):
            found.append((i, j))
    return found


def _distances(chain: Hypothesis, keypoints: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Distance of each keypoint's point from its camera; NaN if the chain has no point there."""
    found = [np.full(len(points), np.nan) for points in keypoints]
    for number in sorted(chain.model.point3D_ids()):
        point = chain.model.point3D(number)
        for element in point.track.elements:
            i = element.image_id - 1
            found[i][element.point2D_idx] = np.linalg.norm(geometry.transform(chain.poses[i], point.xyz[None])[0])
    return found


def _how_far_apart(
    pair: TwoView, views: Pair, rays: Sequence[np.ndarray], distances: Sequence[np.ndarray]
) -> float | None:
    """The distance of two cameras in the scale of the chain, from the points that both see; None if one of them
    sees too few.
    """
    assert pair.second_from_first is not None
    R, t = pair.second_from_first[:, :3], pair.second_from_first[:, 3]
    first, second = (rays[i][pair.matches[:, c]] for c, i in enumerate(views))
    turned = first @ R.T
    cosine, p, q = (turned * second).sum(axis=1), -(turned @ t), second @ t
    apart = np.maximum(1 - cosine**2, 1e-12)
    lengths: list[float] = []
    for unit, known in (
        ((p + cosine * q) / apart, distances[views[0]]),
        ((q + cosine * p) / apart, distances[views[1]]),
    ):
        far = known[pair.matches[:, len(lengths)]]
        use = (unit > 0) & np.isfinite(far)
        if use.sum() < _LEAST_DEPTHS:
            return None
        lengths.append(float(np.median(far[use] / unit[use])))
    return float(np.sqrt(lengths[0] * lengths[1]))
