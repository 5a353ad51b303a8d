"""Locks of output places: one run at a time. A file is not treated as a lock because of its name alone."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import BackendError, OutputError
from ..stopping import unfinished, uninterrupted
from .beneath import refuse_planted
from .files import output_error

try:
    import fcntl
except ImportError as error:
    raise BackendError("lite3r runs on Linux and macOS; on Windows use WSL (locks and renames are POSIX's)") from error

RUN_LOCK = ".lite3r.lock"
_held: dict[int, Callable[[], None]] = {}  # descriptor of a lock → function that cancels its clean-up


@contextmanager
def run_folder(folder: Path) -> Iterator[None]:
    """Make a folder and lock it while a run writes into it; an empty one is removed again. Raises OutputError if
    another run has it, or it is a link of another user.
    """
    made = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    lock = None
    try:
        try:
            refuse_planted(folder)
            folder.mkdir(parents=True, exist_ok=True)
            refuse_planted(folder)  # it may have appeared in between
            lock = acquire(folder / RUN_LOCK)
        except OSError as error:
            raise output_error(folder, error) from error
        yield
    finally:
        if lock is not None:
            give_back(lock, folder / RUN_LOCK)
        remove_folders(made)


def clear_lock(folder: Path) -> None:
    """Remove the lock that a killed run has left in a folder; a lock in use stays."""
    with suppress(OSError, OutputError):
        if os.path.lexists(folder / RUN_LOCK):
            give_back(acquire(folder / RUN_LOCK), folder / RUN_LOCK)


def in_the_way(path: Path) -> OutputError:
    """The error for a file that lite3r did not write and would have to replace."""
    return OutputError(f"{path}: is in the way and not from lite3r; move it or choose another -o")


def not_ours(folder: Path, found: object | None) -> OutputError:
    """The error for a folder of this run that is no longer in its place; `found` is what is there, None: nothing."""
    if found is None:
        return OutputError(f"{folder}: is gone; somebody has removed it, or its folder. Start again")
    return OutputError(f"{folder}: somebody has exchanged this folder; choose an -o where only you can write")


def remove_folders(folders: Sequence[Path]) -> None:
    """Remove the empty ones, the deepest first."""
    for folder in sorted(folders, key=lambda path: -len(path.parts)):
        try:
            folder.rmdir()
        except OSError:
            return  # another process uses it


class Busy(OutputError):
    """Another process holds the lock."""


def acquire(path: Path) -> int:
    """Take the lock file and return its descriptor. The kernel releases it however the process ends.

    Raises Busy, OutputError, OSError.
    """
    with uninterrupted():
        descriptor = _acquire(path)
        _held[descriptor] = unfinished(lambda: give_back(descriptor, path))
    return descriptor


def _acquire(path: Path) -> int:
    while True:
        descriptor = _open_lock(path)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise in_the_way(path)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:  # otherwise its holder removed it between open and lock
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise Busy(f"{path.parent}: another run is writing here; wait for it or choose another -o") from None
        except OSError as error:
            os.close(descriptor)
            with suppress(OSError):
                path.unlink()  # file systems without locks: leave no lock file
            raise OutputError(f"{path}: cannot be locked ({error.strerror}); write to a local disk with -o") from error
        except OutputError:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _open_lock(path: Path) -> int:
    """Links are not followed, and pipes do not block. A lock file of another user can be locked, not written."""
    flags = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        try:
            return os.open(path, flags | os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:
            if not os.path.lexists(path):
                raise
            return os.open(path, flags | os.O_RDONLY)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise in_the_way(path) from error
        raise


def give_back(descriptor: int, path: Path) -> None:
    """Remove a held lock file, then release it. Does nothing the second time."""
    with uninterrupted():
        finished = _held.pop(descriptor, None)
        if finished is None:
            return
        finished()
        try:
            path.unlink(missing_ok=True)
        except PermissionError:
            pass  # it belongs to another user, in a folder with the sticky bit
        finally:
            os.close(descriptor)
