"""The header of an image file, and helpers that its readers share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, BinaryIO

from ..regular import BadImage

LARGEST_ASPECT = 4.0  # of a pixel; a larger value in a file is an error, not a lens


@dataclass(frozen=True)
class Header:
    """An image as stored: size and pixel aspect ratio before the orientation is applied."""

    format: str  # a key of the table of formats
    width: int
    height: int
    orientation: int = 1  # EXIF, 1…8
    has_alpha: bool = False  # may have transparent pixels
    pixel_aspect: float = 1.0  # width of a pixel / its height
    pictures: int = 1  # pictures in the file; the first one is used
    detail: Any = None  # data for the decoder of this format

    @property
    def upright_size(self) -> tuple[int, int]:
        """(width, height) after the orientation is applied."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)

    @property
    def upright_aspect(self) -> float:
        """Width of a pixel / its height after the orientation is applied."""
        return 1 / self.pixel_aspect if self.orientation >= 5 else self.pixel_aspect


def exactly(stream: BinaryIO, count: int, what: str) -> bytes:
    """`count` bytes of the stream. Raises BadImage at its end."""
    data = stream.read(count)
    if len(data) < count:
        raise BadImage(f"truncated: it ends inside {what}")
    return data


def aspect_of_density(across: float, down: float) -> float:
    """Pixel aspect ratio from the pixel densities across and down; 1 for an implausible one."""
    if not (across > 0 and down > 0):
        return 1.0
    aspect = down / across
    return float(aspect) if 1 / LARGEST_ASPECT <= aspect <= LARGEST_ASPECT else 1.0
