"""PNG (ISO 15948): the chunks of a file with their checksums, and its pixels by OpenCV.

The decoder only gets the chunks that pixels need, because it prints warnings about others.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

import cv2
import numpy as np

from ..quiet import quiet_opencv
from ..regular import BadImage
from . import exif_block, through_pillow
from .header import Header, aspect_of_density, exactly

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGBA = 0, 2, 3, 4, 6
_CHANNELS = {GREY: 1, _RGB: 3, _PALETTE: 1, _GREY_ALPHA: 2, _RGBA: 4}
_DEPTHS = {GREY: (1, 2, 4, 8, 16), _PALETTE: (1, 2, 4, 8), _RGB: (8, 16), _GREY_ALPHA: (8, 16), _RGBA: (8, 16)}
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))  # Adam7
_METADATA = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
_LONGEST_METADATA = 1 << 24
_EXIF_TEXTS = (b"Raw profile type exif", b"Raw profile type APP1")
_MOST_DECODED_TO_PROBE = 200_000_000  # pixels
_MOST_UNPACKED = 1 << 30  # bytes; decoding takes three times as much memory, and several images are decoded at once


@dataclass(frozen=True)
class Kind:
    """Format of the pixels."""

    depth: int
    colour: int
    interlaced: bool


def matches(head: bytes) -> bool:
    return head.startswith(SIGNATURE)


def _chunks(stream: BinaryIO, size: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start of the content, its length) of all chunks up to IEND. Raises BadImage."""
    position = len(SIGNATURE)
    while True:
        stream.seek(position)
        length, kind = struct.unpack(">I4s", exactly(stream, 8, "its chunks, before IEND"))
        if position == len(SIGNATURE) and kind != b"IHDR":
            raise BadImage("damaged: a PNG that does not start with IHDR")
        if position + 12 + length > size:
            raise BadImage(f"truncated: the file ends inside PNG chunk {kind.decode('latin-1')!r}")
        yield kind, position + 8, length
        if kind == b"IEND":
            return
        position += 12 + length


def _sound_chunks(stream: BinaryIO, size: int) -> Iterator[tuple[bytes, int, int]]:
    """The chunks of a file that may lack its end: the last one is b"" without IEND."""
    begun = False
    chunks = _chunks(stream, size)
    while True:
        try:
            chunk = next(chunks)
        except StopIteration:
            return
        except BadImage:
            if not begun:
                raise
            yield b"", size, 0
            return
        begun |= chunk[0] == b"IDAT"
        yield chunk


def probe(stream: BinaryIO, size: int) -> Header:
    """Size, kind of pixels, orientation, pixel aspect, number of pictures. Raises BadImage."""
    width = height = 0
    kind = Kind(8, _RGB, False)
    orientation, aspect, transparent, frames, whole = None, 1.0, False, 0, True
    for name, start, length in _sound_chunks(stream, size):
        stream.seek(start)
        if name == b"IHDR" and not width:
            width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", exactly(stream, 13, "IHDR"))
            if depth not in _DEPTHS.get(colour, ()) or interlace > 1:
                raise BadImage("damaged: a PNG of a kind that does not exist")
            kind = Kind(depth, colour, bool(interlace))
            _require_decodable(width, height, kind)
        elif name == b"eXIf" and orientation is None and length <= _LONGEST_METADATA:
            orientation = exif_block.read(stream.read(length)).orientation
        elif name in (b"tEXt", b"zTXt") and orientation is None and length <= _LONGEST_METADATA:
            orientation = exif_block.read(_exif_in_text(stream.read(length), name == b"zTXt")).orientation
        elif name == b"pHYs" and length == 9:
            aspect = aspect_of_density(*struct.unpack(">II", stream.read(8)))
        frames += name == b"fcTL"  # of an animation; acTL may be wrong
        transparent |= name == b"tRNS"
        whole &= name != b""
    alpha = kind.colour in (_GREY_ALPHA, _RGBA) or transparent
    header = Header("png", width, height, orientation or 1, alpha, aspect, max(1, frames), kind)
    if not whole:
        _require_whole(stream, header)
    return header


def without_pixels(stream: BinaryIO, size: int) -> tuple[bytes, tuple[int, int]]:
    """A PNG of one pixel with the metadata of a file, and the file's own width and height. Raises BadImage.

    Pillow decodes all pixels of a PNG before it answers a question about EXIF, in the size of the last IHDR chunk.
    Chunks with wrong checksums, and metadata beyond 16 MiB, are left out.
    """
    parts = [SIGNATURE, chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, GREY, 0, 0, 0))]
    width, height, total = 0, 0, 0
    for name, start, length in _sound_chunks(stream, size):
        if name == b"IHDR" and not width:
            stream.seek(start)
            width, height = struct.unpack(">II", exactly(stream, 8, "IHDR"))
        elif name in _METADATA and total + length <= _LONGEST_METADATA:
            stream.seek(start - 4)
            content = stream.read(4 + length)
            if zlib.crc32(content) == struct.unpack(">I", exactly(stream, 4, "a checksum"))[0]:
                parts.append(chunk(name, content[4:]))
                total += length
    parts += [chunk(b"IDAT", zlib.compress(bytes(2))), chunk(b"IEND", b"")]
    return b"".join(parts), (width, height)


