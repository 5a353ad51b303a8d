"""Boxes of ISO base media files (ISO 14496-12) for HEIF and AVIF: items and their positions."""

from __future__ import annotations

import struct
from collections.abc import Iterator

_CONTAINERS = (b"meta", b"iprp", b"ipco")
_MAX_BOXES, _MAX_ITEMS = 4096, 4096


def boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start of the content, its end) of the boxes between two positions, up to the first damaged one."""
    for _ in range(_MAX_BOXES):
        if start + 8 > end:
            return
        length, kind = struct.unpack_from(">I4s", data, start)
        head = 8
        if length == 1 and start + 16 <= end:
            (length,) = struct.unpack_from(">Q", data, start + 8)
            head = 16
        elif length == 0:
            length = end - start
        if length < head or start + length > end:
            return
        yield kind, start + head, start + length
        start += length


def find(data: bytes, start: int, end: int, *path: bytes) -> tuple[int, int] | None:
    """Content of the first box under a path of kinds; `meta` has four extra bytes at its start."""
    for kind, inside, stop in boxes(data, start, end):
        if kind == path[0]:
            inside += 4 if kind == b"meta" else 0
            return (inside, stop) if len(path) == 1 else find(data, inside, stop, *path[1:])
    return None


def item_types(data: bytes) -> dict[int, bytes]:
    """Item → its type, e.g. hvc1, av01, grid, Exif (box iinf). Empty if the box is damaged."""
    place = find(data, 0, len(data), b"meta", b"iinf")
    if place is None:
        return {}
    start, end = place
    try:
        version = data[start]
        start += 6 if version == 0 else 8
        types = {}
        for kind, inside, _ in boxes(data, start, end):
            if kind == b"infe" and data[inside] in (2, 3):
                wide = data[inside] == 3
                (item,) = struct.unpack_from(">I" if wide else ">H", data, inside + 4)
                at = inside + (10 if wide else 8)
                types[item] = data[at : at + 4]
        return types
    except (struct.error, IndexError):
        return {}


def item_extents(data: bytes) -> dict[int, list[tuple[int, int]]]:
    """Item → its (start, length) in the file (box iloc). Empty if the box is damaged."""
    place = find(data, 0, len(data), b"meta", b"iloc")
    if place is None:
        return {}
    try:
        return _extents(data, *place)
    except (struct.error, IndexError):
        return {}


def _extents(data: bytes, start: int, end: int) -> dict[int, list[tuple[int, int]]]:
    version, sizes = data[start], data[start + 4 : start + 6]
    offset, length, base, index = sizes[0] >> 4, sizes[0] & 15, sizes[1] >> 4, (sizes[1] & 15) if version else 0
    at = start + 6

    def number(count: int) -> int:
        nonlocal at
        if at + count > end:
            raise IndexError
        at += count
        return int.from_bytes(data[at - count : at], "big")

    wide = 4 if version == 2 else 2
    found: dict[int, list[tuple[int, int]]] = {}
    for _ in range(min(number(wide), _MAX_ITEMS)):
        item = number(wide)
        method = number(2) & 15 if version else 0
        number(2)
        origin = number(base)
        extents = []
        for _ in range(min(number(2), _MAX_ITEMS)):
            number(index)
            extents.append((origin + number(offset), number(length)))
        if method == 0:
            found[item] = extents
    return found
