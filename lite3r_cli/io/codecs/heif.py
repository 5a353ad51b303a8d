"""HEIC, HEIF and AVIF through the optional package pillow-heif (`pip install 'lite3r[heif]'`)."""

from __future__ import annotations

import io
import re
from typing import BinaryIO

import numpy as np

from ..regular import BadImage
from . import iso_media
from .header import Header
from .pillow_limit import no_limit

SUFFIXES = (".heic", ".heif", ".avif", ".hif")
_AVIF = (b"avif", b"avis")
_HEIF = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_CODED = (b"hvc1", b"av01")
# Two zeros and a third small byte never occur in HEVC data (ISO 23008-2, section 7.4.2: a 3 is inserted).
_NO_HEVC = re.compile(rb"\0\0[\0\1\2]")
_SMALL = 1 << 25  # pixels: decoded without further checks
_MOST_PIXELS_A_BYTE = 1 << 15  # of a file: a blank picture has fewer
# Arithmetic codes look random: an intact file has no long run of one byte.
_HOLE = re.compile(rb"(\0{64}|\xff{64})")


def matches(head: bytes) -> bool:
    """Whether a file with these first 16 bytes is HEIF or AVIF (ISO 14496-12, section 4.3)."""
    return head[4:8] == b"ftyp" and head[8:12] in _AVIF + _HEIF


def require() -> None:
    """Raises BadImage that names the extra if pillow-heif is not installed."""
    try:
        import pillow_heif  # noqa: F401
    except ImportError as error:
        raise BadImage("HEIC, HEIF and AVIF need an optional package: pip install 'lite3r[heif]'") from error


def probe(stream: BinaryIO, size: int) -> Header:
    """Size, orientation, alpha and number of pictures, without decoding. Raises BadImage."""
    picture = _open(stream)
    width, height = picture.size
    if width * height > max(_SMALL, size * _MOST_PIXELS_A_BYTE):
        raise BadImage(f"damaged: {size} bytes hold no image of {width}×{height} pixels")
    if hasattr(picture, "getexif"):
        frames = getattr(picture, "n_frames", 1)
        return Header("heif", width, height, _orientation(picture), "A" in picture.mode, pictures=frames)
    # libheif has applied the rotation; the EXIF tag only repeats it
    return Header("heif", width, height, has_alpha=picture.has_alpha, pictures=len(picture))


def _orientation(picture) -> int:
    value = picture.getexif().get(274, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def decode(data: bytes, header: Header) -> np.ndarray:
    """(H, W, 4) uint8 RGBA, in the orientation of `probe`. Raises BadImage."""
    _require_no_hole(data)
    picture = _open(io.BytesIO(data))
    try:
        if not hasattr(picture, "getexif"):
            picture = picture.to_pillow()
        return np.array(picture.convert("RGBA"))
    except MemoryError:
        raise
    except Exception as error:  # both libraries raise many types
        raise BadImage("damaged: the HEIF or AVIF pixels cannot be decoded") from error


def _require_no_hole(data: bytes) -> None:
    """Raises BadImage for bytes in the coded pictures that no encoder writes, because decoders fill in the missing
    pixels.
    """
    types = iso_media.item_types(data)
    for item, extents in iso_media.item_extents(data).items():
        kind = types.get(item)
        if kind not in _CODED:
            continue
        for start, length in extents:
            coded = data[start : start + length]
            if _HOLE.search(coded) or (kind == b"hvc1" and any(map(_NO_HEVC.search, _nal_units(coded)))):
                raise BadImage("damaged: the coded image has a hole")


def _nal_units(coded: bytes):
    """The units of an HEVC item, each behind its length in four bytes."""
    at = 0
    while at + 4 <= len(coded):
        length = int.from_bytes(coded[at : at + 4], "big")
        yield coded[at + 4 : at + 4 + length].rstrip(b"\0")  # trailing zeros are allowed
        at += 4 + length


def _open(stream: BinaryIO):
    """A lazy pillow_heif.HeifFile, or a lazy Pillow image for AVIF, which libheif's wheels lack."""
    require()
    import pillow_heif
    from PIL import Image, features

    stream.seek(0)
    is_avif = stream.read(16)[8:12] in _AVIF
    stream.seek(0)
    if is_avif and not features.check("avif"):
        raise BadImage("AVIF needs Pillow 11.3 or newer: pip install --upgrade pillow")
    try:
        with no_limit():
            return Image.open(stream, formats=("AVIF",)) if is_avif else pillow_heif.open_heif(stream)
    except MemoryError:
        raise
    except Exception as error:
        raise BadImage("damaged: not a readable HEIF or AVIF file") from error
