"""The stamp of a file, which differs once another program has written to it, also one that sets its time back."""

from __future__ import annotations

import os
import time

FINE, COARSE = 2 * 10**7, 2 * 10**9  # nanoseconds between two times of a file: kernels' ticks; FAT, whole seconds


def stamp_of(status: os.stat_result) -> tuple[int, ...]:
    """Times of the last change of content and of status, size, inode."""
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def settle(status: os.stat_result) -> bool:
    """Wait until a further change of the file will have another time: one that follows at once may have the same.
    False if its time lies in the future, where no wait helps.
    """
    tick = FINE if status.st_ctime_ns % 10**9 else COARSE
    left = status.st_ctime_ns + tick - time.time_ns()
    if 0 < left <= tick:
        time.sleep(left / 1e9)
    return left <= tick
