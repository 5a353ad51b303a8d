"""Silences OpenCV while it reads a file of lite3r."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import cv2

# OpenCV 5 has these in a separate module, OpenCV 4 at the top level; level 0 is silent in both.
_log = cv2 if hasattr(cv2, "setLogLevel") else cv2.utils.logging
SILENT = 0
_lock = threading.Lock()
_inside, _level_before = 0, 0


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """Inside the block OpenCV prints nothing about unreadable files: our errors report them.

    Several threads may be inside; the last one to leave restores the log level of the host program.
    """
    global _inside, _level_before
    with _lock:
        if _inside == 0:
            _level_before = _log.getLogLevel()
            _log.setLogLevel(SILENT)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _log.setLogLevel(_level_before)
