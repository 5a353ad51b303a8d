"""Masks of photographs, named like COLMAP's: black = ignore.

The mask of `a.jpg` is `a.jpg.png`, or else `a.png`. It may have any image format and any size, but needs the
proportions of the image: another mask belongs to another image. Transparent pixels are ignored like black ones. The
mask belongs to the upright image. A mask whose shape fits only the stored image (before EXIF rotates it) is rotated
with it.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath

import cv2
import numpy as np

from ..errors import InputError
from .codecs.header import Header
from .decode import decode_mask, upright
from .documents import require_folder
from .names import printable
from .picture_sources import IMAGE_SUFFIXES
from .probe import probe
from .regular import BadImage, read_regular
from .resize import is_resized

MAX_PIXELS = 200_000_000  # of a mask; it needs no more than its image
_ADVICE = "draw or save it again, or take it away and its image is used whole"


@dataclass(frozen=True)
class Target:
    """The key for finding a mask."""

    name: str  # unique name in the set, possibly with folders
    path: Path  # the image, or the video of the frame
    is_frame: bool = False


def find_masks(folder: Path, targets: Sequence[Target]) -> tuple[dict[str, Path], list[str]]:
    """Mask file for each target that has one (by name), and a warning about those without.

    Images with equal names from different folders use sub-folders: `left/a.jpg` → `left/a.jpg.png`. Raises UsageError
    if `folder` is not a folder, InputError if no target has a mask.
    """
    require_folder(folder, "--masks")
    shared = Counter(target.path.name for target in targets if not target.is_frame)
    listing = _Listing()
    found: dict[str, Path] = {}
    missing = []
    for target in targets:
        mask = next(listing.files(_candidates(folder, target, shared), target.path), None)
        if mask is None:
            missing.append(target.name)
        else:
            found[target.name] = mask
    if targets and len(missing) == len(targets):
        example = f"{targets[0].name}.png"
        raise InputError(f"--masks {printable(folder)}: no mask for any of the images; expected names like {example}")
    if not missing:
        return found, []
    count = f"{len(missing)} of {len(targets)} images have no mask and are used whole"
    return found, [f"--masks {printable(folder)}: {count} (first: {missing[0]})"]


def load_mask(path: Path, width: int, height: int, orientation: int) -> np.ndarray:
    """(height, width) bool, True = use the pixel, for an upright image of this size with this EXIF orientation.

    Raises InputError that names the mask if it is damaged, or has other proportions than the image.
    """
    mask = stored_mask(path, width, height, orientation)
    if mask.shape == (height, width):
        return mask
    return cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT).astype(bool)


def stored_mask(path: Path, width: int, height: int, orientation: int) -> np.ndarray:
    """The same at the size of the mask file. Raises InputError like `load_mask`."""
    try:
        data = read_regular(path)
        header = probe(io.BytesIO(data))
        turned = _is_on_its_side(header, width, height, orientation)
        if header.width * header.height > MAX_PIXELS:
            raise BadImage(f"{header.width}x{header.height} pixels are more than a mask may have")
        mask, _ = decode_mask(data)
    except BadImage as error:
        raise InputError(f"mask {printable(path)}: {error}: {_ADVICE}") from error
    return upright(mask.astype(np.uint8), orientation).astype(bool) if turned else mask


def _is_on_its_side(header: Header, width: int, height: int, orientation: int) -> bool:
    """Whether a mask fits the stored, not upright image. Raises BadImage if it fits neither."""
    size = header.upright_size
    shown, stored = is_resized(size, (width, height)), is_resized(size, (height, width))
    drawn_on_sensor = header.orientation == 1 and orientation >= 5
    if shown and stored and drawn_on_sensor:
        return _mismatch(size, (height, width)) < _mismatch(size, (width, height))
    if shown or (stored and drawn_on_sensor):
        return not shown
    turned = " by its own EXIF orientation" if header.orientation >= 5 else ""
    quarter = f", turned by a quarter{turned}" if stored else ""
    raise BadImage(f"{size[0]}x{size[1]} pixels are another shape than its image has ({width}x{height}){quarter}")


def _candidates(folder: Path, target: Target, shared: Counter[str]) -> list[Path]:
    """Possible paths of a mask without the suffix: in the folder, or in sub-folders like those of the images."""
    name = target.name if target.is_frame else target.path.name
    below = PurePosixPath(target.name).parent
    places = [folder] if below == PurePosixPath(".") else [folder / below, folder]
    if shared[name] > 1:
        places = [folder / below, folder / target.path.absolute().parent.name]
        places = [place for place in places if place != folder] or places
    return [place / base for place in places for base in (name, PurePath(name).stem)]


class _Listing:
    """The files of the mask folders by name, regardless of the case of their suffixes."""

    def __init__(self) -> None:
        self._folders: dict[Path, dict[str, Path]] = {}

    def files(self, bases: Sequence[Path], picture: Path) -> Iterator[Path]:
        """Existing files BASE.png, or with another image suffix; never the image itself."""
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
            paths = [folder / name for name in names]  # what is no file is reported when it is read
            self._folders[folder] = {f"{p.stem}\0{p.suffix.lower()}": p for p in paths}
        return self._folders[folder]


def _mismatch(size: tuple[int, int], picture: tuple[int, int]) -> float:
    """Relative difference of the aspect ratios of two sizes (width, height), 0 = equal."""
    return abs(float(np.log(size[0] / size[1] * picture[1] / picture[0])))
