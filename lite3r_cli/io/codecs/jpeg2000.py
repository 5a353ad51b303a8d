"""JPEG 2000 (ITU T.800), by OpenJPEG through Pillow."""

from __future__ import annotations

import re
from typing import BinaryIO

import numpy as np

from ..regular import BadImage
from . import through_pillow
from .header import Header

_FILE, _STREAM = b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"
_START_OF_DATA, _END = b"\xff\x93", b"\xff\xd9"
_HOLE = re.compile(rb"\0{256}|\xff{256}")  # arithmetic codes look random: no intact file has such a run


def matches(head: bytes) -> bool:
    return head.startswith((_FILE, _STREAM))


def probe(stream: BinaryIO, size: int) -> Header:
    """Raises BadImage, also for a code stream without an end marker."""
    header = through_pillow.probe_jpeg2000(stream, size)
    stream.seek(max(0, size - 4096))
    if _END not in stream.read():
        raise BadImage("truncated: the JPEG 2000 code stream has no end marker")
    return header


def decode(data: bytes, header: Header) -> np.ndarray:
    """(H, W) to (H, W, 4) uint8 or uint16. Raises BadImage.

    The format has no checksum, and OpenJPEG fills in missing pixels, so the bytes are searched for holes.
    """
    start = data.find(_START_OF_DATA)
    if start < 0 or _HOLE.search(data, start):
        raise BadImage("damaged: the coded image has a hole")
    return through_pillow.decode(data, header)
