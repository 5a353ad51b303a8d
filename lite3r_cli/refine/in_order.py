"""A hypothesis for pictures that were taken one after the other, as on a walk round a block.

Ground, paving and look-alike houses repeat: two pictures that stand a period apart match as if they stood at one place,
with the right rotation and on many points, so that neither rotations nor counts tell; the part of the way between
shrinks to a point. Neighbours in order are less than a period apart. So the chain of neighbours is mapped alone. It
tells how deep the points of each picture lie, and thereby how far apart any other pair stands; pairs that contradict it
are left out, those that close a loop come in, and all are mapped together.
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

PATH = "mapping in order"
LEAST_VIEWS = 8  # below, mapping without an order finds what there is to find
_CYCLE = np.radians(3.0)  # from the average of all rotations, beyond which a pair does not count
_CLOSE = 0.5  # of the largest reprojection error: a match has to lie as close to its pair's pose
_SPAN = 10  # places in order within which the chain does not bend enough to matter
_LEAST_DEPTHS = 8  # points of the chain that tell how far apart a pair stands
_OFF = 0.35  # of the way along the chain, by which a pair may say otherwise
_ROUNDS = 3  # of triangulation and adjustment at the end
_CALIBRATED = 2  # of pycolmap.TwoViewGeometryConfiguration


def in_order(
    matches: Matches, held_out: Tracks, lenses: Lenses, starts: Sequence[np.ndarray], config: RefineConfig
) -> Hypothesis | None:
    """Cameras of pictures in the order of a walk; None where some neighbours do not match.

    `starts`: rotations (S, 3, 3) that the average of all rotations may start from, beside its own. Nothing is adjusted
    to the tracks `held_out`.
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
    """The pairs whose rotation fits the average of all, each with the pose that does and the matches close to it."""
    choices = pose_choices(matches, lenses, config)
    turns = {pair: each.poses[:, :, :3] for pair, each in choices.items()}
    votes = {pair: each.votes for pair, each in choices.items()}
    averages = [average_choices(len(matches.keypoints), turns, votes, start) for start in (None, *starts)]
    averaged, chosen = min(averages, key=lambda each: each[0].cost)
    poses = {pair: choices[pair].poses[chosen[pair]] for pair, angle in averaged.residuals.items() if angle <= _CYCLE}
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
    """The pairs, neighbours aside, that stand as the chain says; far apart in order, where it may have bent: those that
    it can measure at both ends."""
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
    """How far each keypoint's point is from its camera, NaN where the chain has none."""
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
    """The distance of two cameras in the chain's scale, from what both know of the points; None if one of them knows
    too few."""
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
