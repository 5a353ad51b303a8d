"""Natural order: `img2` comes before `img10`."""

from __future__ import annotations

import re


def natural_key(name: str) -> tuple:
    """Sort key of a file name: digits compare as numbers, the rest without case, ties by the name."""
    parts = re.split(r"([0-9]+)", name)
    digits = [run.lstrip("0") for run in parts[1::2]]
    numbers = [(len(run), run) for run in digits]  # sorts like int(), which refuses very long digit runs
    words = [text.casefold() for text in parts[0::2]]
    return tuple(zip(words, numbers + [(0, "")])), name
