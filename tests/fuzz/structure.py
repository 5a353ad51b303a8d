"""Changes that keep a format's structure: entries, segments, chunks and boxes, with right lengths and checksums."""

from __future__ import annotations

import random
import struct
import zlib

from mutate import EXTREME, flip, integer, mutated
from png_files import png_chunks, png_joined

_TAGS = (
    *(
        254,
        256,
        257,
        258,
        259,
        262,
        266,
        273,
        274,
        277,
        278,
        279,
        282,
        283,
        284,
        292,
        317,
        320,
        322,
        323,
        324,
        325,
        330,
    ),
    *(338, 339, 347, 34665, 0x8825),
)


def exif_block(r: random.Random) -> bytes:
    """A sound EXIF block: maker, orientation, density, and a pointer."""
    order = r.choice("<>")
    entries = (
        (271, 2, 4, 0x41424300),
        (274, 3, 1, r.randrange(10)),
        (282, 5, 1, 200),
        (296, 3, 1, 2),
        (34665, 4, 1, 120),
    )
    data = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(entries))
    for tag, kind, count, value in entries:
        packed = struct.pack(order + "HH", value, 0) if kind == 3 else struct.pack(order + "I", value)
        data += struct.pack(order + "HHI", tag, kind, count) + packed
    return data + bytes(4) + bytes(range(200)) * r.choice((1, 1, 5, 150))


# --- TIFF -------------------------------------------------------------------------------------------------------------


