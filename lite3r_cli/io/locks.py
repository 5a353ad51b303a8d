"""Who may write at a place: one run at a time, and nothing that is there is taken for a lock because of its name."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import BackendError, OutputError
from ..stopping import unfinished, uninterrupted
from .files import output_error

try:
    import fcntl
except ImportError as error:
    raise BackendError("lite3r runs on Linux and macOS; on Windows use WSL (locks and renames are POSIX's)") from error

RUN_LOCK = ".lite3r.lock"
_held: dict[int, Callable[[], None]] = {}  # descriptor of a lock → says that it need not be given back any more


@contextmanager
def run_folder(folder: Path) -> Iterator[None]:
    """Make a folder and hold it as long as a run writes into it; one that stays empty goes again. Raises OutputError
    where another run does.
    """
    made = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    lock = None
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = acquire(folder / RUN_LOCK)
        except OSError as error:
            raise output_error(folder, error) from error
        yield
    finally:
        if lock is not None:
            give_back(lock, folder / RUN_LOCK)
        remove_folders(made)


def clear_lock(folder: Path) -> None:
    """Remove the lock that a killed run has left in a folder; one that is held stays."""
    with suppress(OSError, OutputError):
        if os.path.lexists(folder / RUN_LOCK):
            give_back(acquire(folder / RUN_LOCK), folder / RUN_LOCK)


def in_the_way(path: Path) -> OutputError:
    """For what the program has not written and would have to replace."""
    return OutputError(f"{path}: is in the way and not from lite3r; move it or choose another -o")


def remove_folders(folders: Sequence[Path]) -> None:
    """Remove those that are empty, the lowest first."""
    for folder in sorted(folders, key=lambda path: -len(path.parts)):
        try:
            folder.rmdir()
        except OSError:
            return  # somebody uses it


class Busy(OutputError):
    """Another process holds the lock."""


def acquire(path: Path) -> int:
    """Take the lock file and return its descriptor; the kernel frees it when the process ends, however it ends.

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
            if os.fstat(descriptor).st_nlink:  # else its last holder removed it between our open and our lock
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise Busy(f"{path.parent}: another run is writing here; wait for it or choose another -o") from None
        except OSError as error:
            os.close(descriptor)
            with suppress(OSError):
                path.unlink()  # no lock to anybody where there are none
            raise OutputError(f"{path}: cannot be locked ({error.strerror}); write to a local disk with -o") from error
        except OutputError:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _open_lock(path: Path) -> int:
    """Neither a link nor a pipe is waited for or followed. A lock that another user left can be held, not written."""
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
    """Remove a lock file that is held, then let go of it. Does nothing the second time."""
    with uninterrupted():
        finished = _held.pop(descriptor, None)
        if finished is None:
            return
        finished()
        try:
            path.unlink(missing_ok=True)
        except PermissionError:
            pass  # another user's, in a folder where one removes only one's own
        finally:
            os.close(descriptor)
