"""The folder for intermediate files: that of TMPDIR, else the system's. A lock in each tells whether its process lives;
the next one removes what a killed process of the same user has left.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ..errors import OutputError
from .beneath import Beneath
from .locks import acquire, give_back
from .open_files import Reserve

PREFIX, LOCK = "lite3r-", "in-use"
FULL = 1 << 20  # bytes; with less free space, an error of a library is taken as that of a full disk


@contextmanager
def temporary_folder(what: str) -> Iterator[Path]:
    """A folder that is removed in the end. `what` is kept there ("the matches").

    Raises OutputError if there is no such folder, or if it is full when the block fails: libraries report that as a
    RuntimeError without a reason.
    """
    reserve = Reserve()
    try:
        reserve.keep()
        folder = tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True)
    except OSError as error:
        reserve.release()
        raise no_place(what, error) from error
    with folder as path, ExitStack() as held:
        held.callback(reserve.release)
        with suppress(OSError, OutputError):  # on a file system without locks nobody removes it after a kill
            held.callback(give_back, acquire(Path(path, LOCK)), Path(path, LOCK))
        try:
            _remove_leftovers(Path(path).parent)
            yield Path(path)
        except OSError as error:
            if Path(path) in Path(str(error.filename)).parents:
                raise no_place(what, error) from error
            raise
        except RuntimeError as error:
            if (reason := _why_full(Path(path))) is not None:
                raise no_place(what, reason) from error
            raise


def _why_full(folder: Path) -> OSError | None:
    """Why no larger files can be written: a full disk, a quota, a limit of the process."""
    if shutil.disk_usage(folder).free < FULL:
        return OSError(errno.ENOSPC, "the disk is full")
    try:
        largest = max((path.stat().st_size for path in folder.rglob("*") if path.is_file()), default=0)
        with tempfile.TemporaryFile(dir=folder) as probe:
            os.truncate(probe.fileno(), largest)  # a hole takes no space, but counts for the limit of a file's size
            probe.seek(0, os.SEEK_END)
            probe.write(bytes(FULL))
            probe.flush()
    except OSError as error:
        return error
    return None


def _remove_leftovers(place: Path) -> None:
    """Remove folders of processes that were killed: closed ones of this user whose lock nobody holds."""
    with suppress(OSError):
        below = Beneath(place)
        try:
            for name in os.listdir(place):
                if not name.startswith(PREFIX) or not below.is_file(f"{name}/{LOCK}"):
                    continue
                found = below.status(name)
                if found is not None and (found.st_uid, stat.S_IMODE(found.st_mode)) == (os.geteuid(), 0o700):
                    with suppress(OSError, OutputError):  # in use
                        lock = acquire(place / name / LOCK)
                        below.remove_tree(name, (found.st_dev, found.st_ino), LOCK)
                        give_back(lock, place / name / LOCK)
        finally:
            below.close()


def no_place(what: str, error: OSError) -> OutputError:
    """The error for something that cannot be kept in the temporary folder."""
    place = "temporary folder"
    with suppress(OSError):  # where there is none at all
        place = tempfile.gettempdir()
    advice = "make room, or let TMPDIR name a folder on another disk"
    return OutputError(f"{place}: {what} cannot be kept there ({error.strerror}); {advice}")
