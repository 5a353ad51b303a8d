"""Paths for libraries that take text: a name of a Unix file is bytes, and need not be text."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def plain_path(path: Path) -> Iterator[Path]:
    """The path itself, or where it is no text, a link to it that goes again at the end."""
    try:
        str(path).encode("utf-8")
        is_text = True
    except UnicodeEncodeError:
        is_text = False
    if is_text:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="lite3r-") as folder:
        link = Path(folder) / "file"
        link.symlink_to(path.absolute())
        yield link
