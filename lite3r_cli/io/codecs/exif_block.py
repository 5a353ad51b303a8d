"""The entries of an EXIF block that decoding needs: orientation and pixel density. io/exif.py reads the others.

Each entry is checked separately, so that a damaged one does not affect the others.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

from ..regular import BadImage
from .tiff_directory import ORIENTATION, X_DENSITY, Y_DENSITY, Directory

_PREFIX = b"Exif\0"


@dataclass(frozen=True)
class ExifBlock:
    """Unknown entries are None."""

    orientation: int | None = None  # 1…8
    density: tuple[float, float] | None = None  # pixels per length, across and down


def read(block: bytes) -> ExifBlock:
    """The entries of an EXIF block, with or without its prefix, which some writers repeat."""
    while block.startswith(_PREFIX):
        block = block[len(_PREFIX) :].removeprefix(b"\0").removeprefix(b"\xff")
    try:
        directory = Directory.read(io.BytesIO(block), len(block), (ORIENTATION, X_DENSITY, Y_DENSITY))
    except BadImage:
        return ExifBlock()  # a damaged block does not make the image unusable
    return ExifBlock(directory.orientation, directory.density)
