"""Strips and tiles of a TIFF file, decompressed. Each must give exactly the number of bytes that the directory states.

Deflate and LZMA are Python's, JPEG is libjpeg-turbo's. FFmpeg decodes LZW, PackBits and fax codes, each group of strips
as a separate grey TIFF file: it is strict and silent, and supports all of them.
"""

from __future__ import annotations

import io
import lzma
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..regular import BadImage
from . import jpeg

if TYPE_CHECKING:
    from .tiff import StripLayout

_PLAIN, _JPEG, _DEFLATE, _LZMA = 1, 7, (8, 32946), 34925
_FAX, _LZW, _PACKBITS = (2, 3, 4), 5, 32773
_BY_FFMPEG = (*_FAX, _LZW, _PACKBITS)
_UNREAD = {
    6: "old-style JPEG", 34712: "JPEG 2000", 50000: "Zstandard", 50001: "WebP", 50002: "JPEG XL", 34892: "lossy JPEG",
    32908: "PIXAR", 34676: "SGILog", 34677: "SGILog", 34887: "LERC", 52546: "JPEG XL",
}  # fmt: skip
_GROUP = 1 << 24  # bytes per call of FFmpeg
_DAMAGED = "damaged: the pixels of the TIFF cannot be decompressed"


@dataclass(frozen=True)
class Packing:
    """The storage of the bytes of a strip."""

    compression: int
    predictor: int
    reversed_bits: bool
    tables: bytes  # JPEG tables of all strips
    fax_options: int

    @property
    def is_jpeg(self) -> bool:
        return self.compression == _JPEG

    @property
    def is_plain(self) -> bool:
        return self.compression == _PLAIN


def packing(compression: int, predictor: int, fill_order: int, tables: Sequence[int], fax_options: int) -> Packing:
    """Raises BadImage that names an unsupported compression."""
    known = (_PLAIN, _JPEG, *_DEFLATE, _LZMA, *_BY_FFMPEG)
    if compression not in known:
        name = _UNREAD.get(compression, f"number {compression}")
        raise BadImage(f"TIFF compressed as {name} is not read: save it with LZW or deflate, or as PNG")
    if predictor not in (1, 2):
        raise BadImage(f"TIFF with predictor {predictor} is not read: save it without one, or as PNG")
    return Packing(compression, predictor, fill_order == 2, bytes(value & 255 for value in tables), fax_options)


