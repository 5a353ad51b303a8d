"""Opens input files without blocking: link loops, pipes and devices are refused first."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..errors import BackendError, InputError, OutputError
from .names import printable
from .open_files import TOO_MANY

_MAX_BYTES = 2**31 - 1  # largest buffer of OpenCV
_LFS_POINTER = b"version https://git-lfs"
_KINDS = (
    (stat.S_ISDIR, "a folder, not a file"),
    (stat.S_ISFIFO, "a named pipe, not a file"),
    (stat.S_ISSOCK, "a socket, not a file"),
    (stat.S_ISCHR, "a device, not a file"),
    (stat.S_ISBLK, "a device, not a file"),
)
_REASONS = {
    errno.ENOENT: "a link to nothing, or removed while reading",
    errno.ELOOP: "a symbolic link that leads back to itself",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
}


class BadImage(InputError):
    """An unusable file; the message is only the reason, without the file name."""


class BadFile(InputError):
    """The same with the file name before the `reason`."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{printable(path)}: {reason}")
        self.reason = reason


def reason_of(error: InputError) -> str:
    """The reason why a file is unusable, for a list that names the file."""
    return error.reason if isinstance(error, BadFile) else str(error)


@contextmanager
def guarded(reason: str) -> Iterator[None]:
    """Converts exceptions of a reader to BadImage, with its own words, or `reason` for an unexpected type.

    Readers and libraries raise many types for hostile bytes, and one file must not end a run.
    """
    try:
        yield
    except (BadImage, BackendError, MemoryError, OutputError):  # the last: a disk that frames of a video are kept on
        raise
    except OSError as error:
        raise BadImage(os_reason(error) if error.errno else reason) from error
    except Exception as error:
        raise BadImage(reason) from error


def os_reason(error: OSError) -> str:
    """The reason of a system error in a few words. Raises BackendError where the file is not to blame: the system opens
    no more of them.
    """
    if error.errno in TOO_MANY:
        raise BackendError(TOO_MANY[error.errno]) from error
    return _REASONS.get(error.errno or 0, error.strerror or type(error).__name__)


def open_regular(path: Path) -> BinaryIO:
    """Open a regular, non-empty file for reading. Raises BadImage for anything else, and never blocks."""
    try:
        _require_regular(os.stat(path))
        # O_NONBLOCK: if a pipe replaces the file in between, open still returns at once.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        stream = os.fdopen(os.open(path, flags), "rb")
    except OSError as error:
        raise BadImage(os_reason(error)) from error
    except ValueError as error:  # a NUL, or a character that file names cannot have
        raise BadImage("no file can have this name") from error
    try:
        status = os.fstat(stream.fileno())
        _require_regular(status)
        if status.st_size == 0:
            raise BadImage("the file is empty (0 bytes)")
        if stream.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise BadImage("a Git LFS pointer, not the image: run `git lfs pull`")
        stream.seek(0)
    except BaseException:
        stream.close()
        raise
    return stream


def read_regular(path: Path) -> bytes:
    """All bytes of a regular, non-empty file. Raises BadImage."""
    with open_regular(path) as stream:
        if os.fstat(stream.fileno()).st_size > _MAX_BYTES:
            raise BadImage("the file is larger than 2 GiB")
        try:
            return stream.read()
        except OSError as error:
            raise BadImage(os_reason(error)) from error


def _require_regular(status: os.stat_result) -> None:
    for is_kind, reason in _KINDS:
        if is_kind(status.st_mode):
            raise BadImage(reason)
