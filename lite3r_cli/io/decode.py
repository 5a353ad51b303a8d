"""Bytes of a picture → 8-bit arrays, upright: the only place that knows OpenCV's decoder."""

from __future__ import annotations

import io

import cv2
import numpy as np

from . import heif
from .probe import Header, probe
from .regular import BadImage

# Our own one-line reasons replace OpenCV's chatter about files it cannot read.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

_COLOR = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
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


def decode_rgb(data: bytes) -> tuple[np.ndarray, Header]:
    """(H, W, 3) uint8 RGB, upright, and the header of an encoded picture.

    Grey, palette, CMYK and transparent pictures become RGB (what is transparent keeps its stored colour); 16 bits are
    scaled to 8. Raises BadImage if the picture is cut off, damaged or of a kind that is not read.
    """
    header = probe(io.BytesIO(data))
    if header.format == "heif":
        return upright(heif.decode(data)[..., :3], header.orientation), header
    pixels = cv2.cvtColor(_to_8_bit(_decode(data, header, _COLOR)), cv2.COLOR_BGR2RGB)
    return upright(pixels, header.orientation), header


def decode_opaque(data: bytes) -> np.ndarray | None:
    """(H, W) bool, upright: True where alpha is at least one half; None if every pixel is. Raises BadImage."""
    header = probe(io.BytesIO(data))
    if not header.has_alpha:
        return None
    pixels = heif.decode(data) if header.format == "heif" else _decode(data, header, cv2.IMREAD_UNCHANGED)
    if pixels.ndim != 3 or pixels.shape[2] != 4:
        return None  # the decoder found every pixel opaque and dropped the channel
    opaque = upright(_to_8_bit(pixels[..., 3]), header.orientation) >= 128
    return None if opaque.all() else opaque


def decode_mask(data: bytes) -> tuple[np.ndarray, Header]:
    """(H, W) bool, upright: True where a mask picture is not black (level 0), and its header. Raises BadImage."""
    header = probe(io.BytesIO(data))
    if header.format == "heif":
        pixels = heif.decode(data)[..., :3]
    else:
        pixels = _decode(data, header, _COLOR)
    return upright((pixels > 0).any(axis=2).astype(np.uint8), header.orientation).astype(bool), header


def _decode(data: bytes, header: Header, flags: int) -> np.ndarray:
    """Pixels as stored, not turned, in OpenCV's channel order."""
    buffer = np.frombuffer(data, np.uint8)
    if header.orientation_at is not None:
        # OpenCV always turns TIFF files itself; with the tag set to "upright" the turn is ours for every format.
        buffer = buffer.copy()
        buffer[header.orientation_at : header.orientation_at + 2] = (1, 0) if header.byte_order == "<" else (0, 1)
    try:
        pixels = cv2.imdecode(buffer, flags)
    except cv2.error as error:
        raise BadImage(f"damaged: the {header.format.upper()} pixels cannot be decoded") from error
    if pixels is None or pixels.shape[:2] != (header.height, header.width):
        raise BadImage(f"damaged: the {header.format.upper()} pixels cannot be decoded")
    return pixels


def _to_8_bit(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype != np.uint16:
        raise BadImage(f"{pixels.dtype} pixels are not read: save it with 8 or 16 bits")
    return cv2.convertScaleAbs(pixels, alpha=255 / 65535)  # 65535 → 255: scaled, not clipped


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Stored pixels turned by an EXIF orientation, contiguous."""
    transpose, flip = _TURNS[orientation]
    if transpose:
        pixels = cv2.transpose(pixels)
    if flip is not None:
        pixels = cv2.flip(pixels, flip)
    return np.ascontiguousarray(pixels)
