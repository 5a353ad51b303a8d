"""JPEG (ITU T.81): the segments of a file, and its pixels by libjpeg-turbo, whose warnings are errors here.

Before decoding, a file is reduced to the segments that pixels need: no application data, no stray bytes between
segments, and an added end marker if it is missing. Then every warning of libjpeg concerns the pixels.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import simplejpeg

from ..regular import BadImage
from . import exif_block, multi_picture, through_pillow
from .header import Header, aspect_of_density, exactly

START, END = b"\xff\xd8", b"\xff\xd9"
_SOS, _EXIF, _APP2 = 0xDA, 0xE1, 0xE2
_FRAMES = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA}  # baseline, extended, progressive; Huffman or arithmetic coding
_UNREAD_FRAMES = {0xC3: "lossless", 0xCB: "lossless", 0xF7: "JPEG-LS"} | dict.fromkeys(
    (0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF), "hierarchical"
)
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD8)}
_TABLES = 0xC4  # Huffman tables
_SEQUENTIAL, _ARITHMETIC = {0xC0, 0xC1}, {0xC9, 0xCA}
_HOLE = b"\0" * 64
_NEEDED = _FRAMES | {_TABLES, 0xCC, 0xDB, 0xDD, 0xE0, 0xEE}  # tables, restart interval, JFIF, Adobe
_MAX_STRAY = 1 << 16  # bytes that are skipped between two segments
_MAX_SCANS = 200  # each scan is a pass over the whole picture
_MOST_PIXELS_A_BYTE = 512  # with Huffman codes: each block of 8×8 pixels takes at least one bit
_MOST_DECODED_TO_PROBE = 200_000_000  # pixels
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # no stuffing, restart or fill bytes


@dataclass(frozen=True)
class Segment:
    """A marker segment and the start of its content of `length` bytes."""

    code: int
    start: int
    length: int


def matches(head: bytes) -> bool:
    return head.startswith(START)


def segments(stream: BinaryIO) -> Iterator[Segment]:
    """The segments up to the first scan's header, the last one given. Raises BadImage."""
    position = 2
    while True:
        stream.seek(position)
        code, start = _next_marker(stream)
        if code in _WITHOUT_LENGTH:
            position = start
            continue
        if code == 0xD9:
            raise BadImage("damaged: a JPEG without pixels")
        (length,) = struct.unpack(">H", exactly(stream, 2, "its header"))
        if length < 2:
            raise BadImage("damaged: a JPEG segment of impossible length")
        yield Segment(code, start + 2, length - 2)
        position = start + length
        if code == _SOS:
            return


def _next_marker(stream: BinaryIO) -> tuple[int, int]:
    """Code of the next marker and the position after it; fill bytes and a few stray ones are skipped."""
    skipped = 0
    byte = exactly(stream, 1, "its header")
    while True:
        while byte != b"\xff":
            skipped += 1
            if skipped > _MAX_STRAY:
                raise BadImage("damaged: a JPEG segment does not start where it should")
            byte = exactly(stream, 1, "its header")
        while byte == b"\xff":
            byte = exactly(stream, 1, "its header")
        if byte != b"\0":
            return byte[0], stream.tell()


