"""The first directory of a TIFF structure: TIFF files, and EXIF blocks in other formats (TIFF 6.0, section 2)."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import BinaryIO

from .regular import BadImage

WIDTH, HEIGHT, COMPRESSION, STRIP_OFFSETS, ORIENTATION, STRIP_BYTES = 256, 257, 259, 273, 274, 279
TILE_OFFSETS, TILE_BYTES, EXTRA_SAMPLES, SAMPLE_FORMAT = 324, 325, 338, 339
_TYPES = {1: "B", 3: "H", 4: "I"}  # BYTE, SHORT, LONG: all that the tags above use
_MAX_ENTRIES = 4096


@dataclass(frozen=True)
class Directory:
    """Tag → values of the integer tags, and where in the file each tag's values start."""

    order: str  # "<" or ">"
    values: dict[int, tuple[int, ...]]
    offsets: dict[int, int]

    def first(self, tag: int, default: int = 0) -> int:
        return next(iter(self.values.get(tag, ())), default)

    @property
    def orientation(self) -> int:
        """1…8; anything else in the file counts as 1, upright."""
        value = self.first(ORIENTATION, 1)
        return value if 1 <= value <= 8 else 1


def read_directory(stream: BinaryIO, size: int) -> Directory:
    """First image file directory of a stream of `size` bytes. Raises BadImage if it is damaged or cut off."""
    stream.seek(0)
    head = stream.read(8)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or len(head) < 8:
        raise BadImage("damaged: no TIFF header")
    magic, start = struct.unpack(order + "HI", head[2:8])
    if magic == 43:
        raise BadImage("BigTIFF is not read: save it as TIFF or PNG")
    if magic != 42:
        raise BadImage("damaged: no TIFF header")
    stream.seek(start)
    (count,) = _unpack(stream, order + "H")
    if not 1 <= count <= _MAX_ENTRIES:
        raise BadImage("damaged: no TIFF directory")
    values, offsets = {}, {}
    for position in range(start + 2, start + 2 + 12 * count, 12):
        stream.seek(position)
        tag, kind, items = _unpack(stream, order + "HHI")
        if kind not in _TYPES:
            continue
        length = struct.calcsize(_TYPES[kind]) * items
        if length > size:
            raise BadImage("damaged: a TIFF tag is longer than the file")
        offset = position + 8
        if length > 4:
            (offset,) = _unpack(stream, order + "I")
            stream.seek(offset)
        values[tag] = _unpack(stream, f"{order}{items}{_TYPES[kind]}")
        offsets[tag] = offset
    return Directory(order, values, offsets)


def exif_orientation(block: bytes) -> int:
    """Orientation 1…8 out of an EXIF block, with or without its `Exif` prefix; 1 if there is none or it is damaged."""
    block = block.removeprefix(b"Exif\0\0")
    try:
        return read_directory(io.BytesIO(block), len(block)).orientation
    except BadImage:
        return 1  # a damaged EXIF block is no reason to lose the picture


def require_pixels(directory: Directory, size: int) -> None:
    """Raises BadImage if a strip or tile lies beyond the end of the file, or the pixels are not integers."""
    if 3 in directory.values.get(SAMPLE_FORMAT, ()):
        raise BadImage("floating-point pixels: save it with 8 or 16 bits")
    for starts, lengths in ((STRIP_OFFSETS, STRIP_BYTES), (TILE_OFFSETS, TILE_BYTES)):
        pairs = zip(directory.values.get(starts, ()), directory.values.get(lengths, ()))
        if any(start + length > size for start, length in pairs):
            raise BadImage("truncated: the pixels end before the picture does")


def _unpack(stream: BinaryIO, layout: str) -> tuple[int, ...]:
    length = struct.calcsize(layout)
    data = stream.read(length)
    if len(data) < length:
        raise BadImage("truncated: it ends inside its TIFF directory")
    return struct.unpack(layout, data)
