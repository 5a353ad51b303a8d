"""Readers of pictures, masks and videos."""

from __future__ import annotations

import io
import math
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from cases import Files, Reader, corpus, photo_exif, picture
from mutate import Change, mutated, words
from structure import (
    TIFF,
    bmp_field,
    exif_block,
    iso_box,
    jpeg_joined,
    jpeg_segment,
    jpeg_segments,
    png_changed,
    png_chunks,
    png_joined,
    riff_chunk,
)


def _read_picture(path: Path) -> str | None:
    """What `reconstruct` does with a picture."""
    from lite3r_cli.io.exif import read_metadata
    from lite3r_cli.io.images import discover

    images = discover([path])
    if not images.records or images.records[0].frame is not None:
        return None
    read_metadata(path)
    record, rgb, mask = images.records[0], images.read(0), images.read_mask(0)
    if rgb.dtype != np.uint8 or rgb.shape != (record.height, record.width, 3):
        return f"image of {rgb.dtype} {rgb.shape} for {record.width}x{record.height}"
    small = images.read_picture(0, (record.height // 3, record.width // 3)).rgb
    if small.dtype != np.uint8 or small.shape[0] < record.height // 3 or small.shape[1] < record.width // 3:
        return f"reduced image of {small.dtype} {small.shape} for {record.width}x{record.height}"
    if mask is not None and (mask.dtype != bool or mask.shape != rgb.shape[:2]):
        return f"mask of {mask.dtype} {mask.shape} for {rgb.shape}"
    return None if 0.2 < record.pixel_aspect < 5 else f"pixel aspect {record.pixel_aspect}"


def _pictures(kind: str, suffix: str, structured: Sequence[Change], weight: int = 2) -> Reader:
    def make(r: random.Random) -> Files:
        return {f"a.{suffix}": mutated(r, r.choice(corpus(kind)), corpus(kind), structured)}

    return Reader(make, lambda folder: _read_picture(folder / f"a.{suffix}"), weight)


_XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description drone-dji:GimbalPitchDegree="-40.10" '
    b'drone-dji:GimbalRollDegree="+0.00" drone-dji:GimbalYawDegree="-12.5" drone-dji:RelativeAltitude="+30.2" '
    b'GPano:ProjectionType="equirectangular"> <GPano:ProjectionType>equirectangular</GPano:ProjectionType> '
    b"</rdf:Description></x:xmpmeta>"
)


def _exif_in_pictures() -> Reader:
    """Damaged EXIF and XMP in a sound picture cost no picture, and give no impossible values."""

    def make(r: random.Random) -> Files:
        block = photo_exif() if r.random() < 0.5 else exif_block(r)
        block = mutated(r, block, [block], TIFF)
        packet = words(r, _XMP) if r.random() < 0.5 else mutated(r, _XMP, [_XMP])
        if r.random() < 0.5:
            segments, rest = jpeg_segments(corpus("JPEG")[0])
            told = [(0xE1, b"Exif\0\0" + block[:65000]), (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + packet[:65000])]
            return {"a.jpg": jpeg_joined([*told, *segments], rest)}
        chunks = png_chunks(corpus("PNG")[2])
        told = [(b"eXIf", block), (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet)]
        return {"a.png": png_joined([chunks[0], *told, *chunks[1:]])}

    def read(folder: Path) -> str | None:
        from lite3r_cli.errors import InputError
        from lite3r_cli.io.exif import read_metadata
        from lite3r_cli.world.focal import focal_from_metadata

        path = next(folder.iterdir())
        facts = read_metadata(path)
        parts = (facts, facts.gps, facts.attitude)
        numbers = [value for part in parts if part is not None for value in vars(part).values() if type(value) is float]
        if not all(map(math.isfinite, numbers)):
            return "a number that is not finite"
        focal = focal_from_metadata(facts).pixels
        if focal is not None and not 0 < focal < float("inf"):
            return f"a focal length of {focal} pixels"
        try:
            return _read_picture(path)
        except InputError as error:
            return f"a sound image is refused: {error}"

    return Reader(make, read, 2)


def _masks() -> Reader:
    kinds = {"PNG": (png_changed,), "TIFF": TIFF, "JPEG": (jpeg_segment,), "BMP": (bmp_field,), "WEBP": (riff_chunk,)}

    def make(r: random.Random) -> Files:
        kind = r.choice(list(kinds))
        return {"a.jpg.png": mutated(r, r.choice(corpus(kind)), corpus(kind), kinds[kind])}

    def read(folder: Path) -> str | None:
        from lite3r_cli.io.masks import Target, find_masks, load_mask

        found, _ = find_masks(folder, [Target("a.jpg", folder / "a.jpg")])
        mask = load_mask(found["a.jpg"], 48, 36, 6)
        return None if mask.shape == (36, 48) and mask.dtype == bool else f"mask {mask.shape} {mask.dtype}"

    return Reader(make, read)


@cache
def _films() -> dict[str, bytes]:
    """Short videos in several containers and codecs."""
    import av

    films = {}
    for suffix, codec in (
        ("mp4", "libx264"),
        ("avi", "mpeg4"),
        ("mkv", "ffv1"),
        ("mov", "mjpeg"),
        ("mpg", "mpeg2video"),
        ("h264.mkv", "libx264"),
        ("ts", "libx264"),
        ("webm", "libvpx-vp9"),
    ):
        stream = io.BytesIO()
        kind = {"mkv": "matroska", "h264.mkv": "matroska", "mpg": "mpeg", "ts": "mpegts"}.get(suffix, suffix)
        with av.open(stream, "w", format=kind) as out:
            track = out.add_stream(codec, rate=25)
            track.width, track.height = 64, 48
            track.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for i in range(6):
                frame = np.roll(picture(width=64, height=48), i, 1)
                out.mux(track.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            out.mux(track.encode())
        films[suffix] = stream.getvalue()
    return films


def _videos() -> Reader:
    def make(r: random.Random) -> Files:
        suffix = r.choice(list(_films()))
        return {
            f"a.{suffix}": mutated(
                r, _films()[suffix], list(_films().values()), (iso_box,) * (suffix in ("mp4", "mov"))
            )
        }

    def read(folder: Path) -> str | None:
        from lite3r_cli.io.images import discover

        images = discover([next(folder.iterdir())], max_views=3)
        for i, record in enumerate(images.records):
            if images.read(i).shape != (record.height, record.width, 3):
                return "a frame of another size than its record"
        return None

    return Reader(make, read)


def picture_readers() -> dict[str, Reader]:
    """The readers of this file by name."""
    return {
        "jpeg": _pictures("JPEG", "jpg", (jpeg_segment,), 4),
        "png": _pictures("PNG", "png", (png_changed,), 3),
        "tiff": _pictures("TIFF", "tif", TIFF, 5),
        "webp": _pictures("WEBP", "webp", (riff_chunk,)),
        "bmp": _pictures("BMP", "bmp", (bmp_field,)),
        "pnm": _pictures("PPM", "ppm", (words,)),
        "gif": _pictures("GIF", "gif", ()),
        "jpeg2000": _pictures("JPEG2000", "jp2", ()),
        "heif": _pictures("HEIF", "heic", (iso_box,)),
        "avif": _pictures("AVIF", "avif", (iso_box,), 1),
        "exif": _exif_in_pictures(),
        "mask": _masks(),
        "video": _videos(),
    }
