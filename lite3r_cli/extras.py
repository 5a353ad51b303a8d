"""Optional packages: whether they are installed, and the command that installs them."""

from __future__ import annotations

from importlib.util import find_spec

from .errors import BackendError

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


def require(module: str, what: str) -> None:
    """Raise BackendError unless the package is installed. `what` is the option that needs it."""
    if not is_installed(module):
        raise BackendError(f"{what} needs the package {module}, which is not installed: {install_line(module)}")
