"""Measured depth (`--depth`): one file per image with its name, for example of RGB-D cameras.

For `a.jpg` the file is `a.png`, `a.jpg.png`, `a.npy` or `a.jpg.npy`: z-depth of the upright image, at any size with its
proportions. PNG is 16-bit grey, 0 = unknown; .npy holds metres unless a scale is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from ..errors import InputError
from .archives import read_npy
from .depth_files import read_depth_png
from .documents import require_folder
from .images import ImageRecord
from .names import printable
from .resize import is_resized

PNG_VALUES = 1000.0  # per metre by default: millimetres
SUFFIXES = (".png", ".npy")


@dataclass(frozen=True)
class GivenDepth:
    """A folder of depth files. Raises UsageError for any other path."""

    folder: Path
    scale: float | None = None  # values per metre; None: PNG_VALUES, or 1 for .npy

    def __post_init__(self) -> None:
        require_folder(self.folder, "--depth")

    def find(self, records: Sequence[ImageRecord]) -> list[Path | None]:
        """The file of each image. Raises InputError if no image has one."""
        found = [self._file(record) for record in records]
        if not any(found):
            example = f"{PurePosixPath(records[0].name).stem}.png"
            raise InputError(
                f"--depth {printable(self.folder)}: no depth for any of the images; expected names like {example}"
            )
        return found

    def _file(self, record: ImageRecord) -> Path | None:
        name = PurePosixPath(record.name)
        places = dict.fromkeys((self.folder / name.parent, self.folder))
        bases = [place / base for place in places for base in (name.stem, name.name)]
        files = (base.with_name(base.name + suffix) for base in bases for suffix in SUFFIXES)
        return next((path for path in files if path.is_file()), None)

    def read(self, path: Path, record: ImageRecord) -> np.ndarray:
        """(h, w) float32 metres, 0 = unknown. Raises InputError for a damaged file or other proportions."""
        if path.suffix == ".npy":
            depth = read_npy(path).astype(np.float32) / np.float32(self.scale or 1.0)
        else:
            depth = read_depth_png(path, self.scale or PNG_VALUES)
        if depth.ndim != 2 or min(depth.shape) < 1:
            raise InputError(f"--depth {printable(path)}: an array of {depth.ndim} axes is no depth map (h, w)")
        height, width = depth.shape
        if not is_resized((width, height), (record.width, record.height)):
            raise InputError(
                f"--depth {printable(path)}: {width}x{height} pixels do not fit {record.name} with "
                f"{record.width}x{record.height}: register the depth to the image, upright"
            )
        return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))