def unpacked(data: bytes, layout: StripLayout, shapes: Sequence[tuple[int, int, int]]) -> Iterator[np.ndarray]:
    """The blocks of the picture, (rows, columns, samples) uint8 or uint16 of the given shapes. Raises BadImage."""
    packed = [data[start : start + length] for start, length in zip(layout.offsets, layout.lengths)]
    if layout.packing.is_jpeg:
        for block, shape in zip(packed, shapes):
            yield _jpeg_block(block, layout, shape)
        return
    sizes = [rows * ((columns * depth * layout.bits + 7) // 8) for rows, columns, depth in shapes]
    for raw, shape in zip(_raw(packed, layout, shapes, sizes), shapes):
        yield _block(raw, layout, shape)


def _raw(
    packed: Sequence[bytes], layout: StripLayout, shapes: Sequence[tuple], sizes: Sequence[int]
) -> Iterator[bytes]:
    method = layout.packing.compression
    if layout.packing.reversed_bits:
        packed = [block.translate(_REVERSED) for block in packed]
    if method in _BY_FFMPEG:
        yield from _by_ffmpeg(packed, layout, shapes, sizes)
        return
    for block, size in zip(packed, sizes):
        raw = block[:size]
        try:
            if method in _DEFLATE:
                raw = _inflated(block, size)
            elif method == _LZMA:
                raw = _unlzma(block, size)
        except (zlib.error, lzma.LZMAError) as error:
            raise BadImage(f"{_DAMAGED} ({error})") from error
        if len(raw) < size:
            raise BadImage(_DAMAGED if method != _PLAIN else "truncated: a strip of the TIFF is too short")
        yield raw


def _inflated(block: bytes, size: int) -> bytes:
    unpack = zlib.decompressobj()
    raw = unpack.decompress(block, size)
    if not unpack.eof:  # the checksum follows the last byte
        unpack.decompress(unpack.unconsumed_tail, 64)
    return raw if unpack.eof else b""


def _unlzma(block: bytes, size: int) -> bytes:
    unpack = lzma.LZMADecompressor()
    raw = unpack.decompress(block, size)
    if not unpack.eof:
        unpack.decompress(b"", 64)
    return raw if unpack.eof else b""


def _block(raw: bytes, layout: StripLayout, shape: tuple[int, int, int]) -> np.ndarray:
    rows, columns, _ = shape
    values: np.ndarray
    if layout.bits == 16:
        values = np.frombuffer(raw, layout.order + "u2").astype(np.uint16).reshape(shape)
    elif layout.bits == 8:
        values = np.frombuffer(raw, np.uint8).reshape(shape)
    else:
        bits = np.unpackbits(np.frombuffer(raw, np.uint8).reshape(rows, -1), axis=1)
        bits = bits[:, : bits.shape[1] // layout.bits * layout.bits].reshape(rows, -1, layout.bits)
        weights = (1 << np.arange(layout.bits)[::-1]).astype(np.uint8)
        values = (bits * weights).sum(2, dtype=np.uint8)[:, :columns, None]
    if layout.packing.predictor == 2 and layout.bits >= 8:
        values = np.cumsum(values, axis=1, dtype=values.dtype)
    return values


def _jpeg_block(block: bytes, layout: StripLayout, shape: tuple[int, int, int]) -> np.ndarray:
    """A strip as a JPEG file, which may lack its tables; its colour space is that of the directory."""
    from .tiff import CMYK, YCBCR

    rows, columns, depth = shape
    tables = layout.packing.tables
    if tables:
        block = tables.removesuffix(jpeg.END) + block.removeprefix(jpeg.START)
    colours = {1: "GRAY", 4: "CMYK"}.get(depth, "RGB")
    if layout.photometric == CMYK or (depth == 3 and layout.photometric != YCBCR):
        block = block[:2] + _ADOBE_PLAIN + block[2:]  # otherwise libjpeg treats three components as YCbCr
    elif layout.photometric == YCBCR:
        block = block[:2] + _ADOBE_YCBCR + block[2:]
    pixels = jpeg.strictly(block, colours)
    if pixels.shape[0] < rows or pixels.shape[1] < columns or pixels.shape[2] != depth:
        raise BadImage(_DAMAGED)
    return pixels[:rows, :columns]


_ADOBE_PLAIN = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0"
_ADOBE_YCBCR = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\x01"
_REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


# --- through FFmpeg ---------------------------------------------------------------------------------------------------


def _by_ffmpeg(
    packed: Sequence[bytes], layout: StripLayout, shapes: Sequence[tuple], sizes: Sequence[int]
) -> Iterator[bytes]:
    """Groups of blocks with equal numbers of rows become the strips of one grey picture."""
    start = 0
    while start < len(packed):
        end, total = start, 0
        while end < len(packed) and shapes[end][0] == shapes[start][0] and (end == start or total < _GROUP):
            total += sizes[end]
            end += 1
        if total:
            yield from _decoded_group(packed[start:end], layout, shapes[start], sizes[start])
        start = end


def _decoded_group(
    packed: Sequence[bytes], layout: StripLayout, shape: tuple[int, int, int], size: int
) -> Iterator[bytes]:
    import av

    rows, columns, depth = shape
    fax = layout.packing.compression in _FAX
    row_bytes = (columns * depth * layout.bits + 7) // 8
    width = columns if fax else row_bytes
    data = _strips_as_file(packed, layout.packing, width, rows, 1 if fax else 8)
    try:
        with av.open(io.BytesIO(data), "r", format="tiff_pipe") as container:
            container.streams.video[0].codec_context.options = {"err_detect": "explode"}
            frame = next(container.decode(video=0))
    except (av.FFmpegError, StopIteration) as error:
        raise BadImage(_DAMAGED) from error
    if (frame.width, frame.height) != (width, rows * len(packed)):
        raise BadImage(_DAMAGED)
    plane = frame.planes[0]
    picture = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[: frame.height, :row_bytes]
    for i in range(len(packed)):
        yield picture[i * rows : (i + 1) * rows].tobytes()


def _strips_as_file(packed: Sequence[bytes], how: Packing, width: int, rows: int, bits: int) -> bytes:
    """A little-endian TIFF file of one grey picture whose strips are `packed`."""
    count = len(packed)
    entries = [
        (256, 4, 1, width), (257, 4, 1, rows * count), (258, 3, 1, bits), (259, 3, 1, how.compression), (262, 3, 1, 1),
        (273, 4, count, 0), (277, 3, 1, 1), (278, 4, 1, rows), (279, 4, count, 0), (292, 4, 1, how.fax_options),
    ]  # fmt: skip
    tables = 8 + 2 + 12 * len(entries) + 4
    lengths = [len(block) for block in packed]
    starts = np.cumsum([tables + 8 * count, *lengths])[:-1].tolist()
    at = {273: tables if count > 1 else starts[0], 279: tables + 4 * count if count > 1 else lengths[0]}
    head = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    head += b"".join(struct.pack("<HHII", tag, kind, n, at.get(tag, value)) for tag, kind, n, value in entries)
    head += struct.pack("<I", 0) + struct.pack(f"<{2 * count}I", *starts, *lengths)
    return head + b"".join(packed)
