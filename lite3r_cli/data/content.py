"""Short content hashes of files, so that data are identified by content and not by path."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from lite3r_cli.errors import InputError
from lite3r_cli.io.names import printable
from lite3r_cli.io.regular import BadImage, open_regular

PIECE = 1 << 16  # bytes read at the start, middle and end of a file; data sets are too large to read completely
SHOWN = 24  # hexadecimal digits


def content_of(path: Path | None) -> str | None:
    """The hash of a file, or of all files of a folder with their names; None for None. Raises InputError."""
    if path is None:
        return None
    if not path.is_dir():
        return _hashed([file_content(path)])
    names = sorted(found.relative_to(path).as_posix() for found in path.rglob("*") if found.is_file())
    visible = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    return _hashed(f"{name} {_or_unreadable(path / name)}" for name in visible)


def _or_unreadable(path: Path) -> str:
    try:
        return file_content(path)
    except InputError:
        return "unreadable"


def file_content(path: Path) -> str:
    """The hash of the size and three pieces of a file. Raises InputError."""
    try:
        with open_regular(path) as stream:
            return stream_content(stream)
    except (BadImage, OSError) as error:
        raise InputError(f"{printable(path)}: cannot be read: {error}") from error


def stream_content(stream: BinaryIO) -> str:
    """The same for an open file, or its bytes. Raises OSError."""
    size = stream.seek(0, os.SEEK_END)
    digest = hashlib.sha256(str(size).encode())
    for start in sorted({0, max(0, size // 2 - PIECE // 2), max(0, size - PIECE)}):
        stream.seek(start)
        digest.update(stream.read(PIECE))
    return digest.hexdigest()[:SHOWN]


def bytes_content(data: bytes) -> str:
    """The hash of bytes."""
    return hashlib.sha256(data).hexdigest()[:SHOWN]


def joined(contents: Iterable[str]) -> str:
    """The hash of several hashes, in this order."""
    return _hashed(contents)


def _hashed(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:SHOWN]
