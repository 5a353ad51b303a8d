"""Which pictures belong together: a foreign one is left out, a folder of several scenes falls into parts.

Four kinds of evidence tie pictures, each asked only about what the one before left open: corners of the pictures as the
network sees them; features; more features of larger pictures; and, under one prediction of all pictures, whether two
views look alike where the network says that they show the same surface. What nothing ties is split off only where its
colours differ, too: half of a scene is worse than a foreign picture in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache

import cv2
import numpy as np

from ..cores import count_cores
from ..scene.consistency import best_neighbours
from ..scene.posed_view import View
from ..world.colours import colour_signature, colours_differ
from ..world.photometric import looks_alike, photometric_pairs, voter_of
from ..world.ties import TIED, Groups, Keypoints, evidence, find_corners, find_keypoints, near_first

_SIDE = 518  # pixels of the pictures at first
_CORNERS = 500
_COARSE = 1000  # features of these pictures
_FINE = (1024, 3000)  # side and features of larger ones
_CORNER_PAIRS, _COARSE_PAIRS = 6, 20  # pairs asked, per picture, beyond which a large set is not looked through
_FINE_EACH = 16  # pictures that each one of a smaller group is compared with
_LOOK_NEIGHBOURS = 6


@dataclass(frozen=True)
class Grouping:
    """The pictures' positions in the order that they were read."""

    parts: list[list[int]]  # each a scene, the largest first
    left_out: list[int]  # tied to no other picture
    judged: bool = True  # False: no two pictures are tied, which says nothing about one of them
    untied: list[int] = field(default_factory=list)  # kept in the first part, since they look like it, and by no tie

    @property
    def whole(self) -> bool:
        """All pictures show one scene, as far as can be told."""
        return len(self.parts) == 1 and not self.left_out


def one_group(count: int, judged: bool = True) -> Grouping:
    return Grouping([list(range(count))], [], judged)


def group_pictures(
    pictures: Sequence[np.ndarray],
    read_large: Callable[[int], np.ndarray],
    predict: Callable[[], Sequence[View]],
    together: Sequence[Sequence[int]] = (),
) -> Grouping:
    """Group pictures (h, w, 3) uint8 at the network's size: `tie_pictures`, then `settle`."""
    return settle(tie_pictures(pictures, read_large, together), pictures, predict)


def tie_pictures(
    pictures: Sequence[np.ndarray],
    read_large: Callable[[int], np.ndarray],
    together: Sequence[Sequence[int]] = (),
) -> Groups:
    """What the pictures themselves tie; no network is needed.

    `read_large(i)` gives picture i at its full size; it is not called where the first evidence suffices. `together`:
    pictures known to belong together, in groups.
    """
    count = len(pictures)
    groups = Groups(count)
    for members in together:
        for i in members:
            groups.join(members[0], i)
    if len(groups.members()) > 1:
        _by_corners(groups, pictures)
    if len(groups.members()) > 1:
        _by_features(groups, pictures)
    if len(groups.members()) > 1:
        _by_large_features(groups, read_large, count)
    return groups


def settle(groups: Groups, pictures: Sequence[np.ndarray], predict: Callable[[], Sequence[View]]) -> Grouping:
    """The grouping of pictures that are tied as in `groups`. `predict()` gives the views of all pictures under one
    prediction; it is not called where all are tied.
    """
    if len(groups.members()) == 1:
        return one_group(len(pictures))
    _by_prediction(groups, pictures, predict())
    return settle_groups(groups.members(), [colour_signature(rgb) for rgb in pictures])


