"""The hidden folder for finished chunks of a run: its path, and checks before it is used or removed."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from .output_layout import OutputLayout
from .transaction import MARKER, remove_marked


def place_of(layout: OutputLayout) -> Path:
    """The folder of the chunks until the output is complete."""
    return layout.root / f".{layout.cloud}.lite3r-chunks"


def remove_finished(layout: OutputLayout) -> None:
    """Remove the chunks of a killed run if the output is complete and newer than all of them."""
    path = place_of(layout)
    with suppress(OSError):
        written = (layout.root / layout.run_json).stat().st_mtime_ns
        identity = identity_of(path)
        if is_ours(path) and all(_time(p) <= written for p in path.glob("pass-*/pass.json")):
            remove_marked(path, identity)


def identity_of(path: Path) -> tuple[int, int]:
    """Device and inode of a folder or link. Raises OSError if it does not exist."""
    status = path.lstat()
    return status.st_dev, status.st_ino


def _time(path: Path) -> int:
    return path.lstat().st_mtime_ns


def is_ours(path: Path) -> bool:
    """Whether a folder belongs to this user, is closed to others, and is empty or has our marker. A new folder shows
    what a closed one looks like, because some file systems have no modes. Raises OSError.
    """
    found, probe = path.lstat(), tempfile.mkdtemp(prefix=".lite3r-", dir=path.parent)
    try:
        closed = os.lstat(probe)
    finally:
        os.rmdir(probe)
    if (found.st_uid, found.st_mode) != (closed.st_uid, closed.st_mode):
        return False
    try:
        marker = (path / MARKER).lstat()
    except FileNotFoundError:
        return not os.listdir(path)
    return stat.S_ISREG(marker.st_mode) and marker.st_uid == closed.st_uid
