"""Natural order: `img2` comes before `img10`."""

from __future__ import annotations

import re


def natural_key(name: str) -> tuple:
    """Sort key of a file name: digit runs compare as numbers, the rest without case; equal keys fall back to the name itself."""
    parts = re.split(r"([0-9]+)", name)
    numbers = [(len(digits.lstrip("0")), digits.lstrip("0")) for digits in parts[1::2]]  # no int(): a run may be very long
    words = [text.casefold() for text in parts[0::2]]
    return tuple(zip(words, numbers + [(0, "")])), name
