"""What a picture file says about itself, without decoding it: format, size, orientation, and whether its end is there.

Decoders return half a picture for half a JPEG, and a header can promise more pixels than fit in memory; both are
checked here, on a few kilobytes of the file. Formats are told apart by the first bytes, not by the suffix.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from . import heif, tiff
from .regular import BadImage

MIN_SIDE = 14  # pixels: one patch of the network
MAX_ASPECT = 8


@dataclass(frozen=True)
class Header:
    """A picture as stored: size before the orientation is applied."""

    format: str
    width: int
    height: int
    orientation: int = 1  # EXIF, 1…8
    has_alpha: bool = False
    orientation_at: int | None = None  # TIFF: where in the file the orientation stands (2 bytes)
    byte_order: str = "<"

    @property
    def upright_size(self) -> tuple[int, int]:
        """(width, height) after the orientation is applied."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def probe(stream: BinaryIO) -> Header:
    """Header of the picture in a seekable stream. Raises BadImage if it is damaged, cut off or unknown."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    head = stream.read(16)
    for matches, read in _FORMATS:
        if matches(head):
            header = read(stream, size)
            if header.width < 1 or header.height < 1:
                raise BadImage("damaged: the header gives no size")
            return header
    raise BadImage("not a picture: its first bytes are of no known format")


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raises BadImage for a size that is too large, too small or too elongated to reconstruct from."""
    if width * height > max_pixels:
        mpx, limit = width * height / 1e6, max_pixels / 1e6
        raise BadImage(f"{width}×{height} = {mpx:.4g} Mpx is more than --max-pixels allows ({limit:.4g} Mpx)")
    if min(width, height) < MIN_SIDE:
        raise BadImage(f"{width}×{height} is too small: each side needs at least {MIN_SIDE} pixels")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadImage(f"{width}×{height} is too elongated: the sides may differ by a factor of {MAX_ASPECT}")


def _exactly(stream: BinaryIO, count: int, what: str) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise BadImage(f"truncated: it ends inside {what}")
    return data


def _jpeg(stream: BinaryIO, size: int) -> Header:
    """Walk the segments up to the first scan, then look for the end-of-image marker behind it (ITU T.81, annex B)."""
    stream.seek(2)
    orientation, frame = None, None
    while True:
        if _exactly(stream, 1, "its header") != b"\xff":
            raise BadImage("damaged: a JPEG segment does not start where it should")
        marker = b"\xff"
        while marker == b"\xff":
            marker = _exactly(stream, 1, "its header")
        code = marker[0]
        if code == 0x01 or 0xD0 <= code <= 0xD7:
            continue
        if code == 0xD9:
            raise BadImage("damaged: a JPEG without pixels")
        (length,) = struct.unpack(">H", _exactly(stream, 2, "its header"))
        if length < 2:
            raise BadImage("damaged: a JPEG segment of impossible length")
        following = stream.tell() + length - 2
        if code == 0xE1 and orientation is None:
            block = stream.read(length - 2)
            orientation = tiff.exif_orientation(block) if block.startswith(b"Exif\0") else None
        elif 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC):
            frame = struct.unpack(">BHH", _exactly(stream, 5, "its header"))
        stream.seek(following)
        if code == 0xDA:
            break
    if frame is None:
        raise BadImage("damaged: a JPEG without a frame header")
    _require_end_of_image(stream, following, size)
    return Header("jpeg", frame[2], frame[1], orientation or 1)


def _require_end_of_image(stream: BinaryIO, start: int, size: int) -> None:
    """In a scan 0xFF is always escaped, so a marker behind `start` is real, whatever a phone appends after it."""
    tail = max(start, size - 4096)
    stream.seek(tail)
    if b"\xff\xd9" in stream.read():
        return
    stream.seek(start)
    last = b""
    while block := stream.read(1 << 20):
        if b"\xff\xd9" in last + block:
            return
        last = block[-1:]
    raise BadImage("truncated: the JPEG has no end-of-image marker")


def _png(stream: BinaryIO, size: int) -> Header:
    """Walk all chunks up to IEND (PNG specification, section 5)."""
    stream.seek(8)
    width = height = colour = 0
    orientation, transparent, position = 1, False, 8
    while True:
        length, kind = struct.unpack(">I4s", _exactly(stream, 8, "its chunks, before IEND"))
        if position == 8 and kind != b"IHDR":
            raise BadImage("damaged: a PNG that does not start with IHDR")
        following = position + 12 + length
        if following > size:
            raise BadImage(f"truncated: the file ends inside PNG chunk {kind.decode('latin-1')!r}")
        if kind == b"IHDR":
            width, height, _, colour = struct.unpack(">IIBB", _exactly(stream, 10, "IHDR"))
        elif kind == b"eXIf":
            orientation = tiff.exif_orientation(stream.read(length))
        transparent |= kind == b"tRNS"
        if kind == b"IEND":
            return Header("png", width, height, orientation, colour in (4, 6) or transparent)
        position = following
        stream.seek(position)


