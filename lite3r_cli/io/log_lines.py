"""Logs, which grow by a line at a time."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from .files import output_error
from .locks import in_the_way


def append_line(path: Path, line: str) -> None:
    """Append a line to a text file, which is made if necessary. Raises OutputError, also for a link or a file with a
    second name, because the line would appear elsewhere.
    """
    try:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        with os.fdopen(os.open(path, flags, 0o666), "ab", buffering=0) as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
                raise in_the_way(path)
            data = line.encode()
            if stream.write(data) != len(data):
                os.truncate(stream.fileno(), status.st_size)  # remove the partial line
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        if error.errno == errno.ENXIO:  # a pipe that nobody reads, or a socket
            raise in_the_way(path) from error
        raise output_error(path, error) from error
