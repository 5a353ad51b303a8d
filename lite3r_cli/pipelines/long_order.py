"""Unordered large sets: features of all photographs, unrelated ones left out, division into subsets."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np

from ..config import InputConfig
from ..console import Progress, Tell
from ..cores import count_cores
from ..errors import InputError
from ..io.images import ImageRecord, ImageSet, Skipped
from ..io.regular import reason_of
from ..io.view_memory import Features
from ..long.loop_search import likeness_of
from ..long.photo_order import Subsets, nearness, pairs_to_ask, plan_subsets, strength
from ..world.colours import colour_signature
from ..world.ties import TIED, Groups, Keypoints, evidence, find_features, find_keypoints, keypoints_of
from .grouping import Grouping, explain, settle_groups

_SIDE, _COUNT = 518, 500  # size of the pictures, and features per picture
_FINE = (1024, 3000)  # the same for pictures without a match
_FINE_ASKED = 8  # pictures that such a picture is matched with
_HELD, _FINE_HELD = 512, 64  # pictures whose features are in memory as floats
_LIKELY = 0.5  # weight of a connection without feature matches: equal colours, or an option of the user

Pair = tuple[int, int]


@dataclass(frozen=True)
class _Look:
    """What is kept of a picture."""

    features: Features
    signature: np.ndarray


@dataclass(frozen=True)
class Arranged:
    """The set in the order of its plan: unrelated pictures come last, unreadable ones are removed."""

    images: ImageSet
    subsets: Subsets
    grouping: Grouping  # of positions in `images`
    rank: list[int]  # of each position: its rank among the files


def arrange(
    config: InputConfig, images: ImageSet, size: int, reason: str, progress: Progress, tell: Tell
) -> Arranged | None:
    """Subsets of at most `size` connected pictures; None if no two pictures match.

    Raises InputError if some are unreadable or unrelated, with `--strict`.
    """
    with progress.stage("Compare images", total=2 * len(images)) as step:
        looks, damaged = _look(images, config.strict, step)
        usable = sorted(looks)
        keypoints: Callable[[int], Keypoints] = lambda k: keypoints_of(looks[usable[k]].features)  # noqa: E731
        likeness = likeness_of([looks[i].features for i in usable])
        ties = _ties(len(usable), keypoints, likeness, step)
        if not ties:
            return None
        groups = _grouped(len(usable), ties)
        _tie_by_large_features(groups, ties, likeness, lambda k: images.read(usable[k]))
    grouping = settle_groups(groups.members(), [looks[i].signature for i in usable])
    if config.keep_unrelated:
        grouping = Grouping([list(range(len(usable)))], [])
    _join(grouping, ties, likeness)
    for text in explain(grouping, [images.records[i].name for i in usable]):
        if config.strict and not grouping.whole:
            raise InputError(text)
        tell(text)
    for item in damaged:
        tell(f"skipped {item.name}: {item.reason}")
    subsets = plan_subsets(grouping.parts, nearness(ties), size, reason)
    return _arranged(images, usable, subsets, grouping, damaged)


def _arranged(
    images: ImageSet, usable: list[int], subsets: Subsets, grouping: Grouping, damaged: list[Skipped]
) -> Arranged:
    rank = [usable[k] for k in (*subsets.order, *grouping.left_out)]
    place = {k: position for position, k in enumerate((*subsets.order, *grouping.left_out))}
    moved = replace(
        grouping,
        parts=[[place[k] for k in part] for part in grouping.parts],
        left_out=[place[k] for k in grouping.left_out],
        untied=[place[k] for k in grouping.untied],
    )
    records = [images.records[i] for i in rank]
    return Arranged(replace(images, records=records, skipped=[*images.skipped, *damaged]), subsets, moved, rank)


def _look(images: ImageSet, strict: bool, step: Callable[[], None]) -> tuple[dict[int, _Look], list[Skipped]]:
    """Features and colours of each readable picture."""
    looks, damaged = {}, []
    for i, found in replace(images, spares=[]).read_each(_look_at, least=_least):
        if not isinstance(found, InputError):
            looks[i] = found
        elif strict:
            raise found
        else:
            damaged.append(Skipped(images.records[i].name, reason_of(found)))
        step()
    return looks, damaged


def _least(record: ImageRecord) -> tuple[int, int]:
    scale = min(1.0, _SIDE / max(record.width, record.height))
    return max(1, round(record.height * scale)), max(1, round(record.width * scale))


def _look_at(rgb: np.ndarray, record: ImageRecord) -> _Look:
    height, width = _least(record)
    small = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
    return _Look(find_features(small, _SIDE, _COUNT), colour_signature(small))


def _ties(
    count: int, keypoints: Callable[[int], Keypoints], likeness: np.ndarray, step: Callable[[], None]
) -> dict[Pair, float]:
    """The pairs with feature matches, and their weights."""
    pairs, ties = pairs_to_ask(likeness), {}
    ready = lru_cache(maxsize=_HELD)(keypoints)
    told = 0
    with ThreadPoolExecutor(min(4, count_cores())) as pool:
        answers = pool.map(lambda pair: evidence(ready(pair[0]), ready(pair[1])), pairs)
        for n, (pair, answer) in enumerate(zip(pairs, answers), 1):
            if answer < TIED:
                ties[pair] = strength(answer)
            while told < n * count // len(pairs):
                told += 1
                step()
    return ties


def _grouped(count: int, ties: dict[Pair, float]) -> Groups:
    groups = Groups(count)
    for i, j in ties:
        groups.join(i, j)
    return groups


def _tie_by_large_features(
    groups: Groups, ties: dict[Pair, float], likeness: np.ndarray, read: Callable[[int], np.ndarray]
) -> None:
    """Match the pictures of smaller groups with the most similar ones of other groups again, with more features."""
    found = lru_cache(maxsize=_FINE_HELD)(lambda i: find_keypoints(read(i), *_FINE))
    for members in reversed(groups.members()[1:]):
        for i, j in _likely_pairs(groups, members, likeness):
            pair = (min(i, j), max(i, j))
            told = evidence(found(pair[0]), found(pair[1]))
            if told < TIED:
                ties[pair] = strength(told)
                groups.join(*pair)
                break


def _likely_pairs(groups: Groups, members: Sequence[int], likeness: np.ndarray) -> Iterator[Pair]:
    """Each picture of a group, and the most similar ones of other groups."""
    own = groups.of(members[0])
    for i in members[:_FINE_ASKED]:
        others = (j for j in np.argsort(-likeness[i], kind="stable").tolist() if groups.of(j) != own)
        yield from ((i, j) for j in itertools.islice(others, _FINE_ASKED))


def _join(grouping: Grouping, ties: dict[Pair, float], likeness: np.ndarray) -> None:
    """Connect pictures without a match in a part to the most similar one in it."""
    count = len(likeness)
    for part in grouping.parts:
        inside = set(part)
        groups = _grouped(count, {pair: w for pair, w in ties.items() if inside.issuperset(pair)})
        while len(pieces := [m for m in groups.members() if m[0] in inside]) > 1:
            small = pieces[-1]
            rest = [i for i in part if i not in set(small)]
            among = likeness[np.ix_(small, rest)]
            a, b = np.unravel_index(int(among.argmax()), among.shape)
            i, j = small[a], rest[b]
            ties[min(i, j), max(i, j)] = _LIKELY
            groups.join(i, j)