def probe(stream: BinaryIO, size: int) -> Header:
    """Size, orientation, pixel aspect and the number of pictures. Raises BadImage."""
    coding = 0
    frame, orientation, density, jfif_density, pictures = None, None, None, (1, 1), 1
    for segment in segments(stream):
        stream.seek(segment.start)
        if segment.code in _UNREAD_FRAMES:
            raise BadImage(f"{_UNREAD_FRAMES[segment.code]} JPEG is not read: save it as ordinary JPEG, PNG or TIFF")
        if segment.code in _FRAMES:
            frame, coding = struct.unpack(">BHHB", exactly(stream, 6, "its header")), segment.code
        elif segment.code == _EXIF:
            block = exif_block.read(stream.read(segment.length))
            orientation = orientation or block.orientation
            density = density or block.density
        elif segment.code == 0xE0 and segment.length >= 12:
            body = stream.read(12)
            if body.startswith(b"JFIF\0"):
                jfif_density = struct.unpack(">HH", body[8:12])
        elif segment.code == _APP2:
            pictures = max(pictures, multi_picture.count(stream, segment.start, segment.length, size))
        following = segment.start + segment.length
    if frame is None:
        raise BadImage("damaged: a JPEG without a frame header")
    precision, height, width, _ = frame
    if precision != 8:
        raise BadImage(f"{precision}-bit JPEG is not read: save it with 8 bits, or as PNG or TIFF with 16")
    if coding not in _ARITHMETIC and width * height > size * _MOST_PIXELS_A_BYTE:
        raise BadImage(f"damaged: {size} bytes hold no image of {width}×{height} pixels")
    if not _has_end(stream, following, size):
        if width * height <= _MOST_DECODED_TO_PROBE:
            stream.seek(0)
            _require_whole(stream.read())
    aspect = aspect_of_density(*(density or jfif_density))
    return Header("jpeg", width, height, orientation or 1, pixel_aspect=aspect, pictures=pictures)


def _has_end(stream: BinaryIO, start: int, size: int) -> bool:
    """0xFF is always escaped in a scan, so a marker after `start` is real, whatever was appended to the file."""
    stream.seek(max(start, size - 4096))
    if END in stream.read():
        return True
    stream.seek(start)
    last = b""
    while block := stream.read(1 << 20):
        if END in last + block:
            return True
        last = block[-1:]
    return False


def _require_whole(data: bytes) -> None:
    """Without an end marker only the decoder can tell whether all pixels are there."""
    try:
        decode(data)
    except BadImage as error:
        raise BadImage("truncated: the JPEG ends before its last pixels") from error


def decode(data: bytes, header: Header | None = None, least: tuple[int, int] = (0, 0)) -> np.ndarray:
    """(H, W, 3) uint8 RGB. Raises BadImage for every warning of libjpeg.

    With `least` (height, width) the image may be reduced by libjpeg: to the smallest size that is at least this large
    and covers the picture exactly. Other sizes add part of a pixel, which would move every point of the scene.
    """
    reduced = _reduced(data)
    try:
        colours = simplejpeg.decode_jpeg_header(reduced)[2]
    except ValueError as error:
        if "subsampling" in str(error):  # a chroma subsampling that TurboJPEG's interface does not name
            return through_pillow.decode(reduced, Header("jpeg", 0, 0))
        raise _damaged(error) from error
    if colours in ("CMYK", "YCCK"):
        return _from_cmyk(_strictly(data, reduced, "CMYK"), b"\xff\xee\0\x0eAdobe" in reduced)
    return _strictly(data, reduced, "RGB", (0, 0) if header is None else _reduction(header, least))


def _reduction(header: Header, least: tuple[int, int]) -> tuple[int, int]:
    """The size (height, width) to request from libjpeg, n eighths of the picture's; (0, 0) for the full size."""
    if least == (0, 0):
        return least
    sides = header.height, header.width
    for eighths in range(1, 8):
        exact = all(side * eighths % 8 == 0 for side in sides)
        height, width = (side * eighths // 8 for side in sides)
        if exact and height >= least[0] and width >= least[1]:
            return height, width
    return 0, 0


def strictly(data: bytes, colours: str) -> np.ndarray:
    """(H, W, C) uint8 of a JPEG file, in simplejpeg's colour space `colours`. Raises BadImage for every warning."""
    return _strictly(data, _reduced(data), colours)


def _strictly(data: bytes, reduced: bytes, colours: str, least: tuple[int, int] = (0, 0)) -> np.ndarray:
    """The same, given the reduced file, and of at least this size (height, width)."""
    size = {"min_height": least[0], "min_width": least[1]}
    try:
        return simplejpeg.decode_jpeg(reduced, colours, strict=True, **size)
    except ValueError as error:
        if "extraneous" not in str(error):
            raise _damaged(error) from error
    try:  # zeros between a scan and the next marker are not damage; other bytes are
        return simplejpeg.decode_jpeg(_reduced(data, trimmed=True), colours, strict=True, **size)
    except ValueError as error:
        raise _damaged(error) from error


def _damaged(error: ValueError) -> BadImage:
    return BadImage(f"damaged: the JPEG pixels cannot be decoded completely ({error})")


def _reduced(data: bytes, trimmed: bool = False) -> bytes:
    """The picture without application data and stray bytes, with an end marker; `trimmed`: also without zeros after a
    scan.
    """
    parts, position, zeros = [START], len(data), _Zeros()
    for segment in segments(io.BytesIO(data)):
        body = data[segment.start : segment.start + segment.length]
        position = segment.start + segment.length
        if segment.code in _NEEDED or segment.code == _SOS:
            parts.append(struct.pack(">BBH", 0xFF, segment.code, segment.length + 2) + body)
        zeros.segment(segment.code, body)
    for is_scan, start, end in _behind_header(data, position):
        part = data[start:end]
        if not is_scan:
            zeros.segment(part[1], part[4:])
        elif zeros.are_a_hole and _HOLE in part.rstrip(b"\0"):
            raise BadImage("damaged: the JPEG has a hole")
        if is_scan and trimmed:
            kept = part.rstrip(b"\0")
            part = kept + (b"\0" if kept.endswith(b"\xff") else b"")  # this zero belongs to the scan
        parts.append(part)
    return b"".join([*parts, END])


class _Zeros:
    """Decides what a long run of zeros in a scan would decode to.

    libjpeg notices such a hole only if it changes the number of pixels. A code of zeros only is the first one of its
    Huffman table. If that is a coefficient, as in the usual tables, the run would give blocks in which all coefficients
    are equal: no encoder writes that. If it is "no more coefficients", it may be a plain area.
    """

    def __init__(self) -> None:
        self._frame = 0
        self._first = {0x10: 1}  # table (class and number) → its first symbol; motion JPEG leaves the usual tables out
        self.are_a_hole = False

    def segment(self, code: int, body: bytes) -> None:
        """Record a segment of the header, or one between two scans."""
        if code in _FRAMES:
            self._frame = code
        elif code == _TABLES:
            while len(body) > 17:
                self._first[body[0]] = body[17]
                body = body[17 + sum(body[1:17]) :]
        elif code == _SOS and body:
            tables = [0x10 | (pair & 15) for pair in body[2 : 1 + 2 * body[0] : 2]]
            coefficients = any(self._first.get(table, 0) & 15 for table in tables)
            self.are_a_hole = self._frame in _ARITHMETIC or (self._frame in _SEQUENTIAL and coefficients)


def _behind_header(data: bytes, position: int) -> Iterator[tuple[bool, int, int]]:
    """(whether it is scan data, start, end) of the parts after the first scan's header, up to the end marker."""
    for _ in range(_MAX_SCANS * 8):  # tables may be between the scans
        marker = _MARKER.search(data, position)
        end = marker.start() if marker is not None else len(data)
        yield True, position, end
        if marker is None or data[end + 1] == 0xD9 or end + 4 > len(data):
            return
        position = end + 2 + max(2, struct.unpack_from(">H", data, end + 2)[0])
        yield False, end, position
    raise BadImage("damaged: a JPEG of too many scans")


def _from_cmyk(cmyk: np.ndarray, inverted: bool) -> np.ndarray:
    """RGB from ink amounts; Adobe stores 255 - ink."""
    bright = cmyk if inverted else 255 - cmyk
    return ((bright[..., :3].astype(np.uint16) * bright[..., 3:] + 127) // 255).astype(np.uint8)
