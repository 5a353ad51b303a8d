"""pycolmap is an extra: found here, or missed with the line that installs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType

from ..errors import BackendError

INSTALL = "pip install 'lite3r[colmap]'"


def require_pycolmap() -> ModuleType:
    """The module. Raises BackendError without it."""
    if find_spec("pycolmap") is None:
        raise BackendError(f"--refine needs pycolmap, which is not installed: {INSTALL}")
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
