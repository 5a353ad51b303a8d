"""What reading pixels needs of an EXIF block: the orientation and the pixel density. Everything else is io/exif.py's.

Each entry stands on its own, so that a damaged one costs nothing else.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

from ..regular import BadImage
from .tiff_directory import ORIENTATION, X_DENSITY, Y_DENSITY, Directory

_PREFIX = b"Exif\0"


@dataclass(frozen=True)
class ExifBlock:
    """None where the block does not say it."""

    orientation: int | None = None  # 1…8
    density: tuple[float, float] | None = None  # pixels per length, across and down


def read(block: bytes) -> ExifBlock:
    """The entries of an EXIF block, with or without its prefix, which some writers put twice."""
    while block.startswith(_PREFIX):
        block = block[len(_PREFIX) :].removeprefix(b"\0").removeprefix(b"\xff")
    try:
        directory = Directory.read(io.BytesIO(block), len(block), (ORIENTATION, X_DENSITY, Y_DENSITY))
    except BadImage:
        return ExifBlock()  # a damaged block is no reason to lose the picture
    return ExifBlock(directory.orientation, directory.density)
