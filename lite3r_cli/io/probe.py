"""Reads the header of an image file: format, size, orientation, and whether the end is there.

Decoders return half an image for half a file, and a header can claim more pixels than fit in memory. Both are checked
on a few kilobytes of the file. Formats are recognised by their first bytes, not by the suffix.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from .codecs import gif, heif, jpeg, jpeg2000, png, raster, through_pillow, tiff, unread, webp
from .codecs.header import Header
from .regular import BadImage, guarded

__all__ = ["FORMATS", "Header", "check_size", "is_picture", "probe"]

MIN_SIDE = 14  # pixels: one patch of the network
MAX_ASPECT = 8


@dataclass(frozen=True)
class Format:
    """How a format is recognised by its first 32 bytes, probed and decoded."""

    matches: Callable[[bytes], bool]
    probe: Callable[[BinaryIO, int], Header]  # of a stream of that many bytes
    decode: Callable[[bytes, Header], np.ndarray]  # (H, W[, C]) uint8 or uint16, stored orientation, RGB order


FORMATS = {
    "jpeg": Format(jpeg.matches, jpeg.probe, jpeg.decode),
    "png": Format(png.matches, png.probe, png.decode),
    "webp": Format(webp.matches, webp.probe, webp.decode),
    "bmp": Format(raster.is_bmp, raster.probe_bmp, through_pillow.decode),
    "pnm": Format(raster.is_pnm, raster.probe_pnm, raster.decode_pnm),
    "tiff": Format(tiff.matches, tiff.probe, tiff.decode),
    "heif": Format(heif.matches, heif.probe, heif.decode),
    "gif": Format(gif.matches, gif.probe, gif.decode),
    "jpeg2000": Format(jpeg2000.matches, jpeg2000.probe, jpeg2000.decode),
}


def probe(stream: BinaryIO) -> Header:
    """Header of the image in a seekable stream. Raises BadImage if it is damaged, truncated or unknown."""
    with guarded("damaged: its header cannot be read"):
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        head = stream.read(32)
        for kind in FORMATS.values():
            if kind.matches(head):
                header = kind.probe(stream, size)
                if header.width < 1 or header.height < 1:
                    raise BadImage("damaged: the header gives no size")
                return header
        raise BadImage(unread.reason(head))


def is_picture(head: bytes) -> bool:
    """Whether the first bytes, at least 32, are those of a supported image format."""
    return any(kind.matches(head) for kind in FORMATS.values())


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raises BadImage for a size that is too large, too small or too elongated to reconstruct from."""
    if width * height > max_pixels:
        mpx, limit = width * height / 1e6, max_pixels / 1e6
        raise BadImage(f"{width}×{height} = {mpx:.4g} Mpx is more than --max-pixels allows ({limit:.4g} Mpx)")
    if min(width, height) < MIN_SIDE:
        raise BadImage(f"{width}×{height} is too small: each side needs at least {MIN_SIDE} pixels")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadImage(f"{width}×{height} is too elongated: the sides may differ by a factor of {MAX_ASPECT}")
