"""OpenCV without its own messages, for as long as it reads one of our files."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import cv2

# OpenCV 5 has these in a module of their own, OpenCV 4 at the top; level 0 is silence in both.
_log = cv2 if hasattr(cv2, "setLogLevel") else cv2.utils.logging
SILENT = 0
_lock = threading.Lock()
_inside, _level_before = 0, 0


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """Inside, OpenCV prints nothing about files that it cannot read: our errors say it in one line.

    Several threads may be inside at once; when the last one leaves, the host program's log level is back.
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