def settle_groups(members: list[list[int]], signatures: Sequence[np.ndarray]) -> Grouping:
    """Groups of two or more are scenes; a picture alone is left out where there is a scene that it could belong to.
    What does not look different from a larger group stays with it; `signatures` are the pictures' colours.
    """
    if all(len(group) == 1 for group in members):
        return one_group(len(members), judged=False)
    if len(members) == 1:
        return Grouping(members, [])
    settled: list[list[int]] = []
    untied: list[int] = []
    for group in members:
        mine = [signatures[i] for i in group]
        scenes = (g for g in settled if len(g) > 1)
        like = next((g for g in scenes if not colours_differ([signatures[i] for i in g], mine)), None)
        if like is None:
            settled.append(group)
        else:
            untied += group
            like += group
    parts = [sorted(group) for group in settled if len(group) > 1]
    parts.sort(key=lambda group: (-len(group), group[0]))
    return Grouping(parts, [group[0] for group in settled if len(group) == 1], untied=sorted(untied))


def _by_corners(groups: Groups, pictures: Sequence[np.ndarray]) -> None:
    with ThreadPoolExecutor(min(4, count_cores())) as pool:
        found = list(pool.map(lambda rgb: find_corners(rgb, _SIDE, _CORNERS), pictures))
    pairs = near_first(len(pictures), _CORNER_PAIRS * len(pictures))
    groups.tie(pairs, lambda i, j: evidence(found[i], found[j]) < TIED)


def _by_features(groups: Groups, pictures: Sequence[np.ndarray]) -> None:
    found: Callable[[int], Keypoints] = cache(lambda i: find_keypoints(pictures[i], _SIDE, _COARSE))
    pairs = near_first(len(pictures), _COARSE_PAIRS * len(pictures))
    groups.tie(pairs, lambda i, j: evidence(found(i), found(j)) < TIED)


def _by_large_features(groups: Groups, read_large: Callable[[int], np.ndarray], count: int) -> None:
    """Only between groups, those of single pictures first: they are the ones that few features failed."""
    found: Callable[[int], Keypoints] = cache(lambda i: find_keypoints(read_large(i), *_FINE))
    size = {i: len(group) for group in groups.members() for i in group}
    asked = [0] * count
    pairs = []
    for pair in near_first(count, count * count):
        smaller = min(pair, key=lambda i: size[i])
        if groups.of(pair[0]) != groups.of(pair[1]) and asked[smaller] < _FINE_EACH:
            asked[smaller] += 1
            pairs.append(pair)
    pairs.sort(key=lambda pair: min(size[i] for i in pair))  # stable: neighbours in order stay first
    groups.tie(pairs, lambda i, j: evidence(found(i), found(j)) < TIED)


def _by_prediction(groups: Groups, pictures: Sequence[np.ndarray], views: Sequence[View]) -> None:
    neighbours = best_neighbours([voter_of(view) for view in views], _LOOK_NEIGHBOURS)
    greys = [cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY) for rgb in pictures]

    def alike(i: int, j: int) -> bool:
        return any(looks_alike(views[a], greys[a], views[b], greys[b]) for a, b in ((i, j), (j, i)))

    groups.tie(photometric_pairs(neighbours), alike)


def explain(grouping: Grouping, names: Sequence[str]) -> list[str]:
    """What to tell the user; empty where nothing is odd."""
    if not grouping.judged and len(names) > 1:
        return ["no two pictures show anything in common that can be recognised: the result may mean nothing"]
    said = []
    if grouping.left_out:
        some = _some([names[i] for i in grouping.left_out])
        said.append(f"left out, showing nothing that another picture shows: {some} (--keep-unrelated keeps all)")
    if len(grouping.parts) > 1:
        sizes = ", ".join(str(len(part)) for part in grouping.parts)
        others = ", ".join(f"part-{k}" for k in range(2, len(grouping.parts) + 1))
        said.append(
            f"the pictures show {len(grouping.parts)} scenes that nothing ties together, of {sizes} pictures: the "
            f"others are in {others} of the output's folder (--keep-unrelated makes one of all)"
        )
    if grouping.untied:
        some = _some([names[i] for i in grouping.untied])
        said.append(
            f"nothing was found that ties {some} to the other images; kept, since their colours are alike: take out "
            "what shows something else"
        )
    return said


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
