"""The stamp of a file, which differs once another program has written to it, also one that sets its time back."""

from __future__ import annotations

import os
import time

COARSEST = 2 * 10**9  # nanoseconds: the clock of FAT, the coarsest of all file systems


def stamp_of(status: os.stat_result) -> tuple[int, ...]:
    """Times of the last change of content and of status, size, inode."""
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def is_settled(status: os.stat_result) -> bool:
    """Whether a further change will have another time. One that follows at once may have the same."""
    return time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > COARSEST