def _webp(stream: BinaryIO, size: int) -> Header:
    """Simple, lossless and extended files (RFC 9649, section 2)."""
    stream.seek(4)
    (length,) = struct.unpack("<I", _exactly(stream, 4, "its header"))
    if 8 + (length & ~1) > size:
        raise BadImage("truncated: the file is shorter than its WebP header says")
    stream.seek(12)
    kind, data = _exactly(stream, 4, "its header"), _exactly(stream, 14, "its header")[4:]
    if kind == b"VP8 ":
        width, height = (value & 0x3FFF for value in struct.unpack("<HH", data[6:10]))
        return Header("webp", width, height)
    if kind == b"VP8L":
        (bits,) = struct.unpack("<I", data[1:5])
        return Header("webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, 1, bool(bits >> 28 & 1))
    if kind != b"VP8X":
        raise BadImage("damaged: a WebP without a picture")
    width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (4, 7))
    orientation = tiff.exif_orientation(_webp_exif(stream, size)) if data[0] & 0x08 else 1
    return Header("webp", width, height, orientation, bool(data[0] & 0x10))


def _webp_exif(stream: BinaryIO, size: int) -> bytes:
    position = 12
    while position + 8 <= size:
        stream.seek(position)
        kind, length = struct.unpack("<4sI", _exactly(stream, 8, "its chunks"))
        if kind == b"EXIF":
            return stream.read(length)
        position += 8 + length + (length & 1)
    return b""


def _bmp(stream: BinaryIO, size: int) -> Header:
    stream.seek(10)
    start, kind = struct.unpack("<II", _exactly(stream, 8, "its header"))
    if kind == 12:
        width, height, _, bits = struct.unpack("<HHHH", _exactly(stream, 8, "its header"))
        compression = 0
    else:
        width, height, _, bits, compression = struct.unpack("<iiHHI", _exactly(stream, 16, "its header"))
    height = abs(height)  # negative: stored from the top
    if compression in (0, 3) and start + (width * bits + 31) // 32 * 4 * height > size:
        raise BadImage("truncated: the pixels end before the picture does")
    return Header("bmp", width, height)


_SPACE = rb"(?:\s|#[^\n]*\n)+"
_PNM_HEADER = re.compile(rb"P([56])" + _SPACE + rb"(\d{1,9})" + _SPACE + rb"(\d{1,9})" + _SPACE + rb"(\d{1,5})\s")


def _pnm(stream: BinaryIO, size: int) -> Header:
    stream.seek(0)
    match = _PNM_HEADER.match(stream.read(4096))
    if match is None:
        raise BadImage("damaged: no PPM or PGM header")
    kind, width, height, largest = (int(group) for group in match.groups())
    if largest not in (255, 65535):
        raise BadImage(f"grey levels up to {largest} are not read: use 255 or 65535")
    channels, depth = (3 if kind == 6 else 1), (1 if largest == 255 else 2)
    if match.end() + width * height * channels * depth > size:
        raise BadImage("truncated: the pixels end before the picture does")
    return Header("pnm", width, height)


def _tiff(stream: BinaryIO, size: int) -> Header:
    directory = tiff.read_directory(stream, size)
    tiff.require_pixels(directory, size)
    return Header(
        "tiff",
        directory.first(tiff.WIDTH),
        directory.first(tiff.HEIGHT),
        directory.orientation,
        directory.first(tiff.EXTRA_SAMPLES) in (1, 2),
        directory.offsets.get(tiff.ORIENTATION),
        directory.order,
    )


def _heif(stream: BinaryIO, size: int) -> Header:
    return Header("heif", *heif.probe(stream))


_FORMATS: tuple[tuple[Callable[[bytes], bool], Callable[[BinaryIO, int], Header]], ...] = (
    (lambda head: head.startswith(b"\xff\xd8\xff"), _jpeg),
    (lambda head: head.startswith(b"\x89PNG\r\n\x1a\n"), _png),
    (lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP", _webp),
    (lambda head: head[:2] == b"BM", _bmp),
    (lambda head: head[:2] in (b"P5", b"P6"), _pnm),
    (lambda head: head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), _tiff),
    (heif.matches, _heif),
)
