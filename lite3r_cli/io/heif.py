"""HEIC, HEIF and AVIF through the optional package pillow-heif (`pip install 'lite3r[heif]'`)."""

from __future__ import annotations

import io
from typing import BinaryIO

import numpy as np

from .regular import BadImage

SUFFIXES = (".heic", ".heif", ".avif")
_AVIF = (b"avif", b"avis")
_HEIF = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_DECODER_ERRORS = (ValueError, RuntimeError, SyntaxError, OSError, EOFError)  # what both libraries raise


def matches(head: bytes) -> bool:
    """Does a file that starts with these 16 bytes belong here (ISO 14496-12, section 4.3)?"""
    return head[4:8] == b"ftyp" and head[8:12] in _AVIF + _HEIF


def require() -> None:
    """Raises BadImage that names the extra if pillow-heif is not installed."""
    try:
        import pillow_heif  # noqa: F401
    except ImportError as error:
        raise BadImage("HEIC, HEIF and AVIF need an optional package: pip install 'lite3r[heif]'") from error


def probe(stream: BinaryIO) -> tuple[int, int, int, bool]:
    """(width, height, orientation, has_alpha) without decoding the pixels. Raises BadImage."""
    picture = _open(stream)
    if hasattr(picture, "getexif"):
        return *picture.size, picture.getexif().get(274, 1), "A" in picture.mode
    return *picture.size, 1, picture.has_alpha  # libheif has applied the rotation; the EXIF tag only repeats it


def decode(data: bytes) -> np.ndarray:
    """(H, W, 4) uint8 RGBA, in the orientation that `probe` refers to. Raises BadImage."""
    picture = _open(io.BytesIO(data))
    try:
        if not hasattr(picture, "getexif"):
            picture = picture.to_pillow()
        return np.array(picture.convert("RGBA"))
    except _DECODER_ERRORS as error:
        raise BadImage("damaged: the HEIF or AVIF pixels cannot be decoded") from error


def _open(stream: BinaryIO):
    """A lazy pillow_heif.HeifFile, or a lazy Pillow image for AVIF, which libheif's wheels leave out."""
    require()
    import pillow_heif
    from PIL import Image, features

    stream.seek(0)
    is_avif = stream.read(16)[8:12] in _AVIF
    stream.seek(0)
    if is_avif and not features.check("avif"):
        raise BadImage("AVIF needs Pillow 11.3 or newer: pip install --upgrade pillow")
    try:
        return Image.open(stream, formats=("AVIF",)) if is_avif else pillow_heif.open_heif(stream)
    except (*_DECODER_ERRORS, Image.DecompressionBombError) as error:
        raise BadImage("damaged: not a readable HEIF or AVIF file") from error
