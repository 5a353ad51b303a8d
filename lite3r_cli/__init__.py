"""lite3r: a folder of photos becomes depth maps, camera poses and a coloured point cloud.

    import lite3r_cli as lite3r

    scene = lite3r.reconstruct("photos/")
    scene.save("scene.ply")

The import is light: a public name imports what it needs at its first use (PEP 562).
"""

from __future__ import annotations

__version__ = "0.1.0"

TYPE_CHECKING = False  # as in typing, whose import takes longer than this module
if TYPE_CHECKING:
    from typing import Any

    from .api import Reconstructor, export, load_model, reconstruct, sparsify
    from .pipelines.result import Scene
    from .scene.posed_view import PointCloud, View

__all__ = [
    "PointCloud",
    "Reconstructor",
    "Scene",
    "View",
    "__version__",
    "export",
    "load_model",
    "reconstruct",
    "sparsify",
]

_HOMES = {
    "PointCloud": "scene.posed_view",
    "Reconstructor": "api",
    "Scene": "pipelines.result",
    "View": "scene.posed_view",
    "export": "api",
    "load_model": "api",
    "reconstruct": "api",
    "sparsify": "api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value  # the next access does not call __getattr__
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
