"""`--intrinsics FILE`: focal lengths and principal points of cameras with unknown poses."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from reprlib import repr as short
from typing import Any

import numpy as np

from ..errors import InputError
from ..scene import geometry
from . import camera_fields as fields
from .documents import parsed_json, read_text, require_file
from .names import printable
from .resize import is_resized

_WAYS = (
    'a JSON file with "K" for all images, or "images": {NAME or PATTERN: {"K", "width", "height"}}, or text with the '
    "nine numbers of K"
)


@dataclass(frozen=True)
class Intrinsics:
    """K (3, 3) of the images whose name matches `pattern`, at `size` (width, height); None = any size."""

    pattern: str
    K: np.ndarray
    size: tuple[int, int] | None

    def at(self, name: str, width: int, height: int, path: Path) -> np.ndarray:
        """K for an image of `width` × `height`. Raises InputError if its proportions differ from the camera's, or if K
        is implausible for it.
        """
        if self.size is None:
            fields.require_plausible(f"{path}: K for {name}", self.K, (width, height))
            return self.K
        if not is_resized((width, height), self.size):
            raise InputError(
                f"{path}: K is for {self.size[0]}x{self.size[1]} pixels, but {name} has {width}x{height}: not the same "
                "image resized; give this size its own K"
            )
        return geometry.scale_intrinsics(self.K, width / self.size[0], height / self.size[1])


def read_intrinsics(path: Path) -> list[Intrinsics]:
    """The cameras of a file, names before patterns. Raises UsageError if it is missing, InputError if malformed."""
    require_file(path, f"give auto, shared, per-image, or {_WAYS}", "--intrinsics")
    text = read_text(path)
    if not text.lstrip().startswith(("{", "[")):
        return [Intrinsics("*", _from_text(path, text), None)]
    document = parsed_json(path, text)
    if not isinstance(document, dict):
        return [Intrinsics("*", _from_json(path, "K", document), None)]
    entries = document.get("images", document if "K" not in document else None)
    if entries is None:
        return [_entry(path, "*", document)]
    if not isinstance(entries, dict) or not entries:
        raise InputError(f"{path}: holds no cameras: it has to be {_WAYS}")
    found = [_entry(path, name, entry) for name, entry in entries.items()]
    return sorted(found, key=lambda item: any(c in item.pattern for c in "*?["))


def find_intrinsics(cameras: list[Intrinsics], name: str) -> Intrinsics | None:
    """The first entry that matches the name of an image, with or without its folder."""
    names = (name, PurePosixPath(name).name)
    return next((c for c in cameras if c.pattern in names or any(fnmatchcase(n, c.pattern) for n in names)), None)


def _from_json(path: Path, what: str, rows: Any) -> np.ndarray:
    """K of three rows, or of nine numbers. Raises InputError."""
    rows = rows if isinstance(rows, list) else [rows]
    flat = [value for row in rows for value in (row if isinstance(row, list) else [row])]
    if not all(map(fields.is_number, flat)):
        raise InputError(f"{path}: {what}: K has to be a 3x3 matrix of finite numbers")
    return _checked(path, what, flat)


def _entry(path: Path, pattern: str, entry: Any) -> Intrinsics:
    if not isinstance(entry, dict):
        raise InputError(f"{path}: {pattern} has to be an object with K, and width and height of the images")
    where = f"{printable(path)}: {short(pattern)}"
    K = _from_json(path, pattern, entry.get("K"))
    if entry.get("width") is None and entry.get("height") is None:
        return Intrinsics(pattern, K, None)
    size = fields.side(where, entry, "width"), fields.side(where, entry, "height")
    fields.require_plausible(where, K, size)
    return Intrinsics(pattern, K, size)


def _from_text(path: Path, text: str) -> np.ndarray:
    rows = [line.split("#")[0].replace(",", " ").split() for line in text.splitlines()]
    return _checked(path, "K", [number for row in rows for number in row])


def _checked(path: Path, what: str, rows: Any) -> np.ndarray:
    try:
        K = np.array(rows, dtype=np.float64).reshape(3, 3)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: {what}: K has to be a 3x3 matrix; the file has to be {_WAYS}") from error
    usable = np.isfinite(K).all() and np.abs(K).max() <= fields.LARGEST and K[0, 0] > 0 and K[1, 1] > 0
    if not usable or K[0, 1] != 0 or not np.array_equal([*K[1:, 0], *K[2, 1:]], [0, 0, 0, 1]):
        raise InputError(
            f"{path}: {what}: K has to be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] with positive focal lengths"
        )
    return K
