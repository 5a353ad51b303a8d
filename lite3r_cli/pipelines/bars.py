"""Bars that fill up a picture's shape (letterbox, pillarbox): uniform, straight, and equal in all pictures of a set.

One picture does not tell a bar from a night sky or a white wall. A bar has the same width and the same colour in every
picture, and ends in a straight line that what lies behind it does not continue.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..networks.pictures import NetworkInput

TOLERANCE = 10  # grey levels within a bar, and between the bars of two pictures, that compression leaves
SOFT = 2  # lines at the end of a bar that resizing and compression mix with the scene
NARROWEST = 0.02  # of a side; what is narrower is a frame, or nothing
WIDEST = 0.45
CLEAR = 0.3  # of the line behind a bar, mean of all pictures, has another colour


@dataclass(frozen=True)
class Bars:
    """Shares of the height and width that bars take at each side."""

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
    """The bars of pictures (h, w, 3) uint8, at least two and all of one size; none otherwise."""
    if len(pictures) < 2 or len({rgb.shape for rgb in pictures}) > 1:
        return Bars()
    height, width = pictures[0].shape[:2]
    shares = {}
    for turns, side, length in ((0, "top", height), (2, "bottom", height), (1, "right", width), (3, "left", width)):
        lines = _width([np.rot90(rgb, turns) for rgb in pictures])
        shares[side] = lines / length if NARROWEST * length <= lines <= WIDEST * length else 0.0
    return Bars(**shares)


def _width(pictures: Sequence[np.ndarray]) -> int:
    """Lines of the bar at the top of all pictures, the soft ones included; 0 without one."""
    found, colours, clear = [], [], []
    for rgb in pictures:
        first = rgb[0].astype(np.int16)
        colour = np.median(first, axis=0)
        if (np.abs(first - colour).max(1) > TOLERANCE).mean() >= 0.01:
            return 0  # nearly always, and at once
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
    """The picture between the bars as the network sees it, with its place in the whole picture."""
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
