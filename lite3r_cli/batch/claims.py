"""Claims of scenes: lock files that are released when their process ends, and a record for each scene.

Both are in OUT/.batch, where no link is followed. Any number of processes on one file system, started by hand, by a
shell or by a cluster, can share an output folder without a coordinator. The lock is flock(), which the kernel releases
however a process ends. The record counts how often a scene was begun, so that a scene that kills its process is not
tried for ever.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import InputError, OutputError
from ..io.beneath import Beneath
from ..io.documents import read_json
from ..io.files import output_error
from ..io.locks import Busy, acquire, give_back, remove_folders
from ..stopping import unfinished, uninterrupted

FOLDER = ".batch"
CLOCK = ".clock-"  # files whose time is asked for
SAME_TIME = 1.0  # seconds; the times of files are coarse
LATEST = 1e12  # seconds; comparisons with NaN are false
MOST_TRIES = 100  # to make a lock; a folder like a removed current one never takes it
LONGEST_NAME = 120  # bytes; with the ends of our files it fits even where names have at most 143 (eCryptfs)
MOST_ATTEMPTS = 3  # processes that may die on a scene
DONE, FAILED, RUNNING = "done", "failed", "running"
DIED = f"{MOST_ATTEMPTS} processes died while they worked on it (memory?); --overwrite tries again"


@dataclass(frozen=True)
class Record:
    """The state of a scene."""

    name: str
    status: str  # DONE, FAILED or RUNNING
    attempts: int = 0  # processes that began the scene and did not finish it, including this one
    time: float = 0.0  # of the record, seconds since 1970
    facts: dict[str, Any] = field(default_factory=dict)  # for batch.json

    @property
    def is_sound(self) -> bool:
        """Whether all values have valid types: they come from a file."""
        return (
            self.status in (DONE, FAILED, RUNNING)
            and type(self.attempts) is int
            and self.attempts >= 0
            and type(self.time) in (int, float)
            and abs(self.time) < LATEST
            and isinstance(self.facts, dict)
        )

    @property
    def died(self) -> bool:
        """Whether the scene is given up because too many processes died on it."""
        return self.attempts >= MOST_ATTEMPTS


class Claims:
    """The claims and records of one output folder."""

    def __init__(self, output: Path) -> None:
        self.folder = output / FOLDER

    def now(self) -> float:
        """Seconds since 1970 by the clock of the file system. Records have its time, because the clocks of several
        machines may differ.
        """
        return time.time() + _ahead(self.folder.parent)

    def record(self, name: str) -> Record | None:
        """The record of a scene; None if there is none or it is not readable."""
        try:
            with _opened(self.folder.parent) as below:
                if not below.is_file(self._name(name, "json")):
                    return None
            record = Record(**read_json(self._file(name, "json")))
            return record if record.name == name and record.is_sound else None
        except (InputError, OSError, TypeError):
            return None

    def take(self, name: str) -> Claim | None:
        """Claim a scene; None if another process has it. Raises OutputError."""
        path, tries = self._file(name, "lock"), 0
        while True:
            try:
                self._make_folder(name)
                with uninterrupted():
                    claim = Claim(self, name, path, acquire(path))
            except Busy:
                return None
            except OSError as error:
                tries += 1
                if isinstance(error, FileNotFoundError) and tries < MOST_TRIES:
                    continue  # another process removed the folder in between
                raise output_error(path, error) from error
            self._clear(name)
            return claim

    def write(self, record: Record) -> None:
        """Write the record of a claimed scene atomically. Raises OutputError."""
        path, target = self._file(record.name, "json"), self._name(record.name, "json")
        temporary = f"{target.removesuffix(path.name)}.{path.name}-{secrets.token_hex(6)}"
        try:
            self._make_folder(record.name)
            with _opened(self.folder.parent) as below:
                try:
                    with open(below.create(temporary), "w", encoding="ascii") as stream:
                        json.dump(asdict(record), stream)
                        stream.flush()
                        os.fsync(stream.fileno())
                    below.move(temporary, target)
                except BaseException:
                    with suppress(OSError):
                        below.remove_file(temporary)
                    raise
                below.sync_folder(str(Path(target).parent))
        except OSError as error:
            raise output_error(path, error) from error

    def forget(self, name: str) -> None:
        """Remove a scene's record."""
        try:
            with _opened(self.folder.parent) as below:
                below.remove_file(self._name(name, "json"))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise output_error(self._file(name, "json"), error) from error

    def leave(self) -> None:
        """Remove what killed processes left while they asked for the time, and the folders that hold no record. Raises
        OSError.
        """
        if not self.folder.is_dir():
            return
        with _opened(self.folder.parent) as below:
            for name in os.listdir(self.folder):
                if name.startswith(CLOCK):
                    with suppress(FileNotFoundError):
                        below.remove_file(f"{FOLDER}/{name}")
            for place, _, _ in os.walk(self.folder, topdown=False):  # follows no links
                below.remove_folder_if_empty(str(Path(place).relative_to(self.folder.parent)))

    def tidy(self, name: str, clear: Callable[[], None] = lambda: None) -> None:
        """Remove the lock that a killed process has left for a scene; `clear` removes its other files."""
        lock = self._file(name, "lock")
        with suppress(OSError, OutputError):  # OutputError may mean that another process has the scene
            if lock.exists():
                descriptor = acquire(lock)
                try:
                    self._clear(name)
                    clear()
                finally:
                    give_back(descriptor, lock)

    def _clear(self, name: str) -> None:
        """Remove temporary files of processes that were killed while they wrote the record of a claimed scene."""
        record = self._name(name, "json")
        prefix = f"{record.removesuffix(Path(record).name)}.{Path(record).name}-"
        with suppress(OSError), _opened(self.folder.parent) as below:
            for each in os.listdir(self._file(name, "json").parent):
                if (left := str(Path(record).with_name(each))).startswith(prefix):
                    below.remove_file(left)

    def _make_folder(self, name: str) -> None:
        """Make the folder of a scene's files. Raises OSError."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with _opened(self.folder.parent) as below:
            below.make_folder(str(Path(self._name(name, "lock")).parent))

    def _name(self, name: str, kind: str) -> str:
        """Path relative to the output folder."""
        return f"{FOLDER}/{_stem(name)}.{kind}"

    def _file(self, name: str, kind: str) -> Path:
        return self.folder.parent / self._name(name, kind)


def _stem(name: str) -> str:
    """The files of a scene without their suffix: its name, or a hash of one that is too long for a file, or whose
    folder `a.json` would be in the way of the record of a scene `a`.
    """
    encoded = os.fsencode(name)
    clashes = any(part.casefold().endswith((".json", ".lock")) for part in name.split("/")[:-1])
    return hashlib.sha256(encoded).hexdigest()[:32] if clashes or len(encoded) > LONGEST_NAME else name


@cache
def _ahead(output: Path) -> float:
    """Seconds by which the clock of the file system is ahead of that of this machine; 0 if no file can be made there,
    or the difference is below `SAME_TIME`.
    """
    made = [path for path in (output / FOLDER, output, *output.parents) if not os.path.lexists(path)]
    name = f"{FOLDER}/{CLOCK}{secrets.token_hex(6)}"
    try:
        output.mkdir(parents=True, exist_ok=True)
        with _opened(output) as below, uninterrupted():
            below.make_folder(FOLDER)
            probe = below.create(name)
            ahead = os.fstat(probe).st_mtime - time.time()
            os.close(probe)
            with suppress(FileNotFoundError):  # another process has ended, see `Claims.leave`
                below.remove_file(name)
    except OSError:
        ahead = 0.0
    remove_folders(made)
    return ahead if abs(ahead) > SAME_TIME else 0.0


@contextmanager
def _opened(output: Path) -> Iterator[Beneath]:
    """The output folder; below it no link is followed."""
    below = Beneath(output)
    try:
        yield below
    finally:
        below.close()


class Claim:
    """A scene that this process works on. `done` or `failed` ends the claim; `give_back` undoes it."""

    def __init__(self, claims: Claims, name: str, lock: Path, descriptor: int) -> None:
        self.claims, self.name, self._lock, self._descriptor = claims, name, lock, descriptor
        self._begun = False
        self._before: Record | None = None
        self._finished = unfinished(self.give_back)

    def begin(self, before: Record | None) -> None:
        """Count the attempt; `before` is the previous record of the scene. Raises OutputError."""
        died = before.attempts if before is not None and before.status == RUNNING else 0
        with uninterrupted():
            self._begun, self._before = True, before
            self.claims.write(Record(self.name, RUNNING, died + 1, self.claims.now()))

    def done(self, facts: dict[str, Any]) -> None:
        """Record that the files of the scene are in place. Raises OutputError."""
        self._end(Record(self.name, DONE, 0, self.claims.now(), facts))

    def failed(self, facts: dict[str, Any], attempts: int = 0) -> None:
        """Record that the scene failed. Raises OutputError."""
        self._end(Record(self.name, FAILED, attempts, self.claims.now(), facts))

    def give_back(self) -> None:
        """Undo the claim after the user stopped the run. Does nothing if the claim has ended."""
        with uninterrupted():
            if self._begun and self._is_held:
                with suppress(OutputError):  # the attempt then stays counted
                    if self._before is None:
                        self.claims.forget(self.name)
                    else:
                        self.claims.write(self._before)
            self.leave()

    def leave(self) -> None:
        """Release the lock; the record stays."""
        with uninterrupted():
            if self._is_held:
                descriptor, self._descriptor = self._descriptor, -1
                give_back(descriptor, self._lock)
            self._finished()

    @property
    def _is_held(self) -> bool:
        return self._descriptor >= 0

    def _end(self, record: Record) -> None:
        with uninterrupted():
            try:
                self.claims.write(record)
            finally:
                self.leave()
