"""Paths of the files of an output, and their list in `run.json`.

    -o out/scene.ply    out/scene.ply   out/scene/cameras.json   out/scene/depth/…   out/scene/run.json
    -o out/             out/scene.ply   out/cameras.json         out/depth/…         out/run.json

`-o` means a folder unless it ends in `.ply`. `run.json` is written last; its key `files` lists every other file of the
output, relative to the folder of the cloud: {"scene/depth/a.png": {"bytes": …, "sha256": …}, …}.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

from ..config.output_names import is_like_a_file
from ..errors import InputError, UsageError
from .documents import read_json
from .written_names import is_written

_CLOUD = "scene.ply"  # in an output that is given as a folder
_MAX_PARTS = 32  # folders of a listed path; our paths have at most three


@dataclass(frozen=True)
class OutputLayout:
    """The paths of one output."""

    root: Path  # the folder of the cloud
    cloud: str  # file name of the cloud, in `root`
    folder: str  # folder of all other files, in `root`; "" for `root` itself

    def inside(self, name: str) -> str:
        """Path, relative to `root`, of a file in the folder, e.g. "depth/a.png" -> "scene/depth/a.png"."""
        return f"{self.folder}/{name}" if self.folder else name

    @property
    def title(self) -> str:
        """The title of the scene in viewers: its name."""
        return self.folder or self.root.absolute().name or "scene"

    @property
    def given(self) -> str:
        """A value of `-o` for it."""
        return str(self.root / self.cloud) if self.folder else f"{self.root}/"

    @property
    def run_json(self) -> str:
        return self.inside("run.json")


def output_layout(target: str | Path) -> OutputLayout:
    """The paths for `-o target`. Raises UsageError for a name that is neither a PLY file nor a folder."""
    if not str(target):
        raise UsageError("-o: the name is empty; give a .ply file or a folder")
    path = Path(target)
    is_folder = os.path.isdir(path) or str(target).endswith("/")
    if not is_folder and path.suffix.lower() == ".ply":
        return OutputLayout(root=path.parent, cloud=path.name, folder=path.stem)
    if not is_folder and is_like_a_file(target):
        raise UsageError(f"{target}: -o takes a name that ends in .ply, or a folder; for other formats add --format")
    return OutputLayout(root=path, cloud=_CLOUD, folder="")


def twin_of(layout: OutputLayout) -> OutputLayout | None:
    """The output with the same folder in the other spelling: that of `-o w.ply` for `-o w/`, and the reverse."""
    if layout.folder:
        return OutputLayout(root=layout.root / layout.folder, cloud=_CLOUD, folder="")
    root = layout.root if layout.root.name not in ("", "..") else Path(os.path.realpath(layout.root))
    return OutputLayout(root=root.parent, cloud=f"{root.name}.ply", folder=root.name) if root.name else None


def files_of_run(layout: OutputLayout) -> dict[str, int] | None:
    """Size in bytes of every file in the output's `run.json`; None if it is missing or not ours.

    A list with paths outside the output (absolute, `..`) or names that lite3r does not write is not ours.
    """
    try:
        document = read_json(layout.root / layout.run_json)
        sizes = {str(name): int(entry["bytes"]) for name, entry in document["files"].items()}
    except (InputError, ValueError, OverflowError, KeyError, TypeError, AttributeError):
        return None
    within = cache(lambda folder: _is_within(layout, folder))
    return sizes if all(_belongs(layout, name, within) for name in sizes) else None


def is_complete(target: str | Path) -> bool:
    """Whether `-o target` is a finished output: a valid run.json, and every listed file exists with its size."""
    layout = output_layout(target)
    sizes = files_of_run(layout)
    return sizes is not None and len(sizes) > 0 and not incomplete_files(layout, sizes)


def incomplete_files(layout: OutputLayout, sizes: Mapping[str, int]) -> list[str]:
    """Files of an output that are missing or have another size."""
    paths = {name: layout.root / name for name in sizes}
    return [name for name, path in paths.items() if not os.path.isfile(path) or path.stat().st_size != sizes[name]]


def belongs(layout: OutputLayout, name: str) -> bool:
    """Whether a listed path is the cloud, or a name that lite3r writes in the output's folder, with links resolved."""
    return _belongs(layout, name, lambda folder: _is_within(layout, folder))


def _belongs(layout: OutputLayout, name: str, within: Callable[[str], bool]) -> bool:
    """`belongs`, given the answer for a folder that a path names."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not 0 < len(path.parts) <= _MAX_PARTS or "\0" in name:
        return False
    inside = name.removeprefix(f"{layout.folder}/") if layout.folder else name
    return name == layout.cloud or (is_written(inside) and within(str(path.parent)))


def _is_within(layout: OutputLayout, folder: str) -> bool:
    """Whether a folder, relative to the cloud's, is the output's folder or below it with links resolved."""
    inside = Path(os.path.realpath(layout.root / folder))  # not `resolve`, which fails for a loop of links
    return inside.is_relative_to(os.path.realpath(layout.root / layout.folder))
