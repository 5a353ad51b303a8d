"""The images of an exported model: upright, in a format that every trainer reads, with COLMAP's names for masks.

Programs that read `sparse/0` or transforms.json use plain pixels: they ignore the EXIF orientation, and read neither
HEIC nor video frames. A suitable file is hard-linked (or copied), every other image is decoded and encoded again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from ..cores import count_cores
from ..errors import OutputError
from .files import link_file, write_bytes
from .frame_spool import bytes_of
from .images import ImageRecord, ImageSet
from .probe import probe
from .regular import BadImage, open_regular

QUALITY = 95  # of JPEG, for images that are encoded again
PNG_LEVEL = 3
LOSSY = {".jpg", ".jpeg", ".jpe", ".jfif", ".heic", ".heif", ".hif", ".avif", ".webp", ".mpo"}
READ_BY_ALL = {"jpeg": (".jpg", ".jpeg"), "png": (".png",)}  # format → its suffixes
PNG_RGB = bytes((8, 2))  # bit depth and colour type, bytes 24 and 25 of a PNG: three channels of 8 bits


@dataclass(frozen=True)
class ExportedPictures:
    """Paths of the images and masks of the views, relative to the export's folder."""

    pictures: dict[str, str]  # view name → "images/a.jpg"
    masks: dict[str, str]  # view name → "masks/a.jpg.png"


def export_pictures(directory: Path, images: ImageSet, indices: Sequence[int]) -> ExportedPictures:
    """Write images/ and, for views that have one, masks/ of the pictures `indices` into `directory`.

    Raises OutputError, and InputError for a picture that has changed or is damaged.
    """
    records = [images.records[i] for i in indices]
    as_is = [images.as_stored(i) and _is_read_by_all(record) for i, record in zip(indices, records)]
    names = _names(records, as_is)

    def one(j: int) -> tuple[str, str | None]:
        target, held = directory / "images" / names[j], records[j].encoded
        if as_is[j]:
            link_file(records[j].path, target)
        elif held is not None and images.as_stored(indices[j]):  # a video frame is in memory as JPEG
            write_bytes(target, bytes_of(held))
        else:
            write_bytes(target, _encode(images.read(indices[j]), target))
        mask = images.read_mask(indices[j])
        if mask is None:
            return f"images/{names[j]}", None
        black_and_white = np.where(mask, 255, 0).astype(np.uint8)
        write_bytes(directory / "masks" / f"{names[j]}.png", _encode(black_and_white, Path("mask.png")))
        return f"images/{names[j]}", f"masks/{names[j]}.png"

    with ThreadPoolExecutor(max_workers=count_cores()) as pool:
        written = list(pool.map(one, range(len(records))))
    return ExportedPictures(
        {record.name: picture for record, (picture, _) in zip(records, written)},
        {record.name: mask for record, (_, mask) in zip(records, written) if mask is not None},
    )


def _is_read_by_all(record: ImageRecord) -> bool:
    """Whether the file is a plain JPEG or PNG of the record's size, with orientation 1 and the right suffix."""
    if record.encoded is not None or record.orientation != 1 or record.has_alpha:
        return False
    try:
        with open_regular(record.path) as stream:
            header = probe(stream)
            stream.seek(24)
            kind = stream.read(2)
    except BadImage:  # it has changed; decoding it gives the reason
        return False
    if record.path.suffix.lower() not in READ_BY_ALL.get(header.format, ()):
        return False
    if (header.width, header.height) != (record.width, record.height) or header.pixel_aspect != 1:
        return False
    return header.format != "png" or kind == PNG_RGB


def without_blanks(name: str) -> str:
    """The name with `_` for blanks, at which readers of COLMAP's and TUM's text files end a name."""
    return re.sub(r"\s", "_", name)


def _names(records: Sequence[ImageRecord], as_is: Sequence[bool]) -> list[str]:
    """Names below images/, unique regardless of case: those of the records without blanks, with the suffix of the
    written format.
    """
    names: list[str] = []
    taken: set[str] = set()
    for record, whole in zip(records, as_is):
        path = PurePosixPath(without_blanks(record.name))
        lossy = record.encoded is not None or record.path.suffix.lower() in LOSSY
        suffix = path.suffix if whole else ".jpg" if lossy else ".png"
        candidate, number = path.with_suffix(suffix), 2
        while candidate.as_posix().casefold() in taken:
            candidate, number = path.with_name(f"{path.stem}_{number}{suffix}"), number + 1
        taken.add(candidate.as_posix().casefold())
        names.append(candidate.as_posix())
    return names


def _encode(picture: np.ndarray, target: Path) -> bytes:
    """(H, W[, 3]) uint8 RGB → JPEG or PNG by the suffix of `target`."""
    suffix = target.suffix.lower()
    options = [cv2.IMWRITE_JPEG_QUALITY, QUALITY] if suffix == ".jpg" else [cv2.IMWRITE_PNG_COMPRESSION, PNG_LEVEL]
    bgr = picture[..., ::-1] if picture.ndim == 3 else picture
    done, encoded = cv2.imencode(suffix, np.ascontiguousarray(bgr), options)
    if not done:
        raise OutputError(f"{target}: this image cannot be encoded as {suffix[1:]}")
    return encoded.tobytes()
