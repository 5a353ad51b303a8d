"""What a command reads is never replaced by what it writes, also not with --overwrite."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from ..errors import UsageError
from .locks import RUN_LOCK
from .names import printable
from .same_entry import entry_keys


def require_not_read(targets: Iterable[Path], read: Mapping[Path, str]) -> None:
    """Raise UsageError where a target is one of the files that are read, or in such a folder, whatever the path to it.
    `read` says what each is: "a photo of the scene".
    """
    inputs = {key: what for path, what in read.items() for key in entry_keys(path)}
    keys_of = cache(entry_keys)
    for target in targets:
        real = Path(_real(target))
        for place in (real, *real.parents):
            if what := next((inputs[key] for key in keys_of(place) if key in inputs), None):
                raise UsageError(f"{printable(target)}: is {what}; choose another output")


def require_no_data(folder: Path, data: Iterable[Path]) -> None:
    """Raise UsageError if the files of a run would lie among the data that it reads: if its folder is a folder of data,
    or an existing one with files below such a folder.
    """
    real = Path(_real(folder))
    above = frozenset[object]().union(*map(entry_keys, real.parents))
    for each in data:
        place = entry_keys(each)
        if not place.isdisjoint(entry_keys(real)) or (not place.isdisjoint(above) and _has_files(real)):
            raise UsageError(f"{printable(folder)}: the log of the run goes there, but it is data; choose another -o")


def _has_files(folder: Path) -> bool:
    """Whether a folder has an entry other than the lock of this run."""
    return folder.is_dir() and any(path.name != RUN_LOCK for path in folder.iterdir())


def _real(path: Path) -> str:
    try:
        return os.path.realpath(path)
    except ValueError:  # a NUL character
        return str(path)
