"""Pillow calls more than 179 Mpx an attack, and warns from half of that on; here --max-pixels is the limit."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_users = 0  # threads within `no_limit`
_kept: int | None = None  # Pillow's limit, which belongs to the process


@contextmanager
def no_limit() -> Iterator[None]:
    """Open pictures of any size: whoever uses this compares the size himself before anything is decoded."""
    from PIL import Image

    global _users, _kept
    with _lock:
        if not _users:
            _kept, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                Image.MAX_IMAGE_PIXELS = _kept
