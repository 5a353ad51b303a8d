"""Compresses a cloud: 16-bit positions, sorted along a curve, as deflated differences.

viewer/unpack.js reads it. The points are in levels of detail: the first eighth is an evenly thinned cloud, so is the
first quarter, and so on. What the first frame shows is packed apart, so that it can be drawn before the rest is read.
Each point has the spacing of its neighbours, so that a viewer can draw it large enough to
close gaps.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..scene.posed_view import PointCloud

LEVELS = 65535  # of a position along an axis
SHARES = (0.125, 0.25, 0.5, 1.0)  # of the points, up to the end of each level
SPACING_STEPS = 16  # per doubling of the spacing
FIRST_POINTS = 250_000  # of the first frame, at most: software GL draws more of them too slowly
WINDOW = 32  # neighbours along the curve from which the spacing is computed


@dataclass(frozen=True)
class PackedPoints:
    """position = low + step · (x, y, z); spacing of a point = spacing · 2^(byte / SPACING_STEPS).

    The data are deflated planes of x low, x high, y low, …, z high, red, green, blue, confidence, spacing.
    """

    first: bytes  # the points of the first frame
    rest: bytes  # the others
    low: np.ndarray  # (3,) float64
    step: float
    spacing: float
    levels: list[int]  # number of points up to the end of each level
    first_level: int  # index of the level of the first frame


def pack(cloud: PointCloud, seed: int = 0) -> PackedPoints:
    """Pack N ≥ 0 points: positions in the box of the cloud, confidence as rank from 0 to 255."""
    points = cloud.points.astype(np.float64)
    low = points.min(0) if len(points) else np.zeros(3)
    step = (float((points - low).max()) if len(points) else 0.0) / LEVELS or 1.0
    places = np.round((points - low) / step).astype(np.uint16)
    curve = np.argsort(morton(places), kind="stable")
    spacing, byte = _spacing(points[curve])
    levels = [round(share * len(points)) for share in SHARES]
    # a random order assigns each point to a level; within a level the order of the curve is kept
    level = np.searchsorted(levels, np.random.default_rng(seed).permutation(len(points)), side="right")
    order = np.argsort(level, kind="stable")
    rows = curve[order]
    columns = [*cloud.colors[rows].T, _ranks(cloud.confidence)[rows], byte[order]]
    first_level = max(0, sum(count <= FIRST_POINTS for count in levels) - 1)
    end = levels[first_level]
    first, rest = (
        _deflated(places[rows[part]], [column[part] for column in columns]) for part in (slice(end), slice(end, None))
    )
    return PackedPoints(first, rest, low, step, spacing, levels, first_level)


def _deflated(places: np.ndarray, columns: Sequence[np.ndarray]) -> bytes:
    """Planes of points with (N, 3) uint16 places and further columns (N,) of bytes."""
    planes = [_differences(places[:, axis]) for axis in range(3)]
    data = [part for plane in planes for part in (plane & 255, plane >> 8)]
    data += [_differences(np.ascontiguousarray(column)) for column in columns]
    return zlib.compress(b"".join(part.astype(np.uint8).tobytes() for part in data), 6)


def morton(places: np.ndarray) -> np.ndarray:
    """(N, 3) uint16 → (N,) uint64 Morton codes: interleaved bits, so that neighbours in space have similar values."""
    code = np.zeros(len(places), np.uint64)
    for axis in range(3):
        x = places[:, axis].astype(np.uint64)
        for shift, mask in (
            (32, 0x1F00000000FFFF),
            (16, 0x1F0000FF0000FF),
            (8, 0x100F00F00F00F00F),
            (4, 0x10C30C30C30C30C3),
            (2, 0x1249249249249249),
        ):
            x = (x | (x << np.uint64(shift))) & np.uint64(mask)
        code |= x << np.uint64(axis)
    return code


def _differences(values: np.ndarray) -> np.ndarray:
    """Each value less the one before it, modulo its type's range."""
    result = values.copy()
    result[1:] -= values[:-1]
    return result


def _ranks(confidence: np.ndarray) -> np.ndarray:
    """Share of the points with lower confidence, scaled to 0…255."""
    rank = np.searchsorted(np.sort(confidence), confidence, side="left")
    return (rank * 256 // max(len(confidence), 1)).astype(np.uint8)


def _spacing(points: np.ndarray) -> tuple[float, np.ndarray]:
    """The smallest spacing, and for each point of the curve the steps above it (N,) uint8.

    The next point on the curve is usually a neighbour in space; the geometric mean limits the effect of exceptions.
    """
    if len(points) < 2:
        return 1.0, np.zeros(len(points), np.uint8)
    gaps = np.linalg.norm(np.diff(points, axis=0, append=points[-2:-1]), axis=1)
    logs = np.log2(np.maximum(gaps, np.max(gaps) * 1e-6 or 1.0))
    width = min(WINDOW, len(logs))
    sums = np.cumsum(np.concatenate([[0.0], np.pad(logs, (width // 2, width - width // 2), mode="edge")]))
    smooth = (sums[width:] - sums[:-width])[: len(logs)] / width
    least = float(np.percentile(smooth, 1))
    return float(2**least), np.clip(np.round((smooth - least) * SPACING_STEPS), 0, 255).astype(np.uint8)
