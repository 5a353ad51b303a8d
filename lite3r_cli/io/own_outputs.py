"""Which files an earlier run wrote: they are no input for the next one.

They are known by the run.json beside them, also where the folder was moved or renamed since. The photographs that
`--format colmap`, `nerfstudio` and others copy to images/ are input for whoever names that folder, or a file of it.
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
    """Real path → size of every file that a run.json in `folder` or in a folder right below it lists.

    Never raises: a run.json that is no list of ours lists nothing.
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

    Pictures copied to images/ are not among them where `folder` is that images/ or lies in it.
    """
    listed: dict[str, int] = {}
    below = Path(os.path.realpath(folder))
    for place in list(below.parents)[:_LEVELS]:
        if _PICTURES not in below.relative_to(place).parts:
            listed |= _listed_by(place)
    return listed


def is_output(path: Path, listed: dict[str, int]) -> bool:
    """Is it a file of the list, in the size listed? One that a user has put in its place is not."""
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
    """Names in run.json are relative to the folder of the cloud: the place itself, or the one above it, in which the
    place may have had another name.
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
    """`scene/` where the list is of scene.ply and of what lies in scene/; nothing where all lies in one folder."""
    folders = {name.partition("/")[0] for name in names if "/" in name}
    if len(folders) != 1 or sum("/" not in name for name in names) > 1:
        return ""
    return f"{folders.pop()}/"
