"""The texture atlas: mip pyramids of 256² RGBA textures (alpha = height) and their numbers by category."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from lite3r_cli.data.procedural.patterns import PATTERNS, SIZE
from lite3r_cli.data.procedural.reliefs import RELIEFS
from lite3r_cli.data.procedural.texture_fetch import TEXELS
from lite3r_cli.errors import InputError
from lite3r_cli.io.archives import read_npz
from lite3r_cli.io.decode import decode_rgb
from lite3r_cli.io.regular import BadImage
from lite3r_cli.io.texture_file import ARRAYS

PHOTO = "photo"


@dataclass(frozen=True)
class Catalog:
    """Texture numbers by category; scene samplers need these only, not the pixels."""

    groups: dict[str, range]

    def pick(self, rng: np.random.Generator, *categories: str) -> int:
        """The number of a random texture from a random category of `categories`."""
        group = self.groups[categories[0] if len(categories) == 1 else categories[rng.integers(len(categories))]]
        return group.start + int(rng.integers(len(group)))

    @property
    def has_photos(self) -> bool:
        """Whether photographed textures exist."""
        return PHOTO in self.groups


@dataclass(frozen=True)
class Atlas:
    """The pixels of all textures and their catalogue."""

    texels: torch.Tensor  # (T, TEXELS, 4) uint8
    catalog: Catalog

    def to(self, device: torch.device | str) -> Atlas:
        return Atlas(self.texels.to(device), self.catalog)


def pyramid(rgba: np.ndarray) -> np.ndarray:
    """(TEXELS, 4) uint8 from (256, 256, 4) uint8: box-filtered levels 256² … 1², one after the other."""
    levels, image = [rgba.reshape(-1, 4)], rgba.astype(np.float32)
    while len(image) > 1:
        image = image.reshape(len(image) // 2, 2, len(image) // 2, 2, 4).mean((1, 3))
        levels.append(np.round(image).astype(np.uint8).reshape(-1, 4))
    return np.concatenate(levels)


def _photo(encoded: np.ndarray) -> np.ndarray | None:
    try:
        rgb, _ = decode_rgb(encoded.tobytes())
    except BadImage:
        return None
    if rgb.shape[:2] != (SIZE, SIZE):
        rgb = cv2.resize(rgb, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    height = cv2.GaussianBlur(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), (0, 0), 1.5)
    return np.dstack([rgb, height])


def load_photos(path: Path) -> list[np.ndarray]:
    """Textures (256, 256, 4) uint8 from an .npz with `data` (uint8, concatenated JPEG files) and `offsets` (int64,
    their boundaries).

    Raises InputError if the file is not such an archive.
    """
    arrays = read_npz(path, ARRAYS)
    data, offsets = arrays["data"], arrays["offsets"]
    in_order = offsets.ndim == 1 and offsets.dtype.kind in "iu" and len(offsets) > 1 and (np.diff(offsets) >= 0).all()
    if data.ndim != 1 or data.dtype != np.uint8 or not in_order or offsets[0] < 0 or offsets[-1] > len(data):
        raise InputError(
            f"{path}: not a texture archive: `data` has to be uint8 of one axis, `offsets` its boundaries in order"
        )
    read = (_photo(data[a:b]) for a, b in itertools.pairwise(offsets) if a < b)
    photos = [photo for photo in read if photo is not None]
    if not photos:
        raise InputError(f"{path}: no readable JPEG crop inside; `data` must hold JPEG files bounded by `offsets`")
    return photos


def build_atlas(photos: Path | None = None, *, variants: int = 6, seed: int = 0) -> Atlas:
    """The atlas of all procedural textures (`variants` of each pattern, from `seed`), then of the photos if given.

    Raises InputError if `photos` is not a texture archive (see load_photos).
    """
    textures: list[np.ndarray] = []
    read = None if photos is None else load_photos(photos)  # first: a bad file is reported before the slow part
    groups: dict[str, range] = {}
    for number, (name, make) in enumerate({**PATTERNS, **RELIEFS}.items()):
        start = len(textures)
        for k in range(variants):
            rgb, height = make(np.random.default_rng([seed, number, k]))
            rgba = np.dstack([np.clip(rgb, 0, 1), np.clip(height, 0, 1)])
            textures.append(np.round(rgba * 255).astype(np.uint8))
        groups[name] = range(start, len(textures))
    if read is not None:
        start = len(textures)
        textures += read
        groups[PHOTO] = range(start, len(textures))
    texels = np.stack([pyramid(t) for t in textures])
    if texels.shape[1] != TEXELS:
        raise AssertionError(f"a pyramid has {texels.shape[1]} texels, not {TEXELS}")
    return Atlas(torch.from_numpy(texels), Catalog(groups))
