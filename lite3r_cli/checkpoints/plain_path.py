"""Paths for libraries that only accept UTF-8 text: a Unix file name is bytes and may not be valid text."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def plain_path(path: Path) -> Iterator[Path]:
    """Yields the path itself, or, if it is not valid text, a temporary symbolic link to it."""
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
