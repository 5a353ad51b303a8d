"""Imports pycolmap, an optional package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from ..extras import import_pycolmap


def require_pycolmap() -> ModuleType:
    """The pycolmap module. Raises BackendError if it is not installed."""
    return import_pycolmap("--refine")


@contextmanager
def quiet_pycolmap() -> Iterator[None]:
    """Limits pycolmap's messages to fatal errors inside the block, and restores the log level of the host program."""
    log = require_pycolmap().logging
    before = log.minloglevel, log.alsologtostderr
    log.minloglevel, log.alsologtostderr = int(log.FATAL), False
    try:
        yield
    finally:
        log.minloglevel, log.alsologtostderr = before
