"""Paths for libraries that only accept UTF-8 text: a Unix file name is bytes and may not be valid text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lite3r_cli.io.temporary import temporary_folder


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
    with temporary_folder("a link to a file whose name is no text") as folder:
        link = folder / "file"
        link.symlink_to(path.absolute())
        yield link