def _exif_in_text(chunk: bytes, packed: bool) -> bytes:
    """The EXIF block that ImageMagick 6 and others write as hexadecimal digits in a text chunk; b"" if
    there is none.
    """
    keyword, _, text = chunk.partition(b"\0")
    if keyword not in _EXIF_TEXTS:
        return b""
    try:
        if packed:
            text = zlib.decompressobj().decompress(text[1:], _LONGEST_METADATA)
        return bytes.fromhex(text.decode("ascii").split(maxsplit=2)[2])  # after its name and its length
    except (zlib.error, ValueError, IndexError):
        return b""


def _require_decodable(width: int, height: int, kind: Kind) -> None:
    bits = kind.depth * _CHANNELS[kind.colour]
    if width * height * bits // 8 > _MOST_UNPACKED:
        size = f"{width}×{height} pixels of {bits} bits are {width * height * bits / 8 / 2**30:.1f} GiB"
        raise BadImage(f"{size}, more than the {_MOST_UNPACKED >> 30} GiB that are decoded: make it smaller")


def _require_whole(stream: BinaryIO, header: Header) -> None:
    """Without the last chunk only the decoder can tell whether all pixels are there."""
    if header.width * header.height > _MOST_DECODED_TO_PROBE:
        return
    stream.seek(0)
    try:
        decode(stream.read(), header)
    except BadImage as error:
        raise BadImage("truncated: the PNG ends before its last pixels") from error


def decode(data: bytes, header: Header) -> np.ndarray:
    """(H, W) to (H, W, 4) uint8 or uint16, grey or RGB, with or without alpha. Raises BadImage, also for a wrong
    checksum.
    """
    parts: dict[bytes, list[bytes]] = {name: [] for name in _NEEDED}
    for name, start, length in _sound_chunks(io.BytesIO(data), len(data)):
        if name[0:1].isupper() or name == b"tRNS":
            whole = data[start - 8 : start + length + 4]
            if zlib.crc32(whole[4:-4]) != struct.unpack(">I", whole[-4:])[0]:
                raise BadImage(f"damaged: the checksum of PNG chunk {name.decode('latin-1')!r} is wrong")
            if name in parts and (name == b"IDAT" or not parts[name]):
                parts[name].append(whole)
    kind: Kind = header.detail
    parts[b"IDAT"] = [chunk(b"IDAT", zlib.compress(_rows(parts[b"IDAT"], header), 0))]  # stored: inflated only once
    parts[b"IEND"] = [chunk(b"IEND", b"")]
    if kind.colour != _PALETTE:
        parts[b"PLTE"] = []  # a suggestion for displays; libpng prints a warning if it is damaged
    transparency = parts[b"tRNS"]
    if (kind.depth, kind.colour) == (16, GREY):
        parts[b"tRNS"] = []  # with it Pillow would convert to 8 bits
    reduced = SIGNATURE + b"".join(whole for name in _NEEDED for whole in parts[name])
    if kind.depth < 16:
        return through_pillow.decode(reduced, header)
    if kind.colour == GREY:
        return _with_level(through_pillow.decode(reduced, header), transparency)
    return _deep(reduced)


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk of a file, with its length and checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))


def _with_level(grey: np.ndarray, transparency: list[bytes]) -> np.ndarray:
    """Grey and alpha for a transparent one of 65536 levels."""
    if not transparency or len(transparency[0]) < 14:
        return grey
    (level,) = struct.unpack_from(">H", transparency[0], 8)
    return np.dstack([grey, np.where(grey == level, 0, 65535).astype(np.uint16)])


def _deep(reduced: bytes) -> np.ndarray:
    """16-bit images with several channels by OpenCV, because Pillow rounds them to 8 bits."""
    pixels = None
    with quiet_opencv(), suppress(cv2.error):  # raised for a size beyond OpenCV's limits
        pixels = cv2.imdecode(np.frombuffer(reduced, np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None or pixels.ndim != 3:
        limits = [name for name in os.environ if name.startswith("OPENCV_IO_MAX_IMAGE_")]
        if limits:
            raise BadImage(f"OpenCV does not decode the PNG pixels; {limits[0]} in the environment limits it: unset it")
        raise BadImage("damaged: the PNG pixels cannot be decoded")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)


def _rows(chunks: list[bytes], header: Header) -> bytes:
    """The filtered rows. Raises BadImage unless they are complete, as many as the picture has, and of known filters.

    Pillow ignores missing rows, and libpng prints messages.
    """
    kind: Kind = header.detail
    bits = kind.depth * _CHANNELS[kind.colour]
    passes = [(header.width, header.height)]
    if kind.interlaced:
        spans = [(header.width - x, header.height - y, dx, dy) for x, y, dx, dy in _PASSES]
        passes = [(-(-w // dx), -(-h // dy)) for w, h, dx, dy in spans if w > 0 and h > 0]
    strides = [1 + (width * bits + 7) // 8 for width, _ in passes]
    needed = sum(stride * height for stride, (_, height) in zip(strides, passes))
    unpack = zlib.decompressobj()
    try:
        rows = unpack.decompress(b"".join(whole[8:-4] for whole in chunks), needed)
        while not unpack.eof and unpack.unconsumed_tail:  # the checksum follows the last byte
            unpack.decompress(unpack.unconsumed_tail, 1 << 16)
    except zlib.error as error:
        raise BadImage(f"damaged: the PNG pixels cannot be decompressed ({error})") from error
    if len(rows) < needed or not unpack.eof:
        raise BadImage("damaged: the PNG holds fewer pixels than its header says")
    at = 0
    for stride, (_, height) in zip(strides, passes):
        if max(rows[at : at + stride * height : stride]) > 4:
            raise BadImage("damaged: a PNG row is filtered in no known way")
        at += stride * height
    return rows
