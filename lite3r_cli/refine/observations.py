"""Tracks: keypoints of several pictures that match each other, and their points from the network's depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..scene import geometry
from ..scene.posed_view import View
from .lens import Lenses
from .matching import Matches, Pair

HELD_OUT = 5  # every n-th track is held out from the adjustment for evaluation
_ENOUGH = 60  # tracks per picture from which some can be held out


@dataclass(frozen=True)
class Tracks:
    """O observations of T tracks, sorted by track, then by picture."""

    track: np.ndarray  # (O,) int64
    image: np.ndarray  # (O,) int64
    keypoint: np.ndarray  # (O,) int64

    @property
    def count(self) -> int:
        return int(self.track[-1]) + 1 if len(self.track) else 0

    def chosen(self, wanted: np.ndarray) -> Tracks:
        """The tracks for which `wanted` (T,) is true, renumbered."""
        keep = wanted[self.track]
        number = np.cumsum(wanted) - 1
        return Tracks(number[self.track[keep]], self.image[keep], self.keypoint[keep])

    def pixels(self, matches: Matches) -> np.ndarray:
        """Positions of the observations (O, 2), in the pictures at the size of their features."""
        found = np.zeros((len(self.track), 2))
        for i, points in enumerate(matches.keypoints):
            mine = self.image == i
            found[mine] = points[self.keypoint[mine]]
        return found


def split(tracks: Tracks, views: int) -> tuple[Tracks, Tracks]:
    """Tracks for the adjustment, and held-out tracks; all tracks in both if there are few."""
    if tracks.count < _ENOUGH * views:
        return tracks, tracks
    out = np.arange(tracks.count) % HELD_OUT == HELD_OUT - 1
    return tracks.chosen(~out), tracks.chosen(out)


def longest_of_each(tracks: Tracks, count: int) -> np.ndarray:
    """For each track (T,) bool whether it is among the `count` longest of one of its pictures."""
    length = np.bincount(tracks.track, minlength=tracks.count)[tracks.track]
    wanted = np.zeros(tracks.count, bool)
    for i in range(int(tracks.image.max(initial=-1)) + 1):
        mine = np.flatnonzero(tracks.image == i)
        wanted[tracks.track[mine[np.argsort(-length[mine], kind="stable")[:count]]]] = True
    return wanted


def without(matches: Matches, pairs: Mapping[Pair, np.ndarray], held_out: Tracks) -> dict[Pair, np.ndarray]:
    """The matches of `pairs` that are not part of the held-out tracks."""
    spared = [np.zeros(len(points), bool) for points in matches.keypoints]
    for i, used in enumerate(spared):
        used[held_out.keypoint[held_out.image == i]] = True
    return {(i, j): rows[~spared[i][rows[:, 0]]] for (i, j), rows in pairs.items()}


def join(counts: Sequence[int], pairs: Mapping[Pair, np.ndarray]) -> Tracks:
    """Join matches (M, 2) of `pairs` into tracks; picture i has counts[i] keypoints.

    A track with two keypoints in one picture is dropped as a whole: at least one of its matches is wrong.
    """
    offset = np.concatenate([[0], np.cumsum(counts)])
    edges = [np.stack([rows[:, 0] + offset[i], rows[:, 1] + offset[j]]) for (i, j), rows in pairs.items()]
    if not edges:
        return Tracks(*(np.zeros(0, np.int64) for _ in range(3)))
    a, b = np.concatenate(edges, axis=1)
    root = _components(a, b, int(offset[-1]))
    members = np.unique(np.concatenate([a, b]))
    members = members[np.argsort(root[members], kind="stable")]
    track = np.unique(root[members], return_inverse=True)[1]
    image = np.searchsorted(offset, members, side="right") - 1
    seen = np.unique(np.stack([track, image]), axis=1)[0]
    clean = np.bincount(seen) == np.bincount(track)
    keep = clean[track]
    number = np.cumsum(clean) - 1
    return Tracks(number[track[keep]], image[keep], (members - offset[image])[keep])


def _components(a: np.ndarray, b: np.ndarray, count: int) -> np.ndarray:
    """The smallest member of each node's component: labels spread along the edges until nothing changes."""
    label = np.arange(count)
    while True:
        low = np.minimum(label[a], label[b])
        before = label.copy()
        np.minimum.at(label, a, low)
        np.minimum.at(label, b, low)
        label = label[label]
        if np.array_equal(before, label):
            return label


def sample_depth(view: View, keypoints: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The view's depth (N,) at keypoints (N, 2) of its image at `size`; 0 where unknown."""
    assert view.depth is not None  # a prediction has depth
    height, width = view.depth.shape
    column, row = (keypoints * np.array([width / size[0], height / size[1]])).astype(np.int64).T
    return view.depth[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]


def start_points(
    views: Sequence[View], matches: Matches, tracks: Tracks, lenses: Lenses
) -> tuple[np.ndarray, np.ndarray]:
    """World points (T, 3) of the tracks from the predicted depth maps, and which are known (T,) bool.

    For a fisheye, depth is measured along the rays: the network, which treats it as a pinhole, has no better one. The
    mean over the observations of a track needs no parallax, and tolerates pose errors of degrees.
    """
    total, known = np.zeros((tracks.count, 3)), np.zeros(tracks.count)
    for i, view in enumerate(views):
        mine = np.flatnonzero(tracks.image == i)
        pixels = matches.keypoints[i][tracks.keypoint[mine]]
        depth = sample_depth(view, pixels, matches.sizes[i])
        K = geometry.scale_intrinsics(view.K, matches.sizes[i][0] / view.width, matches.sizes[i][1] / view.height)
        points = geometry.unproject_pixels(pixels, depth, K, view.cam_from_world)[depth > 0]
        lens = lenses.lenses[lenses.of_view[i]]
        if "FISHEYE" in lens.model:
            along = lens.of_picture(*lens.size).rays(pixels) * depth[:, None]
            points = geometry.transform(geometry.invert_pose(view.cam_from_world), along)[depth > 0]
        np.add.at(total, tracks.track[mine[depth > 0]], points)
        np.add.at(known, tracks.track[mine[depth > 0]], 1)
    return total / np.maximum(known, 1)[:, None], known > 0
