"""Detects frames of plain white or black around a picture, which undistortion and scanning produce.

They stay in place while the scene moves, so a network takes them for content. They are detected by their colour and
their even, narrow width, and painted over with neighbouring pixels; their confidence is 0.
"""

from __future__ import annotations

import cv2
import numpy as np

WIDEST = 0.06  # of the shorter side; anything wider is background
TOLERANCE = 10  # grey levels by which compression changes pure white or black
OUTER_SHARE = 0.8  # share of a side's outermost pixels that must have the colour of the frame
INNER_SHARE = 0.04  # share of a side's lines that may have this colour through the whole widest frame
SURE_SIDES = 2  # sides with a frame from which the other sides are checked again
SOFT = 2  # pixels behind the frame that resizing and compression have mixed with it


def find_border(rgb: np.ndarray) -> np.ndarray | None:
    """Pixels (H, W) bool of a white or black frame around a picture (H, W, 3) uint8; None without one."""
    widest = max(2, round(WIDEST * min(rgb.shape[:2])))
    if min(rgb.shape[:2]) < 4 * widest or not _may_have_one(rgb, widest):
        return None
    found = np.zeros(rgb.shape[:2], bool)
    for plain in _plain_near_sides(rgb, widest + 1):
        # rotate so that each side in turn is the first rows of the view
        sides = [(np.rot90(plain, turns), np.rot90(found, turns)) for turns in range(4)]
        widths = [_mark_side(*side, widest) for side in sides]
        usual = [width for width in widths if width]
        if len(usual) >= SURE_SIDES:
            for side, width in zip(sides, widths):
                if not width:
                    _mark_strip(*side, round(float(np.median(usual))))
    if not found.any():
        return None
    return cv2.dilate(found.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=SOFT).astype(bool)


def _may_have_one(rgb: np.ndarray, widest: int) -> bool:
    """Whether enough of the outermost pixels of some side are white, or black, for `_mark_side`."""
    middle = slice(2 * widest, -2 * widest)
    for line in (rgb[0, middle], rgb[-1, middle], rgb[middle, 0], rgb[middle, -1]):
        for plain in (line.min(-1) >= 255 - TOLERANCE, line.max(-1) <= TOLERANCE):
            if plain.size and plain.mean() >= OUTER_SHARE:
                return True
    return False


def _plain_near_sides(rgb: np.ndarray, deep: int) -> tuple[np.ndarray, np.ndarray]:
    """White pixels and black pixels (H, W) within `deep` pixels of a side; only these are needed."""
    white, black = (np.zeros(rgb.shape[:2], bool) for _ in range(2))
    everything, near, far = slice(None), slice(deep), slice(-deep, None)
    for strip in ((near, everything), (far, everything), (everything, near), (everything, far)):
        red, green, blue = (rgb[(*strip, channel)] for channel in range(3))
        white[strip] = np.minimum(np.minimum(red, green), blue) >= 255 - TOLERANCE
        black[strip] = np.maximum(np.maximum(red, green), blue) <= TOLERANCE
    return white, black


def _mark_side(plain: np.ndarray, found: np.ndarray, widest: int) -> int:
    """Mark the frame in the first rows of `found` (a view) if `plain` has one there. Returns its width, or 0."""
    lines = np.logical_and.accumulate(plain[: widest + 1], axis=0)  # plain from the border on
    width = lines.sum(0)
    middle = width[2 * widest : -2 * widest]  # the ends belong to the frames of the neighbouring sides
    if not len(middle) or (middle > 0).mean() < OUTER_SHARE or (middle > widest).mean() > INNER_SHARE:
        return 0
    found[:widest] |= lines[:widest]
    return max(1, round(float(np.median(middle))))


def _mark_strip(plain: np.ndarray, found: np.ndarray, width: int) -> None:
    """The same for a side whose scene is as bright or dark as the frame: the width is that of the other sides."""
    lines = np.logical_and.accumulate(plain[:width], axis=0)
    if lines[max(0, width - 2)].mean() >= OUTER_SHARE:
        found[:width] |= lines


def paint_over(rgb: np.ndarray, border: np.ndarray) -> np.ndarray:
    """The picture with `border` filled from its surroundings (Telea, J. Graphics Tools 2004)."""
    return cv2.inpaint(rgb, border.astype(np.uint8), 3, cv2.INPAINT_TELEA)
