"""WebP (RFC 9649): simple, lossless and extended files; pixels by libwebp through Pillow."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from ..regular import BadImage
from . import exif_block, through_pillow
from .header import Header, exactly

_LONGEST_EXIF = 1 << 24
_END = 24  # bytes of a compressed picture without which it must not decode completely


def matches(head: bytes) -> bool:
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


def _chunks(stream: BinaryIO, size: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start of the content, its length) of all chunks inside the file."""
    position = 12
    while position + 8 <= size:
        stream.seek(position)
        kind, length = struct.unpack("<4sI", exactly(stream, 8, "its chunks"))
        yield kind, position + 8, length
        position += 8 + length + (length & 1)


def probe(stream: BinaryIO, size: int) -> Header:
    """Size, orientation, alpha and number of frames. Raises BadImage."""
    stream.seek(4)
    (length,) = struct.unpack("<I", exactly(stream, 4, "its header"))
    if 8 + (length & ~1) > size:
        raise BadImage("truncated: the file is shorter than its WebP header says")
    stream.seek(12)
    kind, data = exactly(stream, 4, "its header"), exactly(stream, 14, "its header")[4:]
    if kind == b"VP8 ":
        width, height = (value & 0x3FFF for value in struct.unpack("<HH", data[6:10]))
        return Header("webp", width, height)
    if kind == b"VP8L":
        (bits,) = struct.unpack("<I", data[1:5])
        return Header("webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, 1, bool(bits >> 28 & 1))
    if kind != b"VP8X":
        raise BadImage("damaged: a WebP without an image")
    width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (4, 7))
    orientation, frames = None, 0
    for name, start, count in _chunks(stream, size):
        if name == b"EXIF" and orientation is None and count <= _LONGEST_EXIF:
            stream.seek(start)
            orientation = exif_block.read(stream.read(count)).orientation
        frames += name == b"ANMF"
    return Header("webp", width, height, orientation or 1, bool(data[0] & 0x10), pictures=max(1, frames))


def decode(data: bytes, header: Header) -> np.ndarray:
    """(H, W, 3) or (H, W, 4) uint8. Raises BadImage.

    WebP has no checksums. libwebp detects damage that needs more bytes than there are. If damage makes a picture need
    fewer bytes, it also decodes without its last bytes, which an intact one never does.
    """
    pixels = through_pillow.decode(data, header)
    for name, start, length in _chunks(io.BytesIO(data), len(data)):
        if name in (b"VP8 ", b"VP8L") and length > 4 * _END and _decodes(_shortened(data, start, length), header):
            raise BadImage("damaged: the WebP pixels end before their data does")
    return pixels


def _shortened(data: bytes, start: int, length: int) -> bytes:
    """The file without the last bytes of one chunk."""
    keep = (length - _END) & ~1
    body = data[8 : start - 4] + struct.pack("<I", keep) + data[start : start + keep]
    body += data[start + length + (length & 1) :]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _decodes(data: bytes, header: Header) -> bool:
    try:
        through_pillow.decode(data, header)
    except BadImage:
        return False
    return True
