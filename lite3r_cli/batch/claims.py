"""Who works on which scene: lock files that die with their process, and a record of each scene beside them.

Both lie in OUT/.batch, where no link is followed, so that any number of processes on one file system, started by hand,
by a shell or by a cluster, share one output folder without knowing of each other. The lock is flock()'s, which the
kernel drops however a process ends. The record says how often the scene was begun, so that one that kills its process
does not do so for ever.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError, OutputError
from ..io.beneath import Beneath
from ..io.documents import read_json
from ..io.files import output_error
from ..io.locks import Busy, acquire, give_back
from ..stopping import unfinished, uninterrupted

FOLDER = ".batch"
LATEST = 1e12  # seconds; NaN is not below it
MOST_ATTEMPTS = 3  # of processes that died on a scene
DONE, FAILED, RUNNING = "done", "failed", "running"
DIED = f"{MOST_ATTEMPTS} processes died while they worked on it (memory?); --overwrite tries again"


@dataclass(frozen=True)
class Record:
    """What became of a scene."""

    name: str
    status: str  # DONE, FAILED or RUNNING
    attempts: int = 0  # processes that began and did not come to an end of it, this one included
    time: float = 0.0  # of the record, seconds since 1970
    facts: dict[str, Any] = field(default_factory=dict)  # for batch.json

    @property
    def is_sound(self) -> bool:
        """Whether all values are of their kinds: they come from a file."""
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
        """Whether it is given up: it ended one process after the other."""
        return self.attempts >= MOST_ATTEMPTS


class Claims:
    """The claims and records of one output folder."""

    def __init__(self, output: Path) -> None:
        self.folder = output / FOLDER

    def record(self, name: str) -> Record | None:
        """What is known of a scene; None where nothing is, or nothing that can be read."""
        try:
            with self._opened() as below:
                if not below.is_file(self._name(name, "json")):
                    return None
            record = Record(**read_json(self._file(name, "json")))
            return record if record.name == name and record.is_sound else None
        except (InputError, OSError, TypeError):
            return None

    def take(self, name: str) -> Claim | None:
        """Claim a scene; None while another process has it. Raises OutputError."""
        path = self._file(name, "lock")
        while True:
            try:
                self._make_folder(name)
                with uninterrupted():
                    claim = Claim(self, name, path, acquire(path))
            except Busy:
                return None
            except FileNotFoundError:
                continue  # its folder was removed in between
            except OSError as error:
                raise output_error(path, error) from error
            self._clear(name)
            return claim

    def write(self, record: Record) -> None:
        """Keep a record, whole or not at all; the scene is claimed. Raises OutputError."""
        path, target = self._file(record.name, "json"), self._name(record.name, "json")
        temporary = f"{target.removesuffix(path.name)}.{path.name}-{secrets.token_hex(6)}"
        try:
            self._make_folder(record.name)
            with self._opened() as below:
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
            with self._opened() as below:
                below.remove_file(self._name(name, "json"))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise output_error(self._file(name, "json"), error) from error

    def tidy(self, name: str, clear: Callable[[], None] = lambda: None) -> None:
        """Remove the lock of a scene where a process that was killed has left it; `clear` removes its other files."""
        lock = self._file(name, "lock")
        with suppress(OSError, OutputError):  # of which one says that somebody has it
            if lock.exists():
                descriptor = acquire(lock)
                try:
                    self._clear(name)
                    clear()
                finally:
                    give_back(descriptor, lock)

    def _clear(self, name: str) -> None:
        """Remove what processes that were killed while they wrote the record of a claimed scene have left."""
        record = self._name(name, "json")
        prefix = f"{record.removesuffix(Path(record).name)}.{Path(record).name}-"
        with suppress(OSError), self._opened() as below:
            for each in os.listdir(self._file(name, "json").parent):
                if (left := str(Path(record).with_name(each))).startswith(prefix):
                    below.remove_file(left)

    @contextmanager
    def _opened(self) -> Iterator[Beneath]:
        """The output folder, below which no link is followed."""
        below = Beneath(self.folder.parent)
        try:
            yield below
        finally:
            below.close()

    def _make_folder(self, name: str) -> None:
        """That of a scene's files. Raises OSError."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with self._opened() as below:
            below.make_folder(str(Path(self._name(name, "lock")).parent))

    def _name(self, name: str, kind: str) -> str:
        """Relative to the output folder."""
        return f"{FOLDER}/{name}.{kind}"

    def _file(self, name: str, kind: str) -> Path:
        return self.folder / f"{name}.{kind}"


class Claim:
    """A scene that this process works on. `done` or `failed` ends it; `give_back` as if it had never been begun."""

    def __init__(self, claims: Claims, name: str, lock: Path, descriptor: int) -> None:
        self.claims, self.name, self._lock, self._descriptor = claims, name, lock, descriptor
        self._begun = False
        self._before: Record | None = None
        self._finished = unfinished(self.give_back)

    def begin(self, before: Record | None) -> None:
        """Count the attempt, where `before` is the scene's record. Raises OutputError."""
        died = before.attempts if before is not None and before.status == RUNNING else 0
        with uninterrupted():
            self._begun, self._before = True, before
            self.claims.write(Record(self.name, RUNNING, died + 1, time.time()))

    def done(self, facts: dict[str, Any]) -> None:
        """The scene's files are in place. Raises OutputError."""
        self._end(Record(self.name, DONE, 0, time.time(), facts))

    def failed(self, facts: dict[str, Any], attempts: int = 0) -> None:
        """It cannot be made. Raises OutputError."""
        self._end(Record(self.name, FAILED, attempts, time.time(), facts))

    def give_back(self) -> None:
        """A user stopped it: as if it had never been begun. Does nothing once it has ended."""
        with uninterrupted():
            if self._begun and self._is_held:
                with suppress(OutputError):  # the attempt stays counted
                    if self._before is None:
                        self.claims.forget(self.name)
                    else:
                        self.claims.write(self._before)
            self.leave()

    def leave(self) -> None:
        """Let others have it; what is recorded stays."""
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
