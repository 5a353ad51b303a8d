"""Mount points in an output: nothing can be renamed into a folder where something else is mounted, not even another
folder of the same disk, and a file that is one cannot be replaced.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from ..errors import OutputError

_TABLE = "/proc/self/mountinfo"  # of Linux: man 5 proc; the fifth column is the path, with blanks as octal numbers


def require_no_mounts(root: Path, paths: Iterable[Path]) -> None:
    """Raises OutputError for one of the `paths` below `root` at which something is mounted; they need not exist."""
    mounted, real = _mount_points(), os.path.realpath(root)
    for path in paths:
        try:
            apart = path.lstat().st_dev != root.stat().st_dev  # systems without the table
        except OSError:
            continue  # it does not exist yet, or writing will report it
        if apart or os.path.normpath(os.path.join(real, path.relative_to(root))) in mounted:
            raise OutputError(
                f"{path}: something is mounted here, so no file can be moved here; unmount it or choose another -o"
            )


def _mount_points() -> frozenset[str]:
    """The paths of all mount points; empty on systems that have no such table."""
    try:
        with open(_TABLE, "rb") as table:
            columns = [line.split() for line in table]
    except OSError:
        return frozenset()
    return frozenset(os.fsdecode(re.sub(rb"\\([0-7]{3})", _character, line[4])) for line in columns if len(line) > 4)


def _character(octal: re.Match[bytes]) -> bytes:
    return bytes([int(octal[1], 8)])
