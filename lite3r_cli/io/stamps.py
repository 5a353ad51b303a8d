"""The stamp of a file, which differs once another program has written to it, also one that sets its time back."""

from __future__ import annotations

import os


def stamp_of(status: os.stat_result) -> tuple[int, ...]:
    """Times of the last change of content and of status, size, inode."""
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino
