"""PNG files taken apart and put together, with right lengths and checksums."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and content of each chunk; a last one that is cut off by less than its frame is left out."""
    found, at = [], len(SIGNATURE)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def png_joined(chunks: Iterable[tuple[bytes, bytes]]) -> bytes:
    return SIGNATURE + b"".join(png_chunk(kind, body) for kind, body in chunks)


def png_of_rows(rows: bytes, width: int, height: int, depth: int = 8, colour: int = 2, tRNS: bytes = b"") -> bytes:
    """A PNG of the given bytes, a filter type before each row; `colour` is the colour type of IHDR (2 = RGB)."""
    head = (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    transparent = [(b"tRNS", tRNS)] if tRNS else []
    return png_joined([head, *transparent, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")])
