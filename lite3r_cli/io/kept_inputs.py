"""What a command reads is never replaced by what it writes, also not with --overwrite."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..errors import UsageError
from .locks import RUN_LOCK
from .names import printable


def require_not_read(targets: Iterable[Path], read: Mapping[Path, str]) -> None:
    """Raise UsageError where a target is one of the files that are read, or in such a folder, whatever the path to it.
    `read` says what each is: "a photo of the scene".
    """
    inputs = {_real(path): what for path, what in read.items()}
    for target in targets:
        real = Path(_real(target))
        if what := next((inputs[str(place)] for place in (real, *real.parents) if str(place) in inputs), None):
            raise UsageError(f"{printable(target)}: is {what}; choose another output")


def require_no_data(folder: Path, data: Iterable[Path]) -> None:
    """Raise UsageError if the files of a run would lie among the data that it reads: if its folder is a folder of data,
    or an existing one with files below such a folder.
    """
    real = Path(_real(folder))
    for each in data:
        place = Path(_real(each))
        if real == place or (place in real.parents and _has_files(real)):
            raise UsageError(f"{printable(folder)}: the log of the run goes there, but it is data; choose another -o")


def _has_files(folder: Path) -> bool:
    """Whether a folder has an entry other than the lock of this run."""
    return folder.is_dir() and any(path.name != RUN_LOCK for path in folder.iterdir())


def _real(path: Path) -> str:
    try:
        return os.path.realpath(path)
    except ValueError:  # a NUL character
        return str(path)
