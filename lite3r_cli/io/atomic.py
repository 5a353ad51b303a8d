"""The files of one run appear together or not at all.

Everything is written into a hidden folder beside the target, on the same file system. `commit` syncs it to the disk,
moves the old output's files aside, renames the new ones into place, `run.json` last, and only then drops the old ones.
A journal is written before the first rename, so that whatever stops a commit (an error, a signal, power) is undone: by
this run as it leaves, else by the next run into the same output. A lock that dies with its process parts two runs.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import OutputError
from .files import output_error, write_json
from .output_layout import Layout, belongs, files_of_run, layout_of


class OutputSet:
    """The output of one run: `with OutputSet(target) as out: write to out.cloud, out.path(…); out.commit({…})`.

    Without `commit` nothing appears. Raises OutputError where the output exists and `overwrite` is not given, where a
    file that this program did not write is in the way, where another run is writing there, or where writing fails;
    what was there before is then as it was. `overwrite` replaces only the files that the old run.json lists.
    """

    def __init__(self, target: str | Path, overwrite: bool = False) -> None:
        self.layout: Layout = layout_of(target)
        self.overwrite = overwrite
        self._old: list[str] = []  # files of the output that this one replaces, run.json first
        self._staging: Path | None = None
        self._lock: int | None = None
        self._made: list[Path] = []  # folders that did not exist before
        self._committed = False
        self.files: list[str] = []  # what was committed, relative to the folder of the cloud, run.json last

    @property
    def cloud(self) -> Path:
        """Where to write the point cloud for now."""
        return self._new / self.layout.cloud

    @property
    def directory(self) -> Path:
        """Where to write everything else for now."""
        return self._new / self.layout.folder

    def path(self, name: str) -> Path:
        """Where to write the file `name` ("depth/a.png") of the output's folder for now; its folder exists."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def final(self, path: Path) -> Path:
        """The place that a path given out by this object will have in the end."""
        return self.layout.root / path.relative_to(self._new)

    def __enter__(self) -> OutputSet:
        try:
            self._make_folder(self.layout.root)
            self._lock = _acquire(self._lock_file)
            for leftover in self.layout.root.glob(f"{glob.escape(self._prefix)}*"):
                _discard(leftover, self.layout)
            self._old = self._replaceable()
            self._staging = Path(tempfile.mkdtemp(prefix=self._prefix, dir=self.layout.root))
            self.directory.mkdir(parents=True)
        except BaseException as error:
            self._leave()
            if isinstance(error, OSError):
                raise output_error(self.layout.root / self.layout.cloud, error) from error
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        staging = self._staging
        try:
            self._leave()
        except OSError as failure:
            raise output_error(Path(failure.filename or self.layout.root), failure) from failure
        if staging is None or not isinstance(error, (OSError, OutputError)):
            return
        here, there = f"{staging / 'new'}{os.sep}", f"{self.layout.root}{os.sep}"
        if isinstance(error, OutputError) and here in str(error):  # name the file as the user knows it
            raise OutputError(str(error).replace(here, there)) from error
        if isinstance(error, OSError) and here in str(error.filename):
            raise output_error(Path(str(error.filename).replace(here, there)), error) from error

    def commit(self, run_info: Mapping[str, Any]) -> None:
        """Put everything into place, with a run.json of `run_info` and the list of files. Raises OutputError."""
        root, new = self.layout.root, self._new
        try:
            names = sorted(path.relative_to(new).as_posix() for path in new.rglob("*") if not path.is_dir())
            listing = {name: _synced(new / name) for name in names}
            write_json(new / self.layout.run_json, {**run_info, "files": listing})
            names.append(self.layout.run_json)
            _synced(new / self.layout.run_json)
            for name in names:
                if name not in self._old and os.path.lexists(root / name):
                    raise OutputError(f"{root / name}: is in the way and not from lite3r; move it or choose another -o")
            self._write_journal(names)
            for name in self._old:
                if os.path.lexists(root / name):
                    self._move(root / name, self._staging / "old" / name)
            for name in names:
                self._make_folder((root / name).parent)
                self._move(new / name, root / name)
            for folder in {(root / name).parent for name in names}:
                _sync_folder(folder)
        except OSError as error:
            involved = [Path(name) for name in (error.filename, error.filename2) if name]
            lasting = [path for path in involved if self._staging not in path.parents]  # the names that the user knows
            raise output_error(lasting[0] if lasting else root, error) from error
        self._committed, self.files = True, names

    @property
    def _new(self) -> Path:
        if self._staging is None:
            raise RuntimeError("OutputSet is used outside its `with` block")
        return self._staging / "new"

    @property
    def _prefix(self) -> str:
        return f".{self.layout.cloud}.lite3r-"

    @property
    def _lock_file(self) -> Path:
        return self.layout.root / f".{self.layout.cloud}.lock"

    def _replaceable(self) -> list[str]:
        """Files of the old output that may be replaced, run.json first. Raises OutputError unless the way is free."""
        layout = self.layout
        folder = layout.root / layout.folder
        if os.path.lexists(folder) and not folder.is_dir():
            raise OutputError(f"{folder}: is a file, but the output needs a folder of this name; choose another -o")
        old = files_of_run(layout)
        ours = [layout.run_json, *old] if old is not None else []
        for name in (layout.cloud, layout.run_json, layout.inside("cameras.json")):
            path = layout.root / name
            if not os.path.lexists(path):
                continue
            if name not in ours:
                raise OutputError(f"{path}: exists and no run.json lists it as lite3r's; move it or choose another -o")
            if not self.overwrite:
                raise OutputError(f"{path}: exists; --overwrite replaces it, --skip-existing keeps it")
        return ours

    def _write_journal(self, names: list[str]) -> None:
        """State what is about to move, so that it can be undone: each new file with what tells it from a stranger's."""
        marks = {name: [(stat := (self._new / name).stat()).st_size, stat.st_mtime_ns] for name in names}
        write_json(self._staging / "journal.tmp", marks)
        _synced(self._staging / "journal.tmp")
        os.replace(self._staging / "journal.tmp", self._staging / "journal.json")
        _sync_folder(self._staging)

    def _move(self, source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, target)

    def _make_folder(self, folder: Path) -> None:
        """Make a folder and remember which of its parents were missing."""
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        self._made += reversed(missing)

    def _leave(self) -> None:
        """Undo or finish, remove the temporary files, give back the lock."""
        try:
            if self._staging is not None:
                _discard(self._staging, self.layout)
        finally:
            self._staging = None
            if self._lock is not None:
                self._lock_file.unlink(missing_ok=True)
                os.close(self._lock)
                self._lock = None
        emptied = {parent for name in self._old for parent in (self.layout.root / name).parents}
        emptied = {path for path in emptied if self.layout.root in path.parents}
        for folder in sorted(emptied if self._committed else self._made, key=lambda path: -len(path.parts)):
            _remove_if_empty(folder)


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


