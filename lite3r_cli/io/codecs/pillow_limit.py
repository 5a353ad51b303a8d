"""Raises Pillow's size limit: Pillow rejects more than 179 Mpx and warns from half of that on; here --max-pixels is the
limit.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_users = 0  # threads within `no_limit`
_kept: int | None = None  # Pillow's limit, a global of the process


@contextmanager
def no_limit() -> Iterator[None]:
    """Allow images of any size inside the block; the caller must check the size before decoding."""
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
