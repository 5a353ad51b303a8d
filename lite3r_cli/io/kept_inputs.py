"""What a command reads is never replaced by what it writes, also not with --overwrite."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..errors import UsageError
from .names import printable


def require_not_read(targets: Iterable[Path], read: Mapping[Path, str]) -> None:
    """Raise UsageError where a target is one of the files that are read, whatever the path to it. `read` says what
    each is: "a photo of the scene".
    """
    inputs = {_real(path): what for path, what in read.items()}
    for target in targets:
        if what := inputs.get(_real(target)):
            raise UsageError(f"{printable(target)}: is {what}; choose another output")


def _real(path: Path) -> str:
    try:
        return os.path.realpath(path)
    except ValueError:  # a NUL character
        return str(path)
