"""Pixels by Pillow: PNG, unusual JPEG, BMP, WebP, GIF, JPEG 2000. Every error of Pillow becomes a BadImage."""

from __future__ import annotations

import io
from typing import BinaryIO

import numpy as np

from ..regular import BadImage
from .header import Header
from .pillow_limit import no_limit

_NAMES = {"webp": "WEBP", "gif": "GIF", "jpeg2000": "JPEG2000", "png": "PNG", "bmp": "BMP", "jpeg": "JPEG"}
_KEPT_MODES = ("L", "LA", "I;16", "RGB", "RGBA")
_MODES = {"1": "L"}  # all other modes become RGB


def probe_jpeg2000(stream: BinaryIO, size: int) -> Header:
    """Size and transparency. Raises BadImage."""
    with _opened(stream, "jpeg2000") as image:
        width, height = image.size
        return Header("jpeg2000", width, height, has_alpha="A" in image.mode or "transparency" in image.info)


def decode(data: bytes, header: Header) -> np.ndarray:
    """(H, W), (H, W, 2), (H, W, 3) or (H, W, 4) uint8 or uint16 of the first picture. Raises BadImage."""
    name = _NAMES[header.format]
    with _opened(io.BytesIO(data), header.format) as image:
        try:
            image.load()
            if "transparency" in image.info or image.mode in ("PA", "La", "RGBa"):
                return np.array(image.convert("RGBA"))
            return np.array(image if image.mode in _KEPT_MODES else image.convert(_MODES.get(image.mode, "RGB")))
        except MemoryError:
            raise
        except Exception as error:
            raise BadImage(f"damaged: the {name} pixels cannot be decoded ({_short(error)})") from error


def _opened(stream: BinaryIO, kind: str):
    from PIL import Image

    stream.seek(0)
    try:
        with no_limit():
            return Image.open(stream, formats=(_NAMES[kind],))
    except Exception as error:  # Pillow's parsers raise many types, MemoryError for a length beyond the file
        raise BadImage(f"damaged: not a readable {_NAMES[kind]} file") from error


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:80] or type(error).__name__
