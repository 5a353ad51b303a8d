"""Groups pictures by scene: unrelated pictures are left out, and a folder of several scenes is split into parts.

Four tests connect pictures, each only for pairs that the previous ones left open: corners at the network's size;
features; more features of larger pictures; and, with one prediction of all pictures, whether two views look alike where
the network predicts the same surface. Pictures without a connection are split off only if their colours also differ,
because half of a scene is worse than one unrelated picture. But many pictures that match each other and none of the
others are a scene of their own, whatever their colours.
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
from ..world.colours import colour_signature, colours_apart, colours_differ
from ..world.photometric import looks_alike, photometric_pairs, voter_of
from ..world.ties import TIED, Groups, Keypoints, evidence, find_corners, find_keypoints, near_first

# Pictures that match each other from which they are a scene of their own. Ten pictures of a kitchen fall into six and
# four; scenes cut to every second or third picture into five, two and one.
_OWN_SCENE = 6
_SIDE = 518  # size of the pictures in the first tests
_CORNERS = 500
_COARSE = 1000  # features of these pictures
_FINE = (1024, 3000)  # size and number of features of larger pictures
_CORNER_PAIRS, _COARSE_PAIRS = 6, 20  # tested pairs per picture, which limits the work for large sets
_ALL_COMPARED = 2 * _COARSE_PAIRS + 1  # pictures up to which that is every pair
_FINE_EACH = 16  # pictures that each one of a smaller group is matched with
_LOOK_NEIGHBOURS = 6


@dataclass(frozen=True)
class Grouping:
    """Groups of pictures by their positions."""

    parts: list[list[int]]  # each a scene, the largest first
    left_out: list[int]  # without a connection to another picture
    judged: bool = True  # False: no two pictures match, which tells nothing about single ones
    untied: list[int] = field(default_factory=list)  # kept in the first part because they look like it, without a match

    @property
    def whole(self) -> bool:
        """Whether all pictures show one scene, as far as known."""
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
    """The connections from the pictures alone, without a network.

    `read_large(i)` returns picture i at full size; it is not called if the first tests suffice. `together`: groups of
    pictures that are known to belong together.
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
    """The grouping from the connected `groups`. `predict()` returns the views of all pictures from one prediction; it
    is not called if all are connected.
    """
    if len(groups.members()) == 1:
        return one_group(len(pictures))
    _by_prediction(groups, pictures, predict())
    return settle_groups(groups.members(), [colour_signature(rgb) for rgb in pictures])


def settle_groups(members: list[list[int]], signatures: Sequence[np.ndarray]) -> Grouping:
    """Groups of two or more are scenes; a single picture is left out if there is a scene. Of the `members`, the largest
    group first, small groups whose colours (`signatures`) do not differ from a larger one join the most similar one.
    """
    if all(len(group) == 1 for group in members):
        return one_group(len(members), judged=False)
    if len(members) == 1:
        return Grouping(members, [])
    largest = _OWN_SCENE - 1 if len(signatures) <= _ALL_COMPARED else len(signatures)  # group that joins another
    settled: list[list[int]] = []
    untied: list[int] = []
    for group in members:
        mine = [signatures[i] for i in group]
        scenes = [(g, [signatures[i] for i in g]) for g in settled if len(g) > 1 and len(group) <= largest]
        like = [(colours_apart(theirs, mine), g) for g, theirs in scenes if not colours_differ(theirs, mine)]
        if like:
            untied += group
            min(like, key=lambda each: each[0])[1].extend(group)
        else:
            settled.append(group)
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
    """Test pairs of different groups, those of single pictures first, because few features fail on them."""
    found: Callable[[int], Keypoints] = cache(lambda i: find_keypoints(read_large(i), *_FINE))
    size = {i: len(group) for group in groups.members() for i in group}
    asked = [0] * count
    pairs = []
    for pair in near_first(count, count * count):
        smaller = min(pair, key=lambda i: size[i])
        if groups.of(pair[0]) != groups.of(pair[1]) and asked[smaller] < _FINE_EACH:
            asked[smaller] += 1
            pairs.append(pair)
    pairs.sort(key=lambda pair: min(size[i] for i in pair))  # stable: keeps the order of neighbours
    groups.tie(pairs, lambda i, j: evidence(found(i), found(j)) < TIED)


def _by_prediction(groups: Groups, pictures: Sequence[np.ndarray], views: Sequence[View]) -> None:
    neighbours = best_neighbours([voter_of(view) for view in views], _LOOK_NEIGHBOURS)
    greys = [cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY) for rgb in pictures]

    def alike(i: int, j: int) -> bool:
        return any(looks_alike(views[a], greys[a], views[b], greys[b]) for a, b in ((i, j), (j, i)))

    groups.tie(photometric_pairs(neighbours), alike)


def explain(grouping: Grouping, names: Sequence[str]) -> list[str]:
    """The messages for the user; empty if all pictures belong together."""
    if not grouping.judged and len(names) > 1:
        return ["no two images have matching features: the result may be meaningless; take images that overlap"]
    said = []
    if grouping.left_out:
        some = _some([names[i] for i in grouping.left_out])
        said.append(f"left out, no match with another image: {some} (--keep-unrelated keeps all)")
    if len(grouping.parts) > 1:
        sizes = ", ".join(str(len(part)) for part in grouping.parts)
        others = ", ".join(f"part-{k}" for k in range(2, len(grouping.parts) + 1))
        said.append(
            f"the images show {len(grouping.parts)} scenes without a connection, of {sizes} images: the others "
            f"are in {others} of the output's folder (--keep-unrelated makes one scene of all)"
        )
    if grouping.untied:
        some = _some([names[i] for i in grouping.untied])
        said.append(
            f"no match connects {some} to the other images; kept, because their colours are alike: remove those that "
            "show another scene"
        )
    return said


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
