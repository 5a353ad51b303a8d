"""GIF (89a): the first picture, by Pillow, after its codes were checked: Pillow fills in missing pixels."""

from __future__ import annotations

import io
import struct
from typing import BinaryIO

import numpy as np

from ..regular import BadImage
from . import through_pillow
from .header import Header, exactly

_PICTURE, _EXTENSION = 0x2C, 0x21
_MAX_BLOCKS = 1 << 16


def matches(head: bytes) -> bool:
    return head[:6] in (b"GIF87a", b"GIF89a")


def probe(stream: BinaryIO, size: int) -> Header:
    """Size and number of pictures, read without Pillow, which allocates a byte for every claimed pixel. Raises
    BadImage.
    """
    stream.seek(6)
    width, height = struct.unpack("<HH", exactly(stream, 4, "its size"))
    if not width * height:
        raise BadImage("damaged: not a readable GIF file")
    return Header("gif", width, height, has_alpha=True, pictures=_count_pictures(stream))


def decode(data: bytes, header: Header) -> np.ndarray:
    """(H, W, 3) or (H, W, 4) uint8 of the first picture. Raises BadImage."""
    _require_codes(data)
    return through_pillow.decode(data, header)


def _count_pictures(stream: BinaryIO) -> int:
    """Number of pictures up to the end or to damage, which may be behind the first one; at least 1."""
    count = 0
    try:
        stream.seek(10)
        _skip_colours(stream, 3)
        for _ in range(_MAX_BLOCKS):
            kind = exactly(stream, 1, "its blocks")[0]
            if kind not in (_PICTURE, _EXTENSION):
                break
            if kind == _PICTURE:
                exactly(stream, 8, "its blocks")
                _skip_colours(stream, 1)
            exactly(stream, 1, "its blocks")  # bits of the codes, or kind of extension
            while length := exactly(stream, 1, "its blocks")[0]:
                stream.seek(length, io.SEEK_CUR)
            count += kind == _PICTURE
    except BadImage:
        pass
    return max(1, count)


def _skip_colours(stream: BinaryIO, size: int) -> None:
    flags = exactly(stream, size, "its colours")[0]
    if flags & 0x80:
        stream.seek(3 << (flags & 7) + 1, io.SEEK_CUR)


def _require_codes(data: bytes) -> None:
    """Raises BadImage unless the codes of the first picture give all its pixels and end with the end code."""
    stream = io.BytesIO(data)
    stream.seek(10)
    flags = exactly(stream, 3, "its header")[0]
    stream.seek(13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0))
    for _ in range(_MAX_BLOCKS):
        kind = exactly(stream, 1, "its blocks")[0]
        if kind == _EXTENSION:
            exactly(stream, 1, "its blocks")
            _sub_blocks(stream)
        elif kind == _PICTURE:
            width, height, flags = struct.unpack("<4xHHB", exactly(stream, 9, "its blocks"))
            if flags & 0x80:
                exactly(stream, 3 << (flags & 7) + 1, "its colours")
            bits = exactly(stream, 1, "its blocks")[0]
            if not 1 <= bits <= 11 or _pixels_of(_sub_blocks(stream), bits, width * height) != width * height:
                raise BadImage("damaged: the GIF's codes do not give its pixels")
            return
        else:
            break
    raise BadImage("damaged: a GIF without an image")


def _sub_blocks(stream: BinaryIO) -> bytes:
    parts = []
    while length := exactly(stream, 1, "its blocks")[0]:
        parts.append(exactly(stream, length, "its blocks"))
    return b"".join(parts)


def _pixels_of(codes: bytes, bits: int, most: int) -> int:
    """Number of pixels of the LZW codes, which must end with the end code; -1 for an invalid code."""
    clear, end = 1 << bits, (1 << bits) + 1
    lengths: list[int] = []  # number of pixels of each code above `end`
    width, before, total, value, held, at = bits + 1, 0, 0, 0, 0, 0
    while total <= most:
        while held < width:
            if at == len(codes):
                return -1
            value |= codes[at] << held
            held += 8
            at += 1
        code = value & ((1 << width) - 1)
        value >>= width
        held -= width
        if code == clear:
            lengths, width, before = [], bits + 1, 0
            continue
        if code == end:
            return total
        known = code < clear or code - end - 1 < len(lengths)
        if not known and (not before or code - end - 1 != len(lengths)):
            return -1
        length = (1 if code < clear else lengths[code - end - 1]) if known else before + 1
        if before and end + 1 + len(lengths) < 4096:
            lengths.append(before + 1)
            if end + 1 + len(lengths) == 1 << width and width < 12:
                width += 1
        before = length
        total += length
    return -1
