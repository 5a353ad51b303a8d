"""Whether two paths lead to the same entry of a disk: through links, bind mounts, or other letters where case does not
count.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path


def entry_keys(path: Path) -> frozenset[object]:
    """Keys of an entry; two paths that share one lead to the same entry. A path that does not exist has its text.

    Hard links are different entries: if one is replaced, the others keep the content.
    """
    try:
        real = os.path.realpath(path)
        found, folder = os.stat(real), os.stat(os.path.dirname(real))
    except (OSError, ValueError):  # ValueError: a NUL character
        return frozenset([_text(path)])
    identity = (found.st_dev, found.st_ino)
    keys: set[object] = {real, (folder.st_dev, folder.st_ino, os.path.basename(real))}
    if stat.S_ISDIR(found.st_mode) or found.st_nlink == 1:
        keys.add(identity)
    return frozenset(keys)


def is_same_entry(one: Path, other: Path) -> bool:
    return not entry_keys(one).isdisjoint(entry_keys(other))


def _text(path: Path) -> str:
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):
        return str(path)
