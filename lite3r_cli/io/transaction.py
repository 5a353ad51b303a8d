"""New files of one folder take the place of old ones together, or nothing changes.

Everything is written into a hidden folder beside its place, on the same file system. `commit` syncs it to the disk,
moves the old files aside, renames the new ones into place, the one that says "complete" last, and only then drops the
old ones. A journal is written before the first rename, so that whatever stops a commit (an error, a signal, a power
cut) is undone: by this run as it leaves, else by the next run at the same place. flock() serialises concurrent runs;
the kernel drops it when the process ends.
"""

from __future__ import annotations

import errno
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from ..errors import BackendError, OutputError
from .files import output_error, write_json

try:
    import fcntl
except ImportError as error:
    raise BackendError("lite3r runs on Linux and macOS; on Windows use WSL (locks and renames are POSIX's)") from error


T = TypeVar("T")
THREADS = 8  # that hash and sync files
FEWEST_FOR_THREADS = 16  # files; for fewer, threads cost more than they save


class Transaction:
    """`with Transaction(root, name, belongs) as files: write below files.new; files.commit(old, last)`.

    `name` is the file that users know the output by: the lock and the hidden folder are called after it. `belongs`
    tells of a path relative to `root` whether it may be touched when a stopped commit is undone. Without `commit`
    nothing appears. Raises OutputError where another run is writing there, or where writing fails.
    """

    def __init__(self, root: Path, name: str, belongs: Callable[[str], bool]) -> None:
        self.root, self.name, self.belongs = root, name, belongs
        self._staging: Path | None = None
        self._lock: int | None = None
        self._made: list[Path] = []  # folders that did not exist before
        self._old: list[str] = []
        self._committed = False

    @property
    def staging(self) -> Path:
        """The hidden folder."""
        if self._staging is None:
            raise RuntimeError(f"the output of {self.name} is used outside its `with` block")
        return self._staging

    @property
    def new(self) -> Path:
        """Where to write for now, with the paths that the files have below `root` in the end."""
        return self.staging / "new"

    def __enter__(self) -> Transaction:
        try:
            self._make_folder(self.root)
            self._lock = _acquire(self._lock_file)
            for leftover in self.root.glob(f"{glob.escape(self._prefix)}*"):
                self._discard(leftover)
            self._staging = Path(tempfile.mkdtemp(prefix=self._prefix, dir=self.root))
            self.new.mkdir()
        except BaseException as error:
            self.leave()
            if isinstance(error, OSError):
                raise output_error(self.root / self.name, error) from error
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        staging = self._staging
        try:
            self.leave()
        except OSError as failure:
            raise output_error(Path(failure.filename or self.root), failure) from failure
        if staging is None or not isinstance(error, (OSError, OutputError)):
            return
        here, there = f"{staging / 'new'}{os.sep}", f"{self.root}{os.sep}"
        if isinstance(error, OutputError) and here in str(error):  # name the file as the user knows it
            raise OutputError(str(error).replace(here, there)) from error
        if isinstance(error, OSError) and here in str(error.filename):
            raise output_error(Path(str(error.filename).replace(here, there)), error) from error

    def commit(self, old: Sequence[str], last: str) -> None:
        """Put every file below `new` into its place, `last` at the end; `old` are the files that go, paths relative to
        `root`, the one that says "complete" first. Raises OutputError.
        """
        self._old = list(old)
        try:
            names = [path.relative_to(self.new).as_posix() for path in self.new.rglob("*") if not path.is_dir()]
            names = [*sorted(name for name in names if name != last), last]
            in_threads(lambda name: sync_file(self.new / name), names)
            self._write_journal(names, last)
            for name in self._old:
                if os.path.lexists(self.root / name):
                    self._move(self.root / name, self.staging / "old" / name)
            for name in names:
                self._make_folder((self.root / name).parent)
                self._move(self.new / name, self.root / name)
            for folder in {(self.root / name).parent for name in names}:
                sync_folder(folder)
        except OSError as error:
            involved = [Path(name) for name in (error.filename, error.filename2) if name]
            lasting = [path for path in involved if self.staging not in path.parents]  # the names that the user knows
            raise output_error(lasting[0] if lasting else self.root, error) from error
        self._committed = True

    @property
    def _prefix(self) -> str:
        return f".{self.name}.lite3r-"

    @property
    def _lock_file(self) -> Path:
        return self.root / f".{self.name}.lock"

    def _write_journal(self, names: Sequence[str], last: str) -> None:
        """State what is about to move, so that it can be undone: each new file with what tells it from a stranger's."""
        marks = {name: [(stat := (self.new / name).stat()).st_size, stat.st_mtime_ns] for name in names}
        write_json(self.staging / "journal.tmp", {"last": last, "files": marks})
        sync_file(self.staging / "journal.tmp")
        os.replace(self.staging / "journal.tmp", self.staging / "journal.json")
        sync_folder(self.staging)

    def _move(self, source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, target)

    def _make_folder(self, folder: Path) -> None:
        """Make a folder and remember which of its parents were missing."""
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        self._made += reversed(missing)

    def leave(self) -> None:
        """Undo or finish, remove the temporary files, give back the lock."""
        try:
            if self._staging is not None:
                self._discard(self._staging)
        finally:
            self._staging = None
            if self._lock is not None:
                self._lock_file.unlink(missing_ok=True)
                os.close(self._lock)
                self._lock = None
        emptied = {parent for name in self._old for parent in (self.root / name).parents}
        emptied = {path for path in emptied if self.root in path.parents}
        for folder in sorted(emptied if self._committed else self._made, key=lambda path: -len(path.parts)):
            _remove_if_empty(folder)

    def _discard(self, staging: Path) -> None:
        """Remove a hidden folder, first undoing its commit if that had started and not come to its last file."""
        journal = staging / "journal.json"
        if journal.is_file():
            try:
                document = json.loads(journal.read_text(encoding="ascii"))
                last, marks = str(document["last"]), dict(document["files"])
            except (ValueError, TypeError, KeyError) as error:
                raise OutputError(
                    f"{staging}: left by a stopped run and damaged; save what you need, then remove it"
                ) from error
            if (staging / "new" / last).exists():
                self._undo(staging, marks)
        shutil.rmtree(staging, ignore_errors=True)

    def _undo(self, staging: Path, marks: dict[str, list[int]]) -> None:
        for name, mark in marks.items():
            path = self.root / name
            if self.belongs(name) and not (staging / "new" / name).exists() and path.is_file():
                stat = path.stat()
                if [stat.st_size, stat.st_mtime_ns] == mark:
                    path.unlink()
        old = staging / "old"
        for path in old.rglob("*"):
            target = self.root / path.relative_to(old)
            if not path.is_dir() and not os.path.lexists(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, target)


def _acquire(path: Path) -> int:
    """Take the lock file and return its descriptor; the kernel frees it when the process ends, however it ends."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:  # else its last holder removed it between our open and our lock
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise OutputError(f"{path.parent}: another run is writing here; wait for it or choose another -o") from None
        except OSError as error:
            os.close(descriptor)
            raise OutputError(f"{path}: cannot be locked ({error.strerror}); write to a local disk with -o") from error
        os.close(descriptor)


def in_threads(function: Callable[[str], T], names: Sequence[str]) -> list[T]:
    """The function's results for all names, some at a time: a disk is faster with several requests in its queue.

    Raises what the first name that failed did; nothing of it runs on then.
    """
    if len(names) < FEWEST_FOR_THREADS:
        return [function(name) for name in names]
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            return list(pool.map(function, names))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def sync_file(path: Path) -> None:
    """Bring a file's content to the disk. Raises OutputError."""
    try:
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())
    except OSError as error:
        raise output_error(path, error) from error


def sync_folder(folder: Path) -> None:
    """Bring a folder's entries to the disk, where the file system can (some network ones cannot and say EINVAL)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.ENOTDIR):
            raise
