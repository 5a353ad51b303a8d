"""The parts of a fuzzed reader, and the valid images that cases start from."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from structure import exif_block

Files = dict[str, bytes]


@dataclass(frozen=True)
class Reader:
    """`make` gives the files of one case, `read` reads them from a folder and returns what is unsound, or None."""

    make: Callable[[random.Random], Files]
    read: Callable[[Path], str | None]
    weight: int = 1  # share of the cases


def picture(channels: int = 3, width: int = 48, height: int = 36) -> np.ndarray:
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:height, :width]
    waves = np.stack([x * 5 + 40 * c + y * 3 for c in range(channels)], -1)
    return ((waves + rng.integers(0, 9, waves.shape)) % 256).astype(np.uint8)


@cache
def corpus(kind: str) -> tuple[bytes, ...]:
    """Small valid files of a format."""
    import cv2
    from PIL import Image

    rgb, rgba, grey = Image.fromarray(picture()), Image.fromarray(picture(4)), Image.fromarray(picture()[..., 0])
    exif = b"Exif\0\0" + exif_block(random.Random("corpus"))

    def saved(image, kind=kind, **options) -> bytes:
        stream = io.BytesIO()
        image.save(stream, kind, **options)
        return stream.getvalue()

    if kind == "HEIF":
        import pillow_heif

        pillow_heif.register_heif_opener()
    deep = cv2.imencode(".png", picture().astype(np.uint16) * 257)[1].tobytes()
    compressions = ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "lzma")
    made: dict[str, Callable[[], list[bytes]]] = {
        "JPEG": lambda: [
            *(saved(rgb, **o) for o in ({}, {"progressive": True, "exif": exif}, {"subsampling": 2, "exif": exif})),
            *(saved(grey), saved(rgb.convert("CMYK")), saved(rgb, "MPO", save_all=True, append_images=[rgb])),
        ],
        "PNG": lambda: [
            *(saved(rgb, exif=exif), saved(rgba), saved(grey), saved(rgb.quantize(16), transparency=3), deep),
            *(saved(grey.convert("1")), saved(grey, transparency=7), saved(rgb, save_all=True, append_images=[grey])),
        ],
        "TIFF": lambda: [
            *(saved(rgb, compression=c) for c in compressions),
            *(saved(grey.convert("1"), compression=c) for c in ("group3", "group4")),
            *(
                saved(rgb),
                saved(rgba),
                saved(rgb.quantize(8)),
                saved(rgb, tiffinfo={274: 6}),
                saved(rgb.convert("CMYK")),
            ),
            saved(rgb, save_all=True, append_images=[grey]),
        ],
        "WEBP": lambda: [saved(rgb), saved(rgba, lossless=True), saved(rgba, exif=exif), saved(rgb, lossless=True)],
        "BMP": lambda: [saved(rgb), saved(grey), saved(rgb.quantize(16)), saved(grey.convert("1")), saved(rgba)],
        "PPM": lambda: [
            *(saved(rgb), saved(grey), b"P5\n# c\n20 20\n65535\n" + bytes(800)),
            *(b"P2\n20 20\n9\n" + b"1 2 3 4 " * 100, b"P1 20 20\n" + b"01" * 200, b"P4\n20 20\n" + bytes(60)),
        ],
        "GIF": lambda: [saved(rgb), saved(rgb, save_all=True, append_images=[grey]), saved(grey, transparency=3)],
        "JPEG2000": lambda: [saved(rgb), saved(rgba), saved(grey, irreversible=True)],
        "HEIF": lambda: [saved(rgb, quality=50), saved(rgba, quality=50, exif=exif[6:]), saved(rgb, quality=30)],
        "AVIF": lambda: [saved(rgb, quality=50), saved(rgba, quality=50, exif=exif), saved(rgb, quality=30)],
    }
    return tuple(made[kind]())


@cache
def photo_exif() -> bytes:
    """An EXIF block as of a drone: camera, lens, focal length, density on the sensor, size, and a GPS fix."""
    from PIL import Image

    exif = Image.Exif()
    exif[271], exif[272], exif[274], exif[306] = "DJI", "FC6310", 1, "2026:11:28 10:00:00"
    exif.get_ifd(0x8769).update({0x920A: 8.8, 0xA405: 24, 0xA20E: 500.0, 0xA210: 4, 0xA002: 48, 0xA003: 36,
                                 0xA404: 1.0, 0xA434: "24mm", 0x9003: "2026:11:28 10:00:00"})  # fmt: skip
    exif.get_ifd(0x8825).update({1: "N", 2: (47.0, 30.0, 1.5), 3: "W", 4: (8.0, 30.0, 1.5), 5: b"\0", 6: 400.5,
                                 16: "T", 17: 90.0, 31: 5.0})  # fmt: skip
    return exif.tobytes()[6:]
