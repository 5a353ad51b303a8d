"""Multi-Picture Format (CIPA DC-007): number of pictures in a JPEG file, without previews and gain maps."""

from __future__ import annotations

import io
import struct
from typing import BinaryIO

from ..regular import BadImage
from .tiff_directory import Directory

_NUMBER, _ENTRIES = 0xB001, 0xB002
_LARGE_THUMBNAILS = (0x010001, 0x010002)
_GAIN_MAPS = (b"hdrgm", b"21496-1", b"HDRGainMap", b"GainMap")  # of the brightness, not pictures
_MOST = 64


def count(stream: BinaryIO, start: int, length: int, size: int) -> int:
    """1, or more if the APP2 segment at `start` lists further pictures. Damage counts as 1."""
    stream.seek(start)
    block = stream.read(length)
    if not block.startswith(b"MPF\0"):
        return 1
    try:
        directory = Directory.read(io.BytesIO(block[4:]), len(block) - 4, (_NUMBER,))
        offset, order = directory.place(_ENTRIES), directory.order
    except BadImage:
        return 1
    entries = block[4 + offset :] if offset is not None else b""
    found = 1
    for i in range(1, min(directory.first(_NUMBER, 1), _MOST, len(entries) // 16)):
        kind, bytes_, place = struct.unpack_from(order + "III", entries, 16 * i)
        if kind & 0xFFFFFF not in _LARGE_THUMBNAILS and _is_picture(stream, start + 4 + place, bytes_, size):
            found += 1
    return found


def _is_picture(stream: BinaryIO, place: int, length: int, size: int) -> bool:
    if not 0 < place < size or length < 100:
        return False
    stream.seek(place)
    head = stream.read(min(length, 1 << 16))
    return head.startswith(b"\xff\xd8") and not any(mark in head for mark in _GAIN_MAPS)