def _directory(data: bytes) -> tuple[str, int, int]:
    order = "<" if data[:2] == b"II" else ">"
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    return order, start, min(count, (len(data) - start - 2) // 12)


def tiff_entry(r: random.Random, data: bytes) -> bytes:
    """Tag, type, count or value of one entry."""
    order, start, count = _directory(data)
    at = start + 2 + 12 * r.randrange(count)
    tag, kind, items, value = struct.unpack_from(order + "HHII", data, at)
    what = r.randrange(5)
    if what == 0:
        tag = r.choice(_TAGS)
    elif what == 1:
        kind = r.choice((0, 1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 16, 17, 65535))
    elif what == 2:
        items = r.choice((*EXTREME[:18], len(data), len(data) // 2, len(data) - 8))
    else:
        value = r.choice((*EXTREME[:18], len(data), len(data) - 2, at, start, value + 1, value << 16))
    entry = struct.pack(order + "HHII", tag & 65535, kind, items & 0xFFFFFFFF, value & 0xFFFFFFFF)
    return data[:at] + entry + data[at + 12 :]


def tiff_moved(r: random.Random, data: bytes) -> bytes:
    """The directory in another order at the end of the file, perhaps cut within its last entry."""
    order, start, count = _directory(data)
    entries = [data[start + 2 + 12 * i : start + 14 + 12 * i] for i in range(count)]
    r.shuffle(entries)
    if r.random() < 0.4:
        entries.append(
            struct.pack(order + "HHII", 274, r.choice((1, 3, 4)), r.choice((0, 1, 2, 5)), r.choice((6, len(data))))
        )
    body = struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4)
    moved = data[:4] + struct.pack(order + "I", len(data)) + data[8:] + body
    return moved[: len(moved) - r.choice((0, 0, 4, 5, 6, 7, 8, 12))]


def tiff_many(r: random.Random, data: bytes) -> bytes:
    """Many entries with many values each, which a careless reader would expand without limit."""
    order = _directory(data)[0]
    number = r.choice((16, 200, 4000))
    tags = r.choice(((274,), _TAGS, range(1000, 1000 + number)))
    entries = [
        struct.pack(
            order + "HHII", tags[i % len(tags)], r.choice((1, 3, 4)), r.choice((len(data) // 4, 5, len(data))), 8
        )
        for i in range(number)
    ]
    body = struct.pack(order + "H", number) + b"".join(entries) + bytes(4)
    return data[:4] + struct.pack(order + "I", len(data)) + data[8:] + body


TIFF = (tiff_entry, tiff_entry, tiff_entry, tiff_moved, tiff_many)


# --- JPEG -------------------------------------------------------------------------------------------------------------


def jpeg_segments(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    found, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        (length,) = struct.unpack_from(">H", data, at + 2)
        found.append((data[at + 1], data[at + 4 : at + 2 + length]))
        at += 2 + length
    return found, data[at:]


def jpeg_joined(segments: list[tuple[int, bytes]], rest: bytes) -> bytes:
    parts = [struct.pack(">BBH", 0xFF, code, min(65535, len(body) + 2)) + body for code, body in segments]
    return b"\xff\xd8" + b"".join(parts) + rest


def jpeg_segment(r: random.Random, data: bytes) -> bytes:
    segments, rest = jpeg_segments(data)
    i = r.randrange(len(segments))
    code, body = segments[i]
    what = r.randrange(7)
    if what == 0:
        segments[i] = (r.choice((0xC0, 0xC1, 0xC2, 0xC3, 0xC9, 0xDB, 0xC4, 0xE1, 0xE2, 0xEE, 0xDD, 0xD8, 0xD9)), body)
    elif what == 1:
        segments.insert(r.randrange(len(segments) + 1), segments[i])
    elif what == 2:
        del segments[i]
    elif what == 3:
        segments[i] = (code, mutated(r, body, [body]))
    elif what == 4:
        r.shuffle(segments)
    elif what == 5:
        block = exif_block(r)
        mark, block = r.choice(((b"Exif\0\0", block), (b"MPF\0", block)))
        segments.insert(0, (0xE1 if mark[0] == 69 else 0xE2, (mark + mutated(r, block, [block], TIFF))[:65000]))
    else:
        for j, (kind, frame) in enumerate(segments):
            if 0xC0 <= kind <= 0xC2 and len(frame) >= 5:
                sides = r.choice((0, 1, 14, 64, 1000, 65535)), r.choice((0, 1, 14, 300, 3000, 65535))
                segments[j] = (kind, frame[:1] + struct.pack(">HH", *sides) + frame[5:])
    return jpeg_joined(segments, rest)


# --- PNG --------------------------------------------------------------------------------------------------------------


def png_changed(r: random.Random, data: bytes) -> bytes:
    chunks = png_chunks(data)
    i = r.randrange(len(chunks))
    kind, body = chunks[i]
    what = r.randrange(7)
    if what == 0:
        chunks[i] = (kind, mutated(r, body, [body]))
    elif what == 1:
        chunks.insert(r.randrange(len(chunks) + 1), chunks[i])
    elif what == 2:
        del chunks[i]
    elif what == 3:
        sides = r.choice((0, 1, 14, 48, 14000, 65535, 1 << 31)), r.choice((0, 1, 14, 36, 14000, 1 << 20))
        pixel = r.choice((1, 2, 4, 8, 16, 3)), r.choice((0, 2, 3, 4, 6, 5)), 0, 0, r.choice((0, 1, 2))
        chunks[0] = (b"IHDR", struct.pack(">IIBBBBB", *sides, *pixel))
    elif what == 4:
        block = exif_block(r)
        chunks.insert(1, (b"eXIf", mutated(r, block, [block], TIFF)))
    elif what == 5:
        name = r.choice((b"tRNS", b"PLTE", b"iCCP", b"gAMA", b"acTL", b"fcTL", b"tEXt", b"pHYs", b"sBIT"))
        chunks.insert(r.randrange(1, len(chunks) + 1), (name, r.randbytes(r.choice((0, 1, 2, 6, 9, 26, 300)))))
    else:
        rows = zlib.decompress(b"".join(b for k, b in chunks if k == b"IDAT"))
        chunks = [chunk for chunk in chunks if chunk[0] != b"IDAT"]
        chunks.insert(len(chunks) - 1, (b"IDAT", zlib.compress(mutated(r, rows, [rows]))))
    return png_joined(chunks)


# --- WebP, BMP, boxes -------------------------------------------------------------------------------------------------


def riff_chunk(r: random.Random, data: bytes) -> bytes:
    chunks, at = [], 12
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        chunks.append((kind, data[at + 8 : at + 8 + length]))
        at += 8 + length + (length & 1)
    i = r.randrange(len(chunks))
    what = r.randrange(6)
    if what == 0:
        chunks[i] = (chunks[i][0], mutated(r, chunks[i][1], [bytes(32)]))
    elif what == 1:
        chunks.insert(r.randrange(len(chunks) + 1), chunks[i])
    elif what == 2:
        del chunks[i]
    elif what == 3:
        sides = b"".join(struct.pack("<I", r.choice((0, 13, 47, 63, 13999, 0xFFFFFF)))[:3] for _ in range(2))
        chunks.insert(0, (b"VP8X", bytes([r.randrange(256), 0, 0, 0]) + sides))
    elif what == 4:
        block = exif_block(r)
        chunks.append((b"EXIF", mutated(r, block, [block], TIFF)))
    else:
        chunks[i] = (r.choice((b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF", b"ICCP", b"XMP ")), chunks[i][1])
    body = b"".join(k + struct.pack("<I", len(b)) + b + bytes(len(b) & 1) for k, b in chunks)
    return b"RIFF" + struct.pack("<I", (len(body) + 4 + r.choice((0, 0, 0, -2, 100))) & 0xFFFFFFFF) + b"WEBP" + body


def bmp_field(r: random.Random, data: bytes) -> bytes:
    at, code = r.choice(
        ((10, "I"), (14, "I"), (18, "i"), (22, "i"), (26, "H"), (28, "H"), (30, "I"), (34, "I"), (46, "I"))
    )
    values = {
        "H": (0, 1, 4, 8, 16, 24, 32, 65535),
        "I": (0, 1, 2, 3, 12, 40, 54, 124, 65536, 0xFFFFFFFF),
        "i": (0, -1, 1, 14, -48, 3000, 14000, -14000, 2**31 - 1, -(2**31)),
    }
    return data[:at] + struct.pack("<" + code, r.choice(values[code])) + data[at + struct.calcsize(code) :]


_PARENTS = {
    b"moov": 8,
    b"trak": 8,
    b"mdia": 8,
    b"minf": 8,
    b"stbl": 8,
    b"iprp": 8,
    b"ipco": 8,
    b"meta": 12,
    b"iinf": 14,
}


def _boxes(data: bytes, start: int, end: int) -> list[tuple[int, int, bytes]]:
    found = []
    while start + 8 <= end and len(found) < 400:
        length, kind = struct.unpack_from(">I4s", data, start)
        if length < 8 or start + length > end:
            break
        found.append((start, length, kind))
        if kind in _PARENTS:
            found += _boxes(data, start + _PARENTS[kind], start + length)
        start += length
    return found


def iso_box(r: random.Random, data: bytes) -> bytes:
    boxes = _boxes(data, 0, len(data))
    at, length, _ = r.choice(boxes)
    what = r.randrange(6)
    if what == 0:
        size = r.choice((0, 1, 7, 8, 9, length - 1, length + 1, length * 2, 0x7FFFFFFF, 0xFFFFFFFF)) & 0xFFFFFFFF
        return data[:at] + struct.pack(">I", size) + data[at + 4 :]
    if what == 1:
        return data[: at + 4] + r.choice(boxes)[2] + data[at + 8 :]
    if what == 2:
        return data[:at] + data[at + length :]
    if what == 3:
        return data[: at + length] + data[at : at + length] + data[at + length :]
    body = data[at + 8 : at + length]
    return data[: at + 8] + (integer if what == 4 else flip)(r, body) + data[at + length :]
