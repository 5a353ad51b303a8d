"""360° pictures: which pictures are equirectangular, and the set in which each of them is split into pinhole views.

A 2:1 picture is split if its file declares it (GPano in XMP), or if it closes: its left border continues the right one,
and its first and last rows, each of which shows one direction, are nearly constant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import PurePosixPath
from threading import Lock

import cv2
import numpy as np

from ..errors import InputError
from ..io.decode import Picture
from ..io.exif import read_metadata
from ..io.images import ImageRecord, ImageSet
from ..io.names import output_stems, unique_names
from ..scene.facing import VIEWS, Facing

EQUIRECTANGULAR = "equirectangular"  # GPano's term
_RATIO = 0.01  # relative deviation from 2:1
_LOOK = (512, 256)  # pixels at which a picture is tested
_SEAM = 1.25  # factor of the largest steps between inner columns that the step across the seam may have
_CONTRAST = 0.5  # share of the difference between opposite columns that this step may have
_POLE = 0.4  # share of the usual variation of a row that the first and the last row may have


def is_two_to_one(record: ImageRecord) -> bool:
    """Whether a picture has the proportions of a whole sphere."""
    return abs(record.width / (2 * record.height) - 1) < _RATIO


def closes(rgb: np.ndarray) -> bool:
    """Whether a 2:1 picture (H, W, 3) uint8 looks like a whole sphere."""
    small = cv2.resize(rgb, _LOOK, interpolation=cv2.INTER_AREA).astype(np.float64)
    steps = np.abs(np.diff(small, axis=1, append=small[:, :1])).mean(axis=(0, 2))
    seam, within = steps[-1], steps[:-1]
    half = small.shape[1] // 2
    opposite = np.abs(small[:, :half] - small[:, half:]).mean()
    change = small.std(axis=1).mean(axis=1)  # along each row
    usual = float(np.median(change))
    goes_on = seam <= _SEAM * np.percentile(within, 98) and seam < _CONTRAST * opposite
    return bool(goes_on and max(change[0], change[-1]) < _POLE * usual)


def all_around(images: ImageSet, always: bool) -> tuple[list[int], list[str]]:
    """Which pictures of a set show the whole sphere, and messages; `always`: all 2:1 pictures.

    If most pictures of a size do, all of that size do, because one camera took them.
    """
    found, open_still, partial = [], [], []
    for i, record in enumerate(images.records):
        said = None if record.frame is not None else read_metadata(record.path).panorama
        if not is_two_to_one(record):
            partial += [record.name] if said == EQUIRECTANGULAR else []
        elif always or said == EQUIRECTANGULAR or _looks_closed(images, i):
            found.append(i)
        else:
            open_still.append(i)
    sizes = Counter((images.records[i].width, images.records[i].height) for i in found)
    others = Counter((images.records[i].width, images.records[i].height) for i in open_still)
    most = {size for size, count in sizes.items() if count > others[size]}
    found = sorted(found + [i for i in open_still if (images.records[i].width, images.records[i].height) in most])
    if not partial:
        return found, []
    more = f" and {len(partial) - 1} more" if len(partial) > 1 else ""
    return found, [f"{partial[0]}{more}: a part of a 360° image, not cut into views: only whole ones (2:1) are"]


def _looks_closed(images: ImageSet, i: int) -> bool:
    try:
        return closes(images.read_picture(i, _LOOK[::-1]).rgb)
    except InputError:  # reported when all pictures are read
        return False


@dataclass
class CutImages(ImageSet):
    """An image set in which some images are views of 360° pictures."""

    whole: ImageSet = field(default_factory=lambda: ImageSet([]))  # the set before the pictures were split
    places: list[int] = field(default_factory=list)  # index of each image's picture in it
    _held: dict[int, Picture] = field(default_factory=dict)  # the 360° picture that was decoded last
    _lock: Lock = field(default_factory=Lock)

    @classmethod
    def of(cls, images: ImageSet, chosen: Sequence[int]) -> CutImages:
        """The set with the pictures `chosen` split. It has no spares for damaged pictures."""
        records, places = [], []
        for i, record in enumerate(images.records):
            parts = _parts(record) if i in set(chosen) else [record]
            records += parts
            places += [i] * len(parts)
        names = unique_names([record.name for record in records])
        stems = output_stems(names)
        records = [replace(r, name=name, stem=stem) for r, name, stem in zip(records, names, stems, strict=True)]
        shared = {name: getattr(images, name) for name in ImageSet.__dataclass_fields__}
        return cls(**{**shared, "records": records, "spares": []}, whole=images, places=places)

    def read_picture(self, i: int, least: tuple[int, int] | None = None) -> Picture:
        facing = self.records[i].facing
        if facing is None:
            return self.whole.read_picture(self.places[i], least)
        whole = self._decoded(self.places[i])
        opaque = None if whole.opaque is None else view_of(whole.opaque.astype(np.uint8), facing) > 0
        return replace(whole, rgb=view_of(whole.rgb, facing), opaque=opaque)

    def _decoded(self, place: int) -> Picture:
        with self._lock:  # the views of a picture are read one after the other, so it is decoded once
            if place not in self._held:
                self._held.clear()
                self._held[place] = self.whole.read_picture(place)
            return self._held[place]

    def _drawn_mask(self, i: int) -> np.ndarray | None:
        mask, facing = self.whole._drawn_mask(self.places[i]), self.records[i].facing
        return mask if mask is None or facing is None else view_of(mask.astype(np.uint8), facing) > 0

    def as_stored(self, i: int) -> bool:
        return self.records[i].facing is None and self.whole.as_stored(self.places[i])


def _parts(record: ImageRecord) -> list[ImageRecord]:
    side = 2 * round(record.width / (2 * np.pi))  # keeps the resolution of the horizon
    path = PurePosixPath(record.name)
    return [
        replace(
            record, name=str(path.with_name(f"{path.stem}-{k}{path.suffix}")), width=side, height=side, orientation=1,
            facing=Facing(record.name, k, side), encoded=record.encoded,
        )
        for k in range(VIEWS)
    ]  # fmt: skip


def view_of(picture: np.ndarray, facing: Facing) -> np.ndarray:
    """The view of an equirectangular picture (H, W) or (H, W, 3) uint8; masks by nearest neighbour."""
    how = cv2.INTER_CUBIC if picture.ndim == 3 else cv2.INTER_NEAREST
    return cv2.remap(picture, *_maps(facing.number, facing.side, *picture.shape[:2]), how, borderMode=cv2.BORDER_WRAP)


@lru_cache(maxsize=VIEWS)
def _maps(number: int, side: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    facing = Facing("", number, side)
    v, u = np.indices((side, side)) + 0.5
    rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(facing.K).T @ facing.turn
    x, y, z = np.moveaxis(rays / np.linalg.norm(rays, axis=-1, keepdims=True), -1, 0)
    column = (np.arctan2(x, z) / (2 * np.pi) + 0.5) * width - 0.5  # cv2 counts pixel centres from 0
    row = (np.arcsin(np.clip(y, -1, 1)) / np.pi + 0.5) * height - 0.5
    return column.astype(np.float32), row.astype(np.float32)
