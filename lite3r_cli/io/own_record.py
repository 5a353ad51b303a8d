"""The record of a folder that one command wrote. It lists every file with its size, so that `--overwrite` replaces no
file that someone else has added or changed.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import InputError, OutputError
from .documents import read_json
from .mounts import require_no_mounts
from .names import printable


def sizes_of(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """The key `files` of a record."""
    return {name: {"bytes": (folder / name).stat().st_size} for name in names}


def require_as_written(
    folder: Path, record: str, maker: str, is_written: Callable[[str], bool], but: Sequence[str] = ()
) -> list[str]:
    """The files in `folder`, relative to it, the record first; entries of `but` at its top level are ignored.

    `maker` is the command of the record, `is_written` tells the names that it writes. Raises OutputError if a file is
    not listed or has another size, if the record lists another name, if something is mounted in the folder, and if the
    path is not a folder.
    """
    if folder.is_symlink() or not folder.is_dir():
        raise OutputError(f"{printable(folder)}: is in the way and not from {maker}; move it or choose another name")
    ours = _listed(folder, record, maker)
    if strange := [name for name in ours if not is_written(name)]:
        listed = f"{record} lists {printable(strange[0])}, which {maker} does not write"
        raise OutputError(f"{printable(folder)}: {listed}; move the folder or choose another -o")
    found = sorted(folder.rglob("*"))
    require_no_mounts(folder, found)
    for path in found:
        name = path.relative_to(folder).as_posix()
        if PurePosixPath(name).parts[0] in but or (path.is_dir() and not path.is_symlink()):
            continue
        size = ours.get(name, -1)
        if size < 0 or not stat.S_ISREG(path.lstat().st_mode) or path.lstat().st_size != size:
            changed = f"has changed since {maker} wrote it" if name in ours else f"is not from {maker}"
            raise OutputError(f"{printable(path)}: {changed}; move it or choose another -o")
    return [record, *(name for name in ours if name != record)]


def _listed(folder: Path, record: str, maker: str) -> dict[str, int]:
    """Name → bytes. Raises OutputError for a folder without a record."""
    try:
        files = read_json(folder / record)["files"]
        sizes = {str(name): int(entry["bytes"]) for name, entry in files.items()}
        if any(Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name for name in sizes):
            raise ValueError
        return sizes | {record: (folder / record).lstat().st_size}
    except (InputError, OSError, ValueError, OverflowError, KeyError, TypeError, AttributeError) as error:
        raise OutputError(
            f"{printable(folder)}: exists and is not from {maker}; move it or choose another -o"
        ) from error
