"""Lens distortion from straight edges in pictures: the plumb line method (Brown, 1971), with one coefficient for all
pictures.

The coefficient is that of the division model (Fitzgibbon, CVPR 2001), r_straight = r / (1 + λ r²), with r in halves of
the longer side: −0.04 is a lens with k1 = −0.12 and a field of view of 60°, −0.65 a fisheye of 150°. Every edge gives
weak evidence about λ, and curved objects give wrong evidence: a likelihood with heavy tails combines them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from .gravity import Segments, find_edges

_LAMBDAS = np.concatenate([np.arange(-0.9, -0.12, 0.04), np.arange(-0.1, 0.0601, 0.005), np.arange(0.08, 0.21, 0.02)])
_ZERO = int(np.abs(_LAMBDAS).argmin())
_BEYOND = 0.75  # of an edge's length, beyond both ends: detectors split curves into pieces
_STATIONS = 51  # points along an edge
_ACROSS = 0.05  # of that length, search range of the edge to each side
_MOST_ACROSS = 65  # points across the edge
_SHORTEST, _LEAST = 0.06, 0.1  # of the picture's longer side: shortest detected and shortest tracked edge
_EDGES = 50  # per picture, the longest
_LEAST_POINTS = 12  # of an edge
_FITTING = 0.85  # share of the points that must be on one smooth curve
_CLOSE = 0.6  # pixels from that curve
_SAME = 3.0  # pixels from an edge that was already tracked
_NOISE = 0.15  # pixels: standard deviation of a straight edge's height over its chord
_ROUND, _SPREAD = 0.35, 8.0  # share of edges that are curved in the world, and pixels of their height


@dataclass(frozen=True)
class Bending:
    """Evidence of the edges of some pictures about one lens."""

    coefficient: float  # λ for which the edges are straightest
    evidence: float  # log likelihood ratio to a lens without distortion, over all pictures
    shared: float  # the same without the picture that says most: a lens shows in all, a round building in one
    edges: int  # number of measured edges

    @property
    def at_corner(self) -> float:
        """Displacement of a point at the corner of a 3:2 picture, relative to its radius."""
        return self.coefficient * (1 + (2 / 3) ** 2)


def measure_bending(greys: Sequence[np.ndarray], edges: Sequence[Segments | None] = ()) -> Bending:
    """The λ that straightens the edges of pictures (h, w) uint8 through one lens. `edges` are those of the pictures, if
    known.
    """
    scores = np.zeros((1 + len(greys), len(_LAMBDAS)))  # of each picture; the first row is 0, for no pictures at all
    count = 0
    for row, grey, before in zip(scores[1:], greys, edges or [None] * len(greys), strict=True):
        table = _rises(grey, before)
        straight = np.exp(-0.5 * (table / _NOISE) ** 2) / (_NOISE * np.sqrt(2 * np.pi))
        row[:] = np.log((1 - _ROUND) * straight + _ROUND / _SPREAD).sum(axis=0)
        count += len(table)
    best = int(scores.sum(axis=0).argmax())
    each = scores[:, best] - scores[:, _ZERO]
    evidence = float(each.sum())
    return Bending(float(_LAMBDAS[best]), evidence, evidence - float(each.max()), count)


def _rises(grey: np.ndarray, edges: Segments | None) -> np.ndarray:
    """For each long edge of a picture and each λ, the height of the straightened edge over its chord (E, L), in pixels
    of the picture.
    """
    segments, _ = edges or find_edges(grey)
    size = np.array([grey.shape[1], grey.shape[0]], np.float64)
    half = size.max() / 2
    length = np.linalg.norm(segments[:, 2:] - segments[:, :2], axis=1)
    segments = segments[length > _SHORTEST * size.max()][:_EDGES]
    if not len(segments):
        return np.zeros((0, len(_LAMBDAS)))
    curves, usable = _smooth(*_follow(grey, segments))
    usable &= np.linalg.norm(curves[:, -1] - curves[:, 0], axis=1) >= _LEAST * size.max()
    covered, chosen = np.zeros(grey.shape[:2], np.uint8), []
    for k in np.flatnonzero(usable):
        column, row = np.clip((segments[k, :2] + segments[k, 2:]) / 2, 0, size - 1).astype(int)
        if not covered[row, column]:
            cv2.polylines(covered, [np.round(curves[k]).astype(np.int32)], False, 255, int(2 * _SAME))
            chosen.append(k)
    return _rise((curves[chosen] - size / 2) / half) * half


def _follow(grey: np.ndarray, segments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (E, `_STATIONS`, 2) on the strongest step across the edges of segments (E, 4), extended at both ends; and
    which points are on an edge, bool.
    """
    smooth = cv2.GaussianBlur(grey, (0, 0), 1.0).astype(np.float32)
    along = segments[:, 2:] - segments[:, :2]
    length = np.linalg.norm(along, axis=1)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1) / length[:, None]
    reach = np.maximum(3.0, _ACROSS * (1 + 2 * _BEYOND) * length)
    count = min(int(4 * np.ceil(reach.max()) + 1), _MOST_ACROSS)
    offset = np.linspace(-1, 1, count)
    step = offset[1] - offset[0]
    at = np.linspace(-_BEYOND, 1 + _BEYOND, _STATIONS)
    middle = segments[:, None, :2] + at[None, :, None] * along[:, None]  # (E, N, 2)
    place = middle[:, :, None] + (offset * reach[:, None])[:, None, :, None] * across[:, None, None]
    x, y = (np.ascontiguousarray(a.reshape(-1, count)) for a in np.moveaxis(place.astype(np.float32) - 0.5, -1, 0))
    parts = [
        cv2.remap(smooth, x[k : k + 30000], y[k : k + 30000], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for k in range(0, len(x), 30000)
    ]  # cv2 takes 32767 rows
    slope = np.gradient(np.concatenate(parts).reshape(len(segments), _STATIONS, count), axis=2)
    slope /= (step * reach)[:, None, None]
    centre = _STATIONS // 2
    near = np.exp(-((offset * reach[:, None] / 1.5) ** 2))  # (E, D): the detector is right there
    sign = np.sign((slope[:, centre - 3 : centre + 4] * near[:, None]).sum(axis=(1, 2)))
    slope *= np.where(sign == 0, 1, sign)[:, None, None]
    chosen = np.zeros((len(segments), _STATIONS), np.int64)
    chosen[:, centre] = (slope[:, centre] * near).argmax(axis=1)
    for way in (1, -1):  # an edge is one smooth curve: search near the extrapolation of the last two points
        for n in range(centre + way, _STATIONS if way == 1 else -1, way):
            last = offset[chosen[:, n - way]]
            back = offset[chosen[:, n - 4 * way]] if abs(n - centre) > 4 else last
            expected = last + (last - back) / 3
            weight = np.exp(-0.5 * (((offset - expected[:, None]) * reach[:, None]) / 0.8) ** 2)
            chosen[:, n] = (slope[:, n] * weight).argmax(axis=1)
    inside = np.clip(chosen, 1, count - 2)
    low, here, high = (np.take_along_axis(slope, (inside + d)[:, :, None], axis=2)[:, :, 0] for d in (-1, 0, 1))
    bend = np.minimum(low - 2 * here + high, -1e-6)
    distance = (offset[inside] + np.clip(0.5 * (low - high) / bend, -1, 1) * step) * reach[:, None]
    level = np.median(here[:, centre - 9 : centre + 10], axis=1, keepdims=True)  # on the segment itself
    points = middle + distance[..., None] * across[:, None]
    within = (points > 1).all(axis=2) & (points < [grey.shape[1] - 1, grey.shape[0] - 1]).all(axis=2)
    return points, (here > 0.4 * level) & (here > 1.0) & (inside == chosen) & within


def _middle_run(known: np.ndarray) -> np.ndarray:
    """The known points (E, N) bool of each edge around its middle, up to the first gap on each side: two unknown points
    in a row.
    """
    count = known.shape[1]
    centre, at = count // 2, np.arange(count)
    gap = ~known[:, :-1] & ~known[:, 1:]
    first = np.where(gap[:, :centre], at[:centre] + 2, 0).max(axis=1, keepdims=True)
    last = np.where(gap[:, centre:], at[centre:-1], count).min(axis=1, keepdims=True)
    inside: np.ndarray = known & (at >= first) & (at < last)
    return inside


def _smooth(points: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (E, 15, 2) on the curves of fourth degree that fit most of the points (E, N, 2) of each edge around its
    middle; and whether there is such a curve, (E,) bool.
    """
    inside = _middle_run(known)
    every, count = np.arange(len(points)), inside.sum(axis=1)
    ends = points[every, inside.argmax(axis=1)], points[every, inside.shape[1] - 1 - inside[:, ::-1].argmax(axis=1)]
    chord = ends[1] - ends[0]
    length = np.maximum(np.linalg.norm(chord, axis=1), 1e-9)[:, None]
    axis = chord / length
    side = np.stack([-axis[:, 1], axis[:, 0]], axis=1)
    apart = np.where(inside[..., None], points - ends[0][:, None], 0)
    t, d = (apart @ axis[..., None])[..., 0] / length, (apart @ side[..., None])[..., 0]
    basis = _powers(t)  # (E, N, 5)
    weight = inside.astype(np.float64)
    for _ in range(6):
        weighted = (basis * weight[..., None]).swapaxes(1, 2)  # (E, 5, N)
        # a touch on the diagonal: an edge without length has no curve
        normal = weighted @ basis + 1e-12 * np.eye(5)
        solution = np.linalg.solve(normal, weighted @ d[..., None])
        left = np.abs(d - (basis @ solution)[..., 0])
        weight = inside / (1 + (left / _CLOSE) ** 2)
    close = ((left < _CLOSE) & inside).sum(axis=1)
    where = np.linspace(0, 1, 15)
    height = _powers(where) @ solution  # (E, 15, 1)
    curves = ends[0][:, None] + where[:, None] * chord[:, None] + height * side[:, None]
    return curves, (count >= _LEAST_POINTS) & (close >= _FITTING * count)


def _powers(t: np.ndarray) -> np.ndarray:
    """1, x, … x⁴ of x = 2 t − 1, which is from −1 to 1 along an edge: (…, 5)."""
    powers: np.ndarray = (2 * t - 1)[..., None] ** np.arange(5)
    return powers


def _rise(points: np.ndarray) -> np.ndarray:
    """The height of the middle of each curve (E, N, 2) over its chord for each λ, in the original lengths: (E, L)."""
    flat, ahead = _straightened(points)  # (E, L, N, 2)
    chord = flat[..., -1, :] - flat[..., 0, :]
    side = np.stack([-chord[..., 1], chord[..., 0]], axis=-1)
    side /= np.maximum(np.linalg.norm(chord, axis=-1), 1e-9)[..., None]
    height = ((flat - flat[..., :1, :]) @ side[..., None])[..., 0]
    # of the best parabola instead of the highest point, which noise would bias
    t = np.linspace(0, 1, points.shape[1])
    arch = t * (1 - t) - (t * (1 - t)).mean()
    middle, before = points[:, points.shape[1] // 2], points[:, -1] - points[:, 0]
    aside = np.stack([-before[:, 1], before[:, 0]], axis=1) / np.linalg.norm(before, axis=1)[:, None] * 1e-3
    two, _ = _straightened(np.stack([middle - aside, middle + aside], axis=1))
    grown = np.abs(((two[..., 1, :] - two[..., 0, :]) * side).sum(axis=-1)) / 2e-3  # a step across the edge
    return np.where(ahead, height @ arch / (arch @ arch) / 4 / np.maximum(grown, 1e-3), 1e3)


def _straightened(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (E, N, 2) for each λ (E, L, N, 2), and the λ for which all of a curve are valid (E, L) bool."""
    below = 1 + _LAMBDAS[:, None] * (points**2).sum(axis=2)[:, None]
    return points[:, None] / np.maximum(below, 0.05)[..., None], (below > 0.05).all(axis=2)
