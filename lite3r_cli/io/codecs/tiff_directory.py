"""The first directory of a TIFF structure, in TIFF files and EXIF blocks (TIFF 6.0, section 2).

Only requested entries are read, each separately: a damaged one counts as missing. The total size of all values is
limited, because a file of a few kilobytes can claim gigabytes.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import BinaryIO

from ..regular import BadImage

ORIENTATION, X_DENSITY, Y_DENSITY = 274, 282, 283
# BYTE SHORT LONG RATIONAL SBYTE UNDEFINED SSHORT SLONG SRATIONAL IFD: whole numbers and their ratios
_TYPES = {1: "B", 3: "H", 4: "I", 5: "II", 6: "b", 7: "B", 8: "h", 9: "i", 10: "ii", 13: "I"}
_MAX_ENTRIES = 4096
_MAX_BYTES = 1 << 26  # of all values: strip tables of the largest pictures are smaller


@dataclass(frozen=True)
class Directory:
    """Tag → values of the requested, readable entries."""

    order: str  # "<" or ">"
    values: dict[int, tuple[int, ...]]
    places: dict[int, int] = field(default_factory=dict)  # of all entries: start of the values
    following: int = 0  # start of the next directory, 0 = none

    @classmethod
    def read(cls, stream: BinaryIO, size: int, tags: Collection[int], start: int | None = None) -> Directory:
        """The directory at `start` (None: the first) of a stream of `size` bytes. Raises BadImage if there is none."""
        order, first = _head(stream)
        start = first if start is None else start
        stream.seek(start)
        (count,) = _unpack(stream, order + "H")
        if not 1 <= count <= _MAX_ENTRIES:
            raise BadImage("damaged: no TIFF directory")
        table = stream.read(12 * count + 4)
        values: dict[int, tuple[int, ...]] = {}
        places: dict[int, int] = {}
        left = min(size, _MAX_BYTES)
        for at in range(0, min(len(table) // 12, count) * 12, 12):
            tag, kind, items = struct.unpack_from(order + "HHI", table, at)
            length = struct.calcsize(order + _TYPES.get(kind, "B")) * items
            (pointer,) = struct.unpack_from(order + "I", table, at + 8)
            place = pointer if length > 4 else start + 2 + at + 8
            if tag == ORIENTATION and length != struct.calcsize("=" + _TYPES.get(kind, "B")) and place + length > size:
                items, place = 1, start + 2 + at + 8  # one value, regardless of its count
                length = struct.calcsize(order + _TYPES.get(kind, "B"))
            places.setdefault(tag, place)
            if tag not in tags or tag in values or kind not in _TYPES or not 0 < length <= left:
                continue
            stream.seek(place)
            data = stream.read(length)
            if len(data) == length:
                left -= length
                values[tag] = struct.unpack(f"{order}{items * len(_TYPES[kind])}{_TYPES[kind][0]}", data)
        end = table[12 * count :]
        following = struct.unpack(order + "I", end)[0] if len(end) == 4 else 0
        return cls(order, values, places, following)

    def first(self, tag: int, default: int = 0) -> int:
        return next(iter(self.values.get(tag, ())), default)

    def place(self, tag: int) -> int | None:
        """Start of an entry's values in the stream."""
        return self.places.get(tag)

    @property
    def orientation(self) -> int | None:
        """1…8; None if missing or invalid."""
        value = self.first(ORIENTATION, 0)
        return value if 1 <= value <= 8 else None

    @property
    def density(self) -> tuple[float, float] | None:
        """Pixels per length, across and down; None unless both exist."""
        pairs = [self.values.get(tag, ()) for tag in (X_DENSITY, Y_DENSITY)]
        if any(len(pair) < 2 or not (pair[0] and pair[1]) for pair in pairs):
            return None
        across, down = (pair[0] / pair[1] for pair in pairs)
        return across, down


def _head(stream: BinaryIO) -> tuple[str, int]:
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
    return order, start


def _unpack(stream: BinaryIO, layout: str) -> tuple[int, ...]:
    length = struct.calcsize(layout)
    data = stream.read(length)
    if len(data) < length:
        raise BadImage("truncated: it ends inside its TIFF directory")
    return struct.unpack(layout, data)