def _discard(staging: Path, layout: Layout) -> None:
    """Remove a staging folder, first undoing its commit if that had started and not come to run.json, its last step."""
    new, old, journal = staging / "new", staging / "old", staging / "journal.json"
    if journal.is_file() and (new / layout.run_json).exists():
        try:
            marks = json.loads(journal.read_text(encoding="ascii")).items()
        except (ValueError, AttributeError) as error:
            raise OutputError(
                f"{staging}: left by a stopped run and damaged; save what you need, then remove it"
            ) from error
        for name, mark in marks:
            path = layout.root / name
            if belongs(layout, name) and not (new / name).exists() and path.is_file():
                stat = path.stat()
                if [stat.st_size, stat.st_mtime_ns] == mark:
                    path.unlink()
        for path in old.rglob("*"):
            target = layout.root / path.relative_to(old)
            if not path.is_dir() and not os.path.lexists(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, target)
    shutil.rmtree(staging, ignore_errors=True)


def _synced(path: Path) -> dict[str, Any]:
    """Bring a file to the disk; its size and SHA-256."""
    try:
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())
            digest = hashlib.file_digest(stream, "sha256")
            return {"bytes": stream.tell(), "sha256": digest.hexdigest()}
    except OSError as error:
        raise output_error(path, error) from error


def _sync_folder(folder: Path) -> None:
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
