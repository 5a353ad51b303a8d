"""The table of extra output formats (`--format`): one line for each, one file for each beside this one."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from ..errors import UsageError
from ..scene.sparse_points import SparseModel
from ..scene.view import PointCloud, View
from .colmap import write_colmap
from .glb import write_glb
from .nerfstudio import write_nerfstudio
from .tum import write_tum


class FormatWriter(Protocol):
    """Writes a scene into a folder, which all formats can share, and returns the files."""

    def __call__(
        self,
        directory: Path,
        views: Sequence[View],
        cloud: PointCloud,
        references: Mapping[str, str] | None = None,
        sparse: SparseModel | None = None,
    ) -> list[Path]:
        """`references`: view name -> image path to write where a format names image files. `sparse`: what stands for
        the cloud in a format that knows tracks. Raises OutputError."""
        ...


EXTRA_FORMATS: dict[str, FormatWriter] = {
    "colmap": lambda directory, views, cloud, references=None, sparse=None: write_colmap(
        directory, views, cloud, sparse
    ),
    "nerfstudio": lambda directory, views, cloud, references=None, sparse=None: write_nerfstudio(
        directory, views, cloud, references
    ),
    "tum": lambda directory, views, cloud, references=None, sparse=None: write_tum(directory, views),
    "glb": lambda directory, views, cloud, references=None, sparse=None: write_glb(directory, views, cloud),
}


def require_known(names: Iterable[str]) -> None:
    """Raise UsageError for a name that is no key of EXTRA_FORMATS."""
    for name in names:
        if name not in EXTRA_FORMATS:
            close = difflib.get_close_matches(name, EXTRA_FORMATS, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise UsageError(f"--format {name}: unknown{hint}; known formats: {', '.join(sorted(EXTRA_FORMATS))}")


def image_references(paths: Mapping[str, Path], directory: Path) -> dict[str, str]:
    """View name -> path of its image relative to `directory` (the final one, not a staging one), with slashes."""
    return {name: Path(os.path.relpath(path, directory)).as_posix() for name, path in paths.items()}
