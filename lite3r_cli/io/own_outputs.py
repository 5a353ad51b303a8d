"""Files that earlier runs wrote, which are no input.

They are recognised by the run.json next to them, also after the folder was moved or renamed. Photographs that `--format
colmap`, `nerfstudio` and others copied to images/ are input if that folder, or a file of it, is named.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import InputError
from .documents import read_json

_RUN_JSON = "run.json"
_PICTURES = "images"
_LEVELS = 4  # folders between a file of an output and its run.json: scene/colmap/images/left/a.jpg


def written_into(folder: Path) -> dict[str, int]:
    """Real path → size of every file that a run.json in `folder`, or in a folder directly below it, lists.

    Never raises: an invalid run.json lists nothing.
    """
    listed: dict[str, int] = {}
    places = [folder]
    try:
        with os.scandir(folder) as entries:
            places += [folder / entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    except OSError:
        return listed
    for place in places:
        listed |= _listed_by(place)
    return listed


def written_above(folder: Path) -> dict[str, int]:
    """The same for a run.json in a folder above: `folder` may be the depth/ of an output.

    Images copied to images/ are excluded if `folder` is that images/ or is inside it.
    """
    listed: dict[str, int] = {}
    below = Path(os.path.realpath(folder))
    for place in list(below.parents)[:_LEVELS]:
        if _PICTURES not in below.relative_to(place).parts:
            listed |= _listed_by(place)
    return listed


def is_output(path: Path, listed: dict[str, int]) -> bool:
    """Whether a file is in the list with its size. A file that a user has replaced is not."""
    if not listed:
        return False
    size = listed.get(os.path.realpath(path))
    if size is None:
        return False
    try:
        return os.path.getsize(path) == size
    except OSError:
        return False


def _listed_by(place: Path) -> dict[str, int]:
    """Names in run.json are relative to the folder of the cloud: the place itself, or its parent, in which the place
    may have had another name.
    """
    if not os.path.lexists(place / _RUN_JSON):
        return {}
    try:
        document = read_json(place / _RUN_JSON)
        sizes = {str(name): int(entry["bytes"]) for name, entry in document["files"].items()}
    except (InputError, ValueError, OverflowError, KeyError, TypeError, AttributeError):
        return {}
    top = os.path.realpath(place)
    named = _folder_named_in(sizes)
    listed = {}
    for name, size in sizes.items():
        inside = name.removeprefix(named) if name.startswith(named) else f"../{name}"
        if "\0" not in name:
            listed[os.path.normpath(os.path.join(top, inside))] = size
    return listed


def _folder_named_in(names: dict[str, int]) -> str:
    """`scene/` if the list has scene.ply and files in scene/; None if all files are in one folder."""
    folders = {name.partition("/")[0] for name in names if "/" in name}
    if len(folders) != 1 or sum("/" not in name for name in names) > 1:
        return ""
    return f"{folders.pop()}/"
