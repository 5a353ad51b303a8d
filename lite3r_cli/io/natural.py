"""Natural order: `img2` comes before `img10`."""

from __future__ import annotations

import re


def natural_key(name: str) -> tuple:
    """Sort key of a file name: digit runs compare as numbers, the rest without case; ties go by the name."""
    parts = re.split(r"([0-9]+)", name)
    digits = [run.lstrip("0") for run in parts[1::2]]
    numbers = [(len(run), run) for run in digits]  # orders as int() would, which refuses very long runs
    words = [text.casefold() for text in parts[0::2]]
    return tuple(zip(words, numbers + [(0, "")])), name
