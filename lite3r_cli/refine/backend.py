"""pycolmap is an extra: found here, or missed with the line that installs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from ..extras import require


def require_pycolmap() -> ModuleType:
    """The module. Raises BackendError without it."""
    require("pycolmap", "--refine")
    import pycolmap

    return pycolmap


@contextmanager
def quiet_pycolmap() -> Iterator[None]:
    """Inside, pycolmap prints nothing below a fatal error; afterwards its log level is the host program's again."""
    log = require_pycolmap().logging
    before = log.minloglevel, log.alsologtostderr
    log.minloglevel, log.alsologtostderr = int(log.FATAL), False
    try:
        yield
    finally:
        log.minloglevel, log.alsologtostderr = before
