"""Masks that say which pixels of a photograph to use, named as COLMAP names them: black = ignore.

For `a.jpg` the mask is `a.jpg.png`, or else `a.png`; it may be of any size and of any format that pictures may have.
What is transparent in a mask is ignored like what is black. It is drawn over the picture as a viewer shows it; one
whose shape fits the picture as the sensor stored it (before EXIF turned it on its side) is turned along.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath

import cv2
import numpy as np

from ..errors import InputError, UsageError
from .decode import decode_mask, upright
from .names import printable
from .probe import probe
from .regular import BadImage, open_regular, read_regular
from .sources import IMAGE_SUFFIXES


@dataclass(frozen=True)
class Target:
    """What a mask is looked up by."""

    name: str  # unique name in the set, perhaps with folders
    path: Path  # the picture, or the video that the frame is from
    is_frame: bool = False


def find_masks(folder: Path, targets: Sequence[Target], strict: bool) -> tuple[dict[str, Path], list[str]]:
    """Mask file for each target that has one (by name), and a warning for those without or with a damaged one.

    Pictures of the same file name from different folders take theirs from sub-folders: `left/a.jpg` → `left/a.jpg.png`.
    Raises UsageError if `folder` is not a folder, InputError if none of the targets has a mask, and, if `strict`, for
    the first damaged one.
    """
    if not folder.is_dir():
        raise UsageError(f"--masks {printable(folder)}: not a folder")
    shared = Counter(target.path.name for target in targets if not target.is_frame)
    listing = _Listing()
    found: dict[str, Path] = {}
    missing, damaged = [], []
    for target in targets:
        mask = next(listing.files(_candidates(folder, target, shared), target.path), None)
        if mask is None:
            missing.append(target.name)
            continue
        try:
            with open_regular(mask) as stream:
                probe(stream)
        except BadImage as error:
            if strict:
                raise InputError(f"mask {printable(mask)}: {error}") from error
            damaged.append(f"mask {printable(mask)}: {error}; {target.name} is used whole")
            continue
        found[target.name] = mask
    if targets and len(missing) == len(targets):
        example = f"{targets[0].name}.png"
        raise InputError(f"--masks {printable(folder)}: no mask for any of the images; expected names like {example}")
    if missing:
        count = f"{len(missing)} of {len(targets)} images have no mask and are used whole"
        damaged.append(f"--masks {printable(folder)}: {count} (first: {missing[0]})")
    return found, damaged


def load_mask(path: Path, width: int, height: int, orientation: int) -> np.ndarray:
    """(height, width) bool, True = use the pixel, for an upright image of that size whose EXIF orientation was given.

    Raises InputError if the mask cannot be decoded.
    """
    try:
        mask, header = decode_mask(read_regular(path))
    except BadImage as error:
        advice = "save it again, or take it away and its image is used whole"
        raise InputError(f"mask {printable(path)}: {error}: {advice}") from error
    drawn_on_sensor = header.orientation == 1 and orientation >= 5
    if drawn_on_sensor and _mismatch(mask, height, width) < _mismatch(mask, width, height):
        mask = upright(mask.astype(np.uint8), orientation).astype(bool)
    if mask.shape == (height, width):
        return mask
    return cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT).astype(bool)


def _candidates(folder: Path, target: Target, shared: Counter[str]) -> list[Path]:
    """Where a mask may lie, without its suffix: beside the others, or in sub-folders like the pictures'."""
    name = target.name if target.is_frame else target.path.name
    below = PurePosixPath(target.name).parent
    places = [folder] if below == PurePosixPath(".") else [folder / below, folder]
    if shared[name] > 1:
        places = [folder / below, folder / target.path.absolute().parent.name]
        places = [place for place in places if place != folder] or places
    return [place / base for place in places for base in (name, PurePath(name).stem)]


class _Listing:
    """The files of the masks' folders by name, whatever the case of their suffixes."""

    def __init__(self) -> None:
        self._folders: dict[Path, dict[str, Path]] = {}

    def files(self, bases: Sequence[Path], picture: Path) -> Iterator[Path]:
        """Existing files BASE.png, or with another picture's suffix; never the picture itself."""
        for base in bases:
            names = self._in(base.parent)
            for suffix in (".png", *IMAGE_SUFFIXES):
                mask = names.get(f"{base.name}\0{suffix}")
                if mask is not None and os.path.realpath(mask) != os.path.realpath(picture):
                    yield mask

    def _in(self, folder: Path) -> dict[str, Path]:
        if folder not in self._folders:
            try:
                names = sorted(os.listdir(folder))
            except OSError:
                names = []
            paths = [folder / name for name in names]
            self._folders[folder] = {f"{p.stem}\0{p.suffix.lower()}": p for p in paths if p.is_file()}
        return self._folders[folder]


def _mismatch(mask: np.ndarray, width: int, height: int) -> float:
    """How far the mask's aspect ratio is from that of width × height, 0 = equal."""
    return abs(np.log(mask.shape[1] / mask.shape[0] * height / width))
