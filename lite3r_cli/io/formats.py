"""The table of extra output formats (`--format`). Each format is a line here and a file next to this one."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError
from ..extras import require
from .colmap import write_colmap
from .gaussians import write_gaussians
from .glb import write_glb
from .html_page import write_html
from .las import write_las, write_laz
from .mesh_files import write_mesh
from .nerfstudio import write_nerfstudio
from .rerun_file import write_rerun
from .scene_export import SceneExport
from .textured_mesh import write_textured_mesh
from .tum import write_tum, write_tum_rgbd


@dataclass(frozen=True)
class Format:
    """`write` writes a scene into the common folder of all formats and returns the files. Raises OutputError."""

    write: Callable[[SceneExport], list[Path]]
    levelled: bool = False  # for viewers: upright if the up direction is known, with the ground at the origin
    tracks: bool = False  # for training: points with tracks, and only trustworthy views
    registered_depth: bool = False  # needs depth files at the size of the images, with one scale
    pictures: bool = False  # needs images and masks next to it
    needs: tuple[str, ...] = ()  # optional packages
    measures: bool = False  # warn if lengths have no unit


EXTRA_FORMATS: dict[str, Format] = {
    "colmap": Format(write_colmap, tracks=True, pictures=True),
    "nerfstudio": Format(write_nerfstudio, tracks=True, pictures=True),
    "3dgs": Format(write_gaussians, tracks=True),
    "tum": Format(write_tum),
    "tum-rgbd": Format(write_tum_rgbd, pictures=True, registered_depth=True),
    "glb": Format(write_glb, levelled=True),
    "las": Format(write_las, needs=("laspy",), measures=True),
    "laz": Format(write_laz, needs=("laspy", "lazrs"), measures=True),
    "mesh": Format(write_mesh),
    "textured-mesh": Format(write_textured_mesh, needs=("xatlas",)),
    "html": Format(write_html),
    "rrd": Format(write_rerun, needs=("rerun",)),
}


def require_known(names: Iterable[str]) -> None:
    """Raise UsageError for a name that is not in EXTRA_FORMATS, BackendError if a package for it is missing."""
    for name in names:
        if name not in EXTRA_FORMATS:
            close = difflib.get_close_matches(name, EXTRA_FORMATS, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise UsageError(f"--format {name}: unknown{hint}; known formats: {', '.join(sorted(EXTRA_FORMATS))}")
        for module in EXTRA_FORMATS[name].needs:
            require(module, f"--format {name}")
