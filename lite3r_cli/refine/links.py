"""How firmly the pictures of a model are connected, and whether a part of them could have another pose.

Pictures that share points are connected; the strength between two sets is the number of points that both see. The
minimum cut (Stoer & Wagner, J. ACM 1997) is the weakest connection of the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .matching import Pair

_PARTS = 8  # maximum number of cuts, each in what the previous one leaves


@dataclass(frozen=True)
class Cut:
    """A part of the pictures and its connection to all others."""

    part: tuple[int, ...]  # views, the smaller side
    strength: float  # points that views of both sides see
    against: float = 0.0  # matches between both sides that contradict the pose of the part


def shared_points(image: np.ndarray, point: np.ndarray, views: int) -> np.ndarray:
    """Points that each two of `views` pictures see (S, S), 0 on the diagonal; observations by `image` and `point`."""
    shared = np.zeros((views, views))
    if not len(image):
        return shared
    order = np.argsort(point, kind="stable")
    image, point = image[order], point[order]
    bounds = np.flatnonzero(np.diff(point, prepend=point[0] - 1, append=point[-1] + 1))
    for start, end in pairwise(bounds):
        who = image[start:end]
        shared[np.ix_(who, who)] += 1
    np.fill_diagonal(shared, 0)
    return shared


def crossing_points(image: np.ndarray, point: np.ndarray, part: Sequence[int]) -> int:
    """Points that at least one view of `part` and one other view see."""
    inside = np.isin(image, list(part))
    count = int(point.max(initial=-1)) + 1
    within, outside = (np.bincount(point[mask], minlength=count) > 0 for mask in (inside, ~inside))
    return int((within & outside).sum())


def minimum_cut(weight: np.ndarray) -> tuple[float, list[int]]:
    """The smallest total weight that separates the nodes of a graph (N, N), N > 1, and the smaller side."""
    weight = weight.astype(np.float64).copy()
    members = [[i] for i in range(len(weight))]
    alive = list(range(len(weight)))
    best, side = np.inf, [0]
    while len(alive) > 1:
        tie = np.zeros(len(weight))
        added = np.zeros(len(weight), bool)
        order = []
        for _ in alive:
            free = [i for i in alive if not added[i]]
            last = free[int(np.argmax(tie[free]))]
            order.append(last)
            added[last] = True
            tie += weight[last]
        last, before = order[-1], order[-2]
        phase = float(weight[last, [i for i in alive if i != last]].sum())
        if phase < best:
            best, side = phase, list(members[last])
        weight[before] += weight[last]
        weight[:, before] += weight[:, last]
        weight[before, before] = 0
        members[before] += members[last]
        alive.remove(last)
    if 2 * len(side) > len(weight):
        side = [i for i in range(len(weight)) if i not in side]
    return best, sorted(side)


def largest_part(chosen: Sequence[int], image: np.ndarray, point: np.ndarray, least: int) -> list[int]:
    """The largest part of the views `chosen` in which every cut is crossed by at least `least` points: between parts
    with fewer, matches do not determine a pose. Of equal parts the one with most observations.
    """
    shared = shared_points(image, point, max(chosen, default=-1) + 1)
    parts, waiting = [], [sorted(chosen)]
    while waiting:
        part = waiting.pop()
        if len(part) > 1:
            inside = np.isin(image, part)
            side = [part[k] for k in minimum_cut(shared[np.ix_(part, part)])[1]]
            if crossing_points(image[inside], point[inside], side) < least:
                waiting += [side, [i for i in part if i not in side]]
                continue
        parts.append(part)
    return max(parts, key=lambda part: (len(part), int(np.isin(image, part).sum()), -part[0]), default=[])


def closest_two(image: np.ndarray, point: np.ndarray) -> list[int]:
    """The two views that share most points; observations by `image` and `point`."""
    shared = shared_points(image, point, int(image.max()) + 1)
    return [int(i) for i in np.unravel_index(int(shared.argmax()), shared.shape)]


def weakest_cuts(
    chosen: Sequence[int], image: np.ndarray, point: np.ndarray, contradictions: Mapping[Pair, int]
) -> list[Cut]:
    """Cuts through the views `chosen`: the weakest, then the weakest of the rest, and so on. The strength is the
    connection to all other views.

    `contradictions`: matches of pairs that the cameras do not explain.
    """
    left = sorted(chosen)
    views = max(chosen, default=-1) + 1
    inside = np.isin(image, left)
    shared = shared_points(image[inside], point[inside], views)
    cuts: list[Cut] = []
    while len(left) > 1 and len(cuts) < _PARTS:
        _, side = minimum_cut(shared[np.ix_(left, left)])
        part = tuple(left[k] for k in side)
        others = [i for i in left if i not in part]
        strength = crossing_points(image[inside], point[inside], part)
        against = sum(n for (i, j), n in contradictions.items() if (i in part) != (j in part))
        cuts.append(Cut(part, strength, against))
        left = others
    return cuts
