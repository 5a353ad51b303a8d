"""Which files in the folder of a training it wrote itself: only these are replaced, even if others have their names."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection
from pathlib import Path

from safetensors import SafetensorError, safe_open

from lite3r_cli.checkpoints.plain_path import plain_path
from lite3r_cli.io.locks import in_the_way
from lite3r_cli.io.regular import BadImage, read_regular

KEY = "run"  # of the metadata of a checkpoint
PLOT_MARK = {"Software": "lite3r"}  # texts of a PNG


def mark_of(settings: str) -> str:
    """The mark of the checkpoints of a run, which its state tells by its settings."""
    return hashlib.sha256(settings.encode()).hexdigest()


def require_own(path: Path, marks: Collection[str]) -> None:
    """Raises OutputError if there is a file that is no checkpoint with one of the marks; "" is that of no run."""
    if not os.path.lexists(path):
        return
    try:
        if stat.S_ISREG(os.lstat(path).st_mode):
            with plain_path(path) as plain, safe_open(plain, "pt") as file:
                if (file.metadata() or {}).get(KEY, "") in marks:
                    return
    except (SafetensorError, OSError):
        pass
    raise in_the_way(path)


def may_draw(picture: Path) -> bool:
    """Whether there is no file, or a plot of an earlier run."""
    if not os.path.lexists(picture):
        return True
    try:
        return all(f"tEXt{key}\0{text}".encode() in read_regular(picture)[:512] for key, text in PLOT_MARK.items())
    except BadImage:
        return False
