"""pycolmap is an extra: found here, or missed with the line that installs it."""

from __future__ import annotations

from importlib.util import find_spec
from types import ModuleType

from ..errors import BackendError

INSTALL = "pip install 'lite3r[colmap]'"


def require_pycolmap() -> ModuleType:
    """The module, quiet. Raises BackendError without it."""
    if find_spec("pycolmap") is None:
        raise BackendError(f"--refine needs pycolmap, which is not installed: {INSTALL}")
    import pycolmap

    pycolmap.logging.minloglevel = int(pycolmap.logging.FATAL)
    pycolmap.logging.alsologtostderr = False
    return pycolmap
