"""Output of one run of `reconstruct`: all files appear together or not at all; `run.json`, which lists them, comes
last.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import OutputError
from .files import output_error, write_json
from .kept_chunks import remove_finished
from .mounts import require_no_mounts
from .output_layout import OutputLayout, belongs, files_of_run, incomplete_files, output_layout, twin_of
from .stamps import stamp_of
from .syncing import in_threads
from .transaction import Transaction, recover
from .written_names import FOLDERS


@dataclass(frozen=True)
class Place:
    """Temporary place of one scene of an output: its cloud, and its other files in `directory`."""

    cloud: Path
    directory: Path
    place: Callable[[Path], Path]  # temporary path → final path
    note: Callable[[Path], None]  # see `OutputSet.note`

    def path(self, name: str) -> Path:
        """The temporary path of the file `name` ("depth/a.png"). Its folder exists."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def final(self, path: Path) -> Path:
        """The final path for a temporary path of this object."""
        return self.place(path)


class OutputSet:
    """The output of one run: `with OutputSet(target) as out: write to out.cloud, out.path(…); out.commit({…})`.

    Without `commit` nothing appears. Raises OutputError if the output exists and `overwrite` is off, if it contains a
    file that lite3r did not write, if another run is writing there, or if writing fails; existing output is then
    intact. `overwrite` replaces only the files in the old run.json.
    """

    def __init__(self, target: str | Path, overwrite: bool = False) -> None:
        self.layout: OutputLayout = output_layout(target)
        self.overwrite = overwrite
        self._old: list[str] = []  # files of the replaced output, run.json first
        self._files = Transaction(*_place_of(self.layout))
        self._folders: set[Path] = set()  # temporary folders that exist
        self.files: list[str] = []  # committed files, relative to the folder of the cloud, run.json last
        self._noted: dict[Path, tuple[tuple[int, ...], dict[str, Any]]] = {}  # entries of run.json, see `note`

    @property
    def cloud(self) -> Path:
        """The temporary path of the point cloud."""
        return self._files.new / self.layout.cloud

    @property
    def directory(self) -> Path:
        """The temporary folder of all other files."""
        return self._files.new / self.layout.folder

    @property
    def replaced(self) -> list[Path]:
        """The files of the old output that `commit` replaces or removes."""
        return [self.layout.root / name for name in self._old]

    def path(self, name: str) -> Path:
        """The temporary path of the file `name` ("depth/a.png") in the output's folder. Its folder exists."""
        path = self.directory / name
        if path.parent not in self._folders:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._folders.add(path.parent)
        return path

    def final(self, path: Path) -> Path:
        """The final path for a temporary path of this object."""
        return self.layout.root / path.relative_to(self._files.new)

    def part(self, number: int) -> Place:
        """The place of one of several scenes: 1 is the output itself, the others are in `part-2`, `part-3`, …"""
        if number == 1:
            return Place(self.cloud, self.directory, self.final, self.note)
        directory = self.directory / f"part-{number}"
        directory.mkdir(parents=True, exist_ok=True)
        return Place(directory / "scene.ply", directory, self.final, self.note)

    def note(self, path: Path) -> None:
        """Compute the entry of run.json for a finished file of this output and sync it to disk now, so that `commit`
        has less to wait for. A later change is noticed. Thread-safe. Raises OutputError.
        """
        try:
            with open(path, "rb") as stream:
                stamp = stamp_of(os.fstat(stream.fileno()))
                self._noted[path] = stamp, _entry_of(stream)
                os.fsync(stream.fileno())
        except OSError as error:
            raise output_error(path, error) from error

    def _noted_entry(self, path: Path) -> dict[str, Any] | None:
        """The entry of a file that has not changed since `note`."""
        stamp, entry = self._noted.get(path, (None, None))
        return entry if stamp is not None and stamp == _stamp(path) else None

    def __enter__(self) -> OutputSet:
        try:
            self._require_folder()
        except OSError as error:
            raise output_error(self.layout.root / self.layout.folder, error) from error
        self._files.__enter__()
        try:
            remove_finished(self.layout)
            self._old = self._replaceable()
            require_no_mounts(self.layout.root, self._places())
            self.directory.mkdir(parents=True, exist_ok=True)
        except BaseException as error:
            self._files.leave()
            if isinstance(error, OSError):
                raise output_error(self.layout.root / self.layout.cloud, error) from error
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.__exit__(kind, error, trace)

    def commit(self, run_info: Mapping[str, Any]) -> None:
        """Move everything into place, with a run.json of `run_info` and the list of files. Raises OutputError."""
        new = self._files.new
        names = sorted(path.relative_to(new).as_posix() for path in new.rglob("*") if not path.is_dir())
        kept = {name: entry for name in names if (entry := self._noted_entry(new / name)) is not None}
        changed = [name for name in names if name not in kept]
        listed = kept | dict(zip(changed, in_threads(lambda name: _listed(new / name), changed)))
        write_json(new / self.layout.run_json, {**run_info, "files": {name: listed[name] for name in names}})
        names.append(self.layout.run_json)
        self._files.commit(self._old, self.layout.run_json, synced=kept.keys())
        self.files = names

    def _places(self) -> list[Path]:
        """The output's folder and those in it, the cloud, and what is replaced, with its folders."""
        folder = self.layout.root / self.layout.folder
        inside = [folder / name for name in FOLDERS]
        above = dict.fromkeys(path.parent for path in self.replaced)
        below = [path for path in dict.fromkeys([folder, *inside, *above]) if path != self.layout.root]
        return [*below, self.layout.root / self.layout.cloud, *self.replaced]

    def _why_foreign(self) -> str:
        """Why nothing tells that files of the output are lite3r's, and what to move."""
        record = self.layout.root / self.layout.run_json
        if os.path.lexists(record) and files_of_run(self.layout) is None:
            return f"{record}, which should list it, is damaged or not lite3r's; move the scene away"
        return "no run.json lists it as lite3r's; move it"

    def _require_folder(self) -> None:
        """Raises OutputError if the place of the output's folder has something else."""
        if not self.layout.folder:
            return
        folder = self.layout.root / self.layout.folder
        if folder.is_symlink():
            raise output_error(folder, OSError(errno.ELOOP, os.strerror(errno.ELOOP)))
        if os.path.lexists(folder) and not folder.is_dir():
            raise OutputError(f"{folder}: is a file, but the output needs a folder of this name; choose another -o")

    def _replaceable(self) -> list[str]:
        """Files of the old output that may be replaced, run.json first. Raises OutputError if other files are there."""
        layout = self.layout
        old, twin, cameras = files_of_run(layout), twin_of(layout), "cameras.json"
        if twin is not None and layout.inside(cameras) not in (old or {}):
            if twin.inside(cameras) in (files_of_run(twin) or {}):
                text = f"belongs to the scene {twin.given}; use -o {twin.given} or choose another -o"
                raise OutputError(f"{layout.root / layout.run_json}: {text}")
        ours = [layout.run_json, *old] if old is not None else []
        for name in (layout.cloud, layout.run_json, layout.inside("cameras.json")):
            path = layout.root / name
            if not os.path.lexists(path):
                continue
            if name not in ours:
                raise OutputError(f"{path}: exists and {self._why_foreign()} or choose another -o")
            if not self.overwrite:
                lost = incomplete_files(layout, old or {})
                if lost:
                    more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
                    changed = any(os.path.lexists(layout.root / each) for each in lost)  # perhaps a user's work
                    first = "move or remove what has changed, then " if changed else ""
                    text = f"is incomplete: {lost[0]}{more} is missing or has changed; {first}--overwrite makes it anew"
                    raise OutputError(f"{path}: {text}")
                raise OutputError(f"{path}: exists; --overwrite replaces it")
        for name, size in (old or {}).items():
            _require_unchanged(layout.root / name, size)
        return ours


