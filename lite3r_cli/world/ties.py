"""Tests whether two pictures show the same thing: by feature matches on one epipolar geometry, with a bound on chance.

The evidence is the number of false alarms of an a-contrario test (Moisan and Stival, IJCV 2004): the expected number of
equally good sets if matches were random. For unrelated scenes its logarithm stays above −2; for overlapping pictures it
is −10 to −1000. It needs no network, no camera and no threshold on counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import hypot, lgamma, log, log10

import cv2
import numpy as np

from ..io.view_memory import Features

TIED = -4.0  # decimal logarithm of the number of false alarms below which two pictures are connected
_RATIO = 0.8  # of distances to the best and the second best match (Lowe, IJCV 2004)
_PIXELS = 1.5  # distance from the epipolar line
_SAMPLE = 7  # matches that determine an epipolar geometry
_LEAST_AREA = 0.003  # of the picture, which the matches must span: a logo or a date is no scene
_STILL = 1.5  # pixels of median motion below which matches may be an overlay
_ALIKE = 0.3  # correlation of the whole pictures from which a pair without motion shows the same view


@dataclass(frozen=True)
class Keypoints:
    """Features of one picture at the size (height, width) at which they were extracted."""

    points: np.ndarray  # (N, 2) float32
    descriptors: np.ndarray  # (N, C) float32, unit vectors
    size: tuple[int, int]
    thumbnail: np.ndarray  # (16, 16) float32, zero mean and unit norm


def find_keypoints(rgb: np.ndarray, side: int, count: int) -> Keypoints:
    """At most `count` SIFT features of a picture (H, W, 3) uint8, no larger than `side` pixels."""
    return keypoints_of(find_features(rgb, side, count))


def find_features(rgb: np.ndarray, side: int, count: int) -> Features:
    """The same in compact form: one byte per number."""
    grey = _grey(rgb, side)
    # half the usual contrast threshold: dark rooms and plain walls have few features
    found, descriptors = cv2.SIFT.create(count, contrastThreshold=0.02).detectAndCompute(grey, None)
    if descriptors is None:
        descriptors = np.zeros((0, 128), np.float32)
    return Features(_points(found), descriptors.astype(np.uint8), (grey.shape[0], grey.shape[1]), _thumbnail(grey))


def keypoints_of(found: Features) -> Keypoints:
    """Features in the form for comparisons."""
    descriptors = found.descriptors.astype(np.float32)
    # the square root turns Euclidean distance into Hellinger's (Arandjelović and Zisserman, CVPR 2012)
    descriptors = np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-9)).astype(np.float32)
    return Keypoints(found.points, descriptors, found.size, found.thumbnail)


def find_corners(rgb: np.ndarray, side: int, count: int) -> Keypoints:
    """At most `count` ORB features, ten times faster than SIFT; they match if the views differ little."""
    grey = _grey(rgb, side)
    found, bits = cv2.ORB.create(count, fastThreshold=7).detectAndCompute(grey, None)
    if bits is None:
        return _keypoints(grey, found, np.zeros((0, 256), np.float32))
    # bits as ±1/16 are unit vectors whose squared distance is the number of differing bits divided by 64
    return _keypoints(grey, found, np.unpackbits(np.asarray(bits, np.uint8), axis=1).astype(np.float32) / 8 - 1 / 16)


def _grey(rgb: np.ndarray, side: int) -> np.ndarray:
    grey = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY)
    scale = side / max(grey.shape)
    return cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else grey


def _keypoints(grey: np.ndarray, found: Sequence[cv2.KeyPoint], descriptors: np.ndarray) -> Keypoints:
    return Keypoints(_points(found), descriptors, (grey.shape[0], grey.shape[1]), _thumbnail(grey))


def _points(found: Sequence[cv2.KeyPoint]) -> np.ndarray:
    return np.array([keypoint.pt for keypoint in found], np.float32).reshape(-1, 2)


def _thumbnail(grey: np.ndarray) -> np.ndarray:
    thumbnail = cv2.resize(grey, (16, 16), interpolation=cv2.INTER_AREA).astype(np.float32)
    thumbnail -= thumbnail.mean()
    return thumbnail / max(float(np.linalg.norm(thumbnail)), 1e-6)


@dataclass(frozen=True)
class Agreement:
    """Matches of two pictures on their best epipolar geometry."""

    first: np.ndarray  # (K, 2) as shares of the first picture's width and height
    second: np.ndarray  # (K, 2) of the second one's
    evidence: float  # decimal logarithm of the number of false alarms; inf if there is no geometry


_NONE = Agreement(np.zeros((0, 2)), np.zeros((0, 2)), np.inf)


def evidence(a: Keypoints, b: Keypoints) -> float:
    """The decimal logarithm of the number of false alarms of the best epipolar geometry; inf if there is none."""
    return agreement(a, b).evidence


def agreement(a: Keypoints, b: Keypoints) -> Agreement:
    """The matches that agree with the best epipolar geometry, and their evidence."""
    first, second = _matches(a.descriptors, b.descriptors)
    if len(first) <= _SAMPLE:
        return _NONE
    p, q = a.points[first], b.points[second]
    try:
        _, mask = cv2.findFundamentalMat(p, q, cv2.USAC_MAGSAC, _PIXELS, 0.999, 2000)
    except cv2.error:  # a degenerate sample; OpenCV raises no other type for it
        return _NONE
    inside = np.zeros(len(p), bool) if mask is None else mask.ravel().astype(bool)
    if inside.sum() <= _SAMPLE or _is_overlay(a, b, p[inside], q[inside]):
        return _NONE
    height, width = b.size
    chance = min(2 * _PIXELS * hypot(height, width) / (height * width), 0.5)
    # OpenCV's pixel centres are integers
    shares, others = ((points[inside] + 0.5) / np.array(k.size[::-1], float) for points, k in ((p, a), (q, b)))
    return Agreement(shares, others, false_alarms(len(p), int(inside.sum()), chance))


def false_alarms(matches: int, inside: int, chance: float) -> float:
    """log10 of (n − 7) · C(n, k) · C(k, 7) · chance^(k − 7): n matches, k of them near their epipolar lines."""
    return (
        log10(max(matches - _SAMPLE, 1))
        + _log_binomial(matches, inside)
        + _log_binomial(inside, _SAMPLE)
        + (inside - _SAMPLE) * log10(chance)
    )


def _log_binomial(n: int, k: int) -> float:
    return (lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)) / log(10)


def _matches(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mutual nearest neighbours of unit descriptors (N, C), (M, C) that pass the ratio test: two index arrays."""
    if len(a) < 2 or len(b) < 2:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    similarity = a @ b.T
    forward, distinct = _best(similarity)
    mine = np.arange(len(a))
    chosen = distinct & (similarity.argmax(axis=0)[forward] == mine)
    return mine[chosen], forward[chosen]


