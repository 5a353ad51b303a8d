"""Which files of a folder an earlier run wrote: they are no input for the next one."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import InputError
from .documents import read_json

_RUN_JSON = "run.json"


def written_into(folder: Path) -> dict[str, int]:
    """Absolute path → size of every file that a run.json in `folder` or in a folder right below it lists.

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


def is_output(path: Path, listed: dict[str, int]) -> bool:
    """Is it a file of the list, in the size listed? One that a user has put in its place is not."""
    size = listed.get(os.path.abspath(path))
    if size is None:
        return False
    try:
        return os.path.getsize(path) == size
    except OSError:
        return False


def _listed_by(place: Path) -> dict[str, int]:
    """Names in run.json are relative to the folder of the cloud: the place itself, or the one above it."""
    if not os.path.lexists(place / _RUN_JSON):
        return {}
    try:
        document = read_json(place / _RUN_JSON)
        sizes = {str(name): int(entry["bytes"]) for name, entry in document["files"].items()}
    except (InputError, ValueError, OverflowError, KeyError, TypeError, AttributeError):
        return {}
    own = f"{place.absolute().name}/"
    inside = [name for name in sizes if name.startswith(own)]
    root = place.parent if inside and all(name in inside or "/" not in name for name in sizes) else place
    top = os.path.abspath(root)
    return {os.path.normpath(os.path.join(top, name)): size for name, size in sizes.items() if "\0" not in name}
