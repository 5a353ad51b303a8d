"""Detects bars around a picture (letterbox, pillarbox): uniform, straight, and equal in all pictures of a set.

In one picture a bar looks like a night sky or a white wall. A bar has the same width and colour in every picture and
ends in a straight line, at which the scene behind it begins abruptly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..networks.pictures import NetworkInput

TOLERANCE = 10  # grey levels by which compression changes a bar, and by which the bars of two pictures differ
SOFT = 2  # lines at the end of a bar that resizing and compression mix with the scene
NARROWEST = 0.02  # of a side; anything narrower is a frame, or nothing
WIDEST = 0.45
CLEAR = 0.3  # share of the line behind a bar that has another colour, mean of all pictures


@dataclass(frozen=True)
class Bars:
    """Width of the bars at each side, as shares of height and width."""

    top: float = 0.0
    bottom: float = 0.0
    left: float = 0.0
    right: float = 0.0

    def __bool__(self) -> bool:
        return any((self.top, self.bottom, self.left, self.right))

    def __str__(self) -> str:
        sides = {name: getattr(self, name) for name in ("top", "bottom", "left", "right")}
        return ", ".join(f"{name} {100 * share:.0f} %" for name, share in sides.items() if share)

    def inside(self, height: int, width: int) -> tuple[slice, slice]:
        """Rows and columns between the bars of a picture."""
        top, left = int(np.ceil(self.top * height)), int(np.ceil(self.left * width))
        return slice(top, height - int(np.ceil(self.bottom * height))), slice(
            left, width - int(np.ceil(self.right * width))
        )


def find_bars(pictures: Sequence[np.ndarray]) -> Bars:
    """The bars of pictures (h, w, 3) uint8; none for fewer than two pictures or several sizes."""
    if len(pictures) < 2 or len({rgb.shape for rgb in pictures}) > 1:
        return Bars()
    height, width = pictures[0].shape[:2]
    shares = {}
    for turns, side, length in ((0, "top", height), (2, "bottom", height), (1, "right", width), (3, "left", width)):
        lines = _width(np.rot90(rgb, turns) for rgb in pictures)
        shares[side] = lines / length if NARROWEST * length <= lines <= WIDEST * length else 0.0
    return Bars(**shares)


def _width(pictures: Iterable[np.ndarray]) -> int:
    """Lines of the bar at the top of all pictures, including the soft ones; 0 without a bar."""
    found, colours, clear = [], [], []
    for rgb in pictures:
        first = rgb[0].astype(np.int16)
        colour = np.median(first, axis=0)
        if (np.abs(first - colour).max(1) > TOLERANCE).mean() >= 0.01:
            return 0  # the usual case, which is fast
        lines = rgb.astype(np.int16)
        other = np.abs(lines - colour).max(2) > TOLERANCE  # (h, w)
        plain = other.mean(1) < 0.01
        count = int(np.argmin(plain)) if not plain.all() else len(plain)
        if count == 0 or count > WIDEST * len(plain):
            return 0
        found.append(count)
        colours.append(colour)
        clear.append(other[min(count + SOFT, len(other) - 1)].mean())
    equal = max(found) - min(found) <= SOFT and np.ptp(np.stack(colours), axis=0).max() <= TOLERANCE
    return max(found) + SOFT if equal and np.mean(clear) >= CLEAR else 0


def fit_between(rgb: np.ndarray, bars: Bars, fit: Callable[[np.ndarray], NetworkInput]) -> NetworkInput:
    """The picture between the bars at the network's size, with its place in the whole picture."""
    rows, columns = bars.inside(*rgb.shape[:2])
    inside = fit(np.ascontiguousarray(rgb[rows, columns]))
    height, width = rgb.shape[:2]
    down = inside.full[0] / (rows.stop - rows.start)
    across = inside.full[1] / (columns.stop - columns.start)
    full = max(round(height * down), inside.full[0]), max(round(width * across), inside.full[1])
    corner = (
        min(round(rows.start * down), full[0] - inside.full[0]) + inside.corner[0],
        min(round(columns.start * across), full[1] - inside.full[1]) + inside.corner[1],
    )
    return NetworkInput(inside.rgb, full, corner, inside.border)