def bring_right(target: str | Path) -> None:
    """Undo the partial commit of a stopped run. Raises OutputError."""
    recover(*_place_of(output_layout(target)))


def _place_of(layout: OutputLayout) -> tuple[Path, str, Callable[[str], bool], str]:
    """The arguments of the transaction. `-o w.ply` and `-o w/` share the files in w/: both hold the lock of the
    latter.
    """
    twin = twin_of(layout) if layout.folder else None
    shared = f"{layout.folder}/{twin.cloud}" if twin is not None else ""
    return layout.root, layout.cloud, lambda name: belongs(layout, name), shared


def _require_unchanged(path: Path, size: int) -> None:
    """Raises OutputError if a listed file has changed: it may be a user's work."""
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise output_error(path, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise OutputError(f"{path}: run.json lists a file, but this is none; move it or choose another -o")
    if status.st_size != size:
        raise OutputError(
            f"{path}: has {status.st_size} bytes, not the {size} that were written: changed since, or damaged; "
            "move or remove it, or choose another -o"
        )


def _stamp(path: Path) -> tuple[int, ...]:
    """Changes when the file does. Raises OutputError."""
    try:
        return stamp_of(path.stat())
    except OSError as error:
        raise output_error(path, error) from error


def _listed(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file, as listed in run.json. Raises OutputError."""
    try:
        with open(path, "rb") as stream:
            return _entry_of(stream)
    except OSError as error:
        raise output_error(path, error) from error


def _entry_of(stream: BufferedReader) -> dict[str, Any]:
    digest = hashlib.file_digest(stream, "sha256")
    return {"bytes": stream.tell(), "sha256": digest.hexdigest()}
