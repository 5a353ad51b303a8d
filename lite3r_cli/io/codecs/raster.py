"""Formats with little or no compression: BMP (pixels by Pillow) and PNM (PBM, PGM, PPM)."""

from __future__ import annotations

import re
import struct
from typing import BinaryIO

import numpy as np

from ..regular import BadImage
from .header import Header, aspect_of_density, exactly

_RLE = {1: 8, 2: 4}  # BMP's compression → bits per pixel
_BMP_BITS = (1, 4, 8, 16, 24, 32)
_SPACE = rb"(?:\s|#[^\n]*\n)+"
_PNM_HEADER = re.compile(
    rb"P([14])" + _SPACE + rb"(\d{1,9})" + _SPACE + rb"(\d{1,9})\s"
    rb"|P([2356])" + _SPACE + rb"(\d{1,9})" + _SPACE + rb"(\d{1,9})" + _SPACE + rb"(\d{1,5})\s"
)
_COMMENT = re.compile(rb"#[^\n]*")


def is_bmp(head: bytes) -> bool:
    return head[:2] == b"BM"


def is_pnm(head: bytes) -> bool:
    return re.match(rb"P[1-6](\s|#)", head) is not None


def probe_bmp(stream: BinaryIO, size: int) -> Header:
    """Raises BadImage if the header is damaged or pixels are missing."""
    stream.seek(10)
    start, kind = struct.unpack("<II", exactly(stream, 8, "its header"))
    density, alpha_mask = (1, 1), 0
    if kind == 12:
        width, height, _, bits = struct.unpack("<HHHH", exactly(stream, 8, "its header"))
        compression = 0
    else:
        width, height, _, bits, compression = struct.unpack("<iiHHI", exactly(stream, 16, "its header"))
        density = struct.unpack("<4xii", exactly(stream, 12, "its header"))
        if kind >= 56:
            stream.seek(66)
            (alpha_mask,) = struct.unpack("<I", exactly(stream, 4, "its header"))
    height = abs(height)  # negative: stored from the top
    if bits not in _BMP_BITS or (compression in _RLE and bits != _RLE[compression]):
        raise BadImage(f"BMP with {bits} bits a pixel and compression {compression} is not read: save it as PNG")
    if compression in (0, 3) and start + (width * bits + 31) // 32 * 4 * height > size:
        raise BadImage("truncated: the pixels end before the image does")
    if compression in _RLE:
        _require_runs(stream, start, width, height, compression)
    elif compression not in (0, 3):
        raise BadImage(f"BMP with compression {compression} is not read: save it as PNG")
    alpha = compression == 3 and alpha_mask != 0
    return Header("bmp", width, height, has_alpha=alpha, pixel_aspect=aspect_of_density(*density))


def _require_runs(stream: BinaryIO, start: int, width: int, height: int, compression: int) -> None:
    """Raises BadImage unless the run lengths end where the picture does, because decoders fill in missing pixels."""
    if not 0 < width <= 1 << 20 or height > 1 << 20:
        raise BadImage("damaged: the header gives no size")
    stream.seek(start)
    data = stream.read()
    x = y = at = 0
    while at + 1 < len(data):
        count, value = data[at], data[at + 1]
        at += 2
        if count:
            x += count
        elif value == 0:
            x, y = 0, y + 1
        elif value == 1:
            return
        elif value == 2:
            if at + 1 >= len(data):
                break
            x, y, at = x + data[at], y + data[at + 1], at + 2
        else:
            x += value
            length = value if compression == 1 else (value + 1) // 2
            at += length + (length & 1)
        if x > width or y > height:
            raise BadImage("damaged: the runs of the BMP do not fit the image")
    if y < height - 1 or (y == height - 1 and x < width):
        raise BadImage("truncated: the pixels end before the image does")


def probe_pnm(stream: BinaryIO, size: int) -> Header:
    """Raises BadImage if the header is damaged or pixels are missing."""
    stream.seek(0)
    match = _PNM_HEADER.match(stream.read(4096))
    if match is None:
        raise BadImage("damaged: its PBM, PGM or PPM header is incomplete or has impossible numbers")
    groups = [int(group) for group in match.groups() if group is not None]
    kind, width, height, largest = (*groups, 1) if len(groups) == 3 else groups
    if not 0 < largest < 65536:
        raise BadImage(f"damaged: grey levels up to {largest} do not exist")
    needed = {
        4: (width + 7) // 8 * height,
        5: width * height * (1 + (largest > 255)),
        6: 3 * width * height * (1 + (largest > 255)),
    }.get(kind, 2 * width * height * (3 if kind == 3 else 1) - 1 if kind != 1 else width * height)
    if match.end() + needed > size:
        raise BadImage("truncated: the pixels end before the image does")
    return Header("pnm", width, height, detail=(kind, largest, match.end()))


def decode_pnm(data: bytes, header: Header) -> np.ndarray:
    """(H, W) or (H, W, 3) uint8 or uint16, scaled so that the brightest level is full. Raises BadImage."""
    kind, largest, start = header.detail
    channels = 3 if kind in (3, 6) else 1
    count = header.width * header.height * channels
    if kind == 4:
        rows = np.frombuffer(data, np.uint8, (header.width + 7) // 8 * header.height, start)
        values = 1 - np.unpackbits(rows.reshape(header.height, -1), axis=1)[:, : header.width]
    elif kind in (5, 6):
        values = np.frombuffer(data, np.uint8 if largest < 256 else ">u2", count, start)
    else:
        values = _text_values(_COMMENT.sub(b"", data[start:]), kind, count)
    if values.max(initial=0) > largest:
        raise BadImage("damaged: a pixel is brighter than the header allows")
    values = values.reshape((header.height, header.width, 3) if channels == 3 else (header.height, header.width))
    full = 255 if largest < 256 else 65535
    if largest != full:
        values = (values.astype(np.uint32) * full + largest // 2) // largest
    return np.ascontiguousarray(values, np.uint8 if full == 255 else np.uint16)


def _text_values(text: bytes, kind: int, count: int) -> np.ndarray:
    """Numbers in text form; bits (kind 1, 1 = black) may have no blanks between them."""
    if kind == 1:
        digits = text.translate(None, b" \t\r\n\f\v")
        if digits[:count].strip(b"01"):
            raise BadImage("damaged: something else than 0 and 1 among the pixels")
        values = 49 - np.frombuffer(digits[:count], np.uint8)
    else:
        if text.translate(None, b"0123456789 \t\r\n\f\v"):
            raise BadImage("damaged: something else than numbers among the pixels")
        values = np.fromstring(text.decode("ascii"), np.int64, count, sep=" ")
    if len(values) < count:
        raise BadImage("truncated: the pixels end before the image does")
    return values