def _best(similarity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best column of each row, and whether it passes the ratio test."""
    best = similarity.argmax(axis=1)
    rows = np.arange(len(similarity))
    value = similarity[rows, best]
    second = np.partition(similarity, -2, axis=1)[:, -2]
    return best, np.maximum(2 - 2 * value, 0) < _RATIO**2 * np.maximum(2 - 2 * second, 0)


def _is_overlay(a: Keypoints, b: Keypoints, p: np.ndarray, q: np.ndarray) -> bool:
    """Whether matches are an overlay (a logo, a date, a frame): on a small patch, or without motion while the rest
    differs.
    """
    if np.median(np.linalg.norm(p - q, axis=1)) < _STILL and a.size == b.size:
        return float((a.thumbnail * b.thumbnail).sum()) < _ALIKE
    areas = (cv2.contourArea(cv2.convexHull(points)) / (k.size[0] * k.size[1]) for points, k in ((p, a), (q, b)))
    return min(areas) < _LEAST_AREA


class Groups:
    """Connected components of N pictures; connections join groups."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def of(self, i: int) -> int:
        """The smallest member of the group of i."""
        while self._parent[i] != i:
            i = self._parent[i]
        return i

    def join(self, i: int, j: int) -> None:
        low, high = sorted((self.of(i), self.of(j)))
        self._parent[high] = low

    def members(self) -> list[list[int]]:
        """The groups, the largest first, each in order."""
        found: dict[int, list[int]] = {}
        for i in range(len(self._parent)):
            found.setdefault(self.of(i), []).append(i)
        return sorted(found.values(), key=lambda group: (-len(group), group[0]))

    def tie(self, pairs: Iterable[tuple[int, int]], tied: Callable[[int, int], bool]) -> None:
        """Test pairs of pictures in different groups with `tied`, and join their groups, until all are connected."""
        left = len(self.members()) - 1
        for i, j in pairs:
            if left == 0:
                return
            if self.of(i) != self.of(j) and tied(i, j):
                self.join(i, j)
                left -= 1


def near_first(count: int, limit: int) -> Iterable[tuple[int, int]]:
    """Pairs i < j of `count` pictures, neighbours in order first, at most `limit` of them."""
    asked = 0
    for apart in range(1, count):
        for i in range(count - apart):
            if asked == limit:
                return
            asked += 1
            yield i, i + apart
