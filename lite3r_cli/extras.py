"""Optional packages: whether they are installed, and the command that installs them."""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from types import ModuleType

from .errors import BackendError
from .stopping import same_actions

# Module → extra that installs it (pyproject.toml)
EXTRAS = {
    "cupy": "train",
    "flash_attn.cute": "hopper",
    "huggingface_hub": "hub",
    "laspy": "las",
    "lazrs": "las",
    "matplotlib": "plots",
    "pillow_heif": "heif",
    "pycolmap": "colmap",
    "pyproj": "geo",
    "ray": "ray",
    "rerun": "rerun",
    "transformer_engine": "te",
    "triton": "hopper",
    "viser": "serve",
    "xatlas": "mesh",
}


def install_line(module: str) -> str:
    """The command that installs an optional package."""
    return f"pip install 'lite3r[{EXTRAS[module]}]'"


def is_installed(module: str) -> bool:
    """Whether an optional package is installed. It is not imported."""
    return find_spec(module) is not None


def import_pycolmap(what: str) -> ModuleType:
    """The module. `what` is the option that needs it. Raises BackendError if it is not installed."""
    require("pycolmap", what)
    if "pycolmap" not in sys.modules:
        with same_actions():
            importlib.import_module("pycolmap")
    return importlib.import_module("pycolmap")  # waits for another thread that imports it just now


def require(module: str, what: str) -> None:
    """Raise BackendError unless the package is installed. `what` is the option that needs it."""
    if not is_installed(module):
        raise BackendError(f"{what} needs the package {module}, which is not installed: {install_line(module)}")
