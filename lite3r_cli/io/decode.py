"""Decodes the bytes of an image file to upright 8-bit arrays. Damage that a decoder detects raises BadImage."""

from __future__ import annotations

import io
from dataclasses import dataclass

import cv2
import numpy as np

from .codecs import jpeg
from .codecs.header import Header
from .probe import FORMATS, probe
from .regular import BadImage, guarded

# EXIF orientation → (transpose first?, cv2.flip code or None), EXIF 2.32 section 4.6.4
_TURNS = {
    1: (False, None),
    2: (False, 1),
    3: (False, -1),
    4: (False, 0),
    5: (True, None),
    6: (True, 1),
    7: (True, -1),
    8: (True, 0),
}


@dataclass(frozen=True)
class Picture:
    """A decoded, upright image."""

    rgb: np.ndarray  # (H, W, 3) uint8; transparent pixels keep their stored colour
    opaque: np.ndarray | None  # (H, W) bool: alpha is at least one half; None if all pixels are opaque
    header: Header


def decode(data: bytes, least: tuple[int, int] | None = None) -> Picture:
    """Decode an image file: grey, palette and CMYK become RGB; 16 bits are scaled to 8.

    `least` (height, width), upright, allows a reduced image of at least this size if the decoder can produce it faster.
    Raises BadImage if the file is truncated, damaged or unsupported.
    """
    pixels, header = _stored(data, least)
    colour, alpha = _split(_to_8_bit(pixels))
    rgb = cv2.cvtColor(colour, cv2.COLOR_GRAY2RGB) if colour.ndim == 2 else colour
    opaque = None
    if alpha is not None and (alpha < 128).any():
        opaque = upright(alpha, header.orientation) >= 128
    return Picture(upright(rgb, header.orientation), opaque, header)


def decode_rgb(data: bytes) -> tuple[np.ndarray, Header]:
    """(H, W, 3) uint8 RGB, upright, and the header. Raises BadImage, see `decode`."""
    picture = decode(data)
    return picture.rgb, picture.header


def decode_mask(data: bytes) -> tuple[np.ndarray, Header]:
    """(H, W) bool, upright: True where a mask image is neither black (level 0) nor transparent; and its header.

    Raises BadImage, see `decode`.
    """
    pixels, header = _stored(data)
    colour, alpha = _split(pixels)
    used = colour > 0
    if colour.ndim == 3:
        used = np.any(used, axis=2)
    if alpha is not None:
        used &= alpha > np.iinfo(alpha.dtype).max // 2
    return upright(used.astype(np.uint8), header.orientation).astype(bool), header


def _stored(data: bytes, least: tuple[int, int] | None = None) -> tuple[np.ndarray, Header]:
    """Pixels as stored, not rotated, grey or RGB, followed by alpha if there is any."""
    header = probe(io.BytesIO(data))
    reduced = header.format == "jpeg" and least is not None
    with guarded(f"damaged: the {header.format.upper()} pixels cannot be decoded"):
        if header.format == "jpeg" and least is not None:
            turned = _TURNS[header.orientation][0]
            pixels = jpeg.decode(data, header, least[::-1] if turned else least)
        else:
            pixels = FORMATS[header.format].decode(data, header)
        whole = pixels.shape[:2] == (header.height, header.width)
        if not (whole or reduced) or pixels.dtype not in (np.uint8, np.uint16):
            raise BadImage(f"damaged: the {header.format.upper()} pixels cannot be decoded")
    return pixels, header


def _split(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Colour (H, W) or (H, W, 3), and alpha (H, W) or None."""
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if channels in (2, 4):
        colour = pixels[..., 0] if channels == 2 else pixels[..., :3]
        return np.ascontiguousarray(colour), np.ascontiguousarray(pixels[..., -1])
    return (pixels[..., 0] if channels == 1 and pixels.ndim == 3 else pixels), None


def _to_8_bit(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    return cv2.convertScaleAbs(pixels, alpha=255 / 65535)  # 65535 → 255: scaled, not clipped


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Stored pixels rotated by an EXIF orientation, contiguous."""
    transpose, flip = _TURNS[orientation]
    if transpose:
        pixels = cv2.transpose(pixels)
    if flip is not None:
        pixels = cv2.flip(pixels, flip)
    return np.ascontiguousarray(pixels)
