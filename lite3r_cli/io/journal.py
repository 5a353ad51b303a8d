"""The journal of a commit, by which a stopped one is undone or finished. A commit may change two places: then one file,
in the first of them, decides about both.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import InputError, OutputError
from .beneath import Beneath
from .documents import read_json
from .files import write_json
from .locks import not_ours

NAME = "journal.json"


@dataclass(frozen=True)
class Decider:
    """The file whose rename completes the change of both places."""

    path: str
    size: int  # bytes
    time_ns: int  # of its last change

    def is_there(self) -> bool:
        """Raises OSError if that cannot be determined: files might be removed because of a wrong answer."""
        try:
            found = os.lstat(self.path)
        except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: no file can have this name
            return False
        return stat.S_ISREG(found.st_mode) and (found.st_size, found.st_mtime_ns) == (self.size, self.time_ns)


@dataclass(frozen=True)
class Follower:
    """The other place of a change, which has to be brought right first."""

    root: str
    name: str  # of its output
    hidden: str  # name of its hidden folder

    def is_pending(self) -> bool:
        return "\0" not in self.root + self.hidden and os.path.lexists(Path(self.root, self.hidden))


@dataclass(frozen=True)
class Journal:
    """What a commit moves. It is written to the hidden folder before the first rename."""

    last: str  # the file that is renamed last
    files: dict[str, list[int]]  # new file → size and time of its last change, which identify it
    folders: list[str]  # those that the commit makes
    decider: Decider | None = None
    follower: Follower | None = None

    def write(self, path: Path) -> None:
        """Raises OutputError."""
        write_json(path, {key: value for key, value in asdict(self).items() if value is not None})

    @classmethod
    def read(cls, below: Beneath, hidden: str) -> Journal | None:
        """The journal of a hidden folder; None if no commit was begun. Raises OutputError if it is damaged."""
        if not below.is_file(f"{hidden}/{NAME}"):
            return None
        staging = below.root / hidden
        try:
            document = read_json(staging / NAME)
            decider, follower = document.get("decider"), document.get("follower")
            return cls(
                str(document["last"]),
                dict(document["files"].items()),  # names in JSON are text
                [str(folder) for folder in document.get("folders", ())],
                None if decider is None else Decider(**_typed(decider, path=str, size=int, time_ns=int)),
                None if follower is None else Follower(**_typed(follower, root=str, name=str, hidden=str)),
            )
        except (InputError, ValueError, TypeError, KeyError, AttributeError) as error:
            if not os.path.lexists(staging):  # its folder was moved meanwhile
                raise not_ours(staging, None) from error
            advice = "left by a stopped run and damaged; save what you need, then remove it"
            raise OutputError(f"{staging}: {advice}") from error

    def undo_if_unfinished(self, below: Beneath, hidden: str, belongs: Callable[[str], bool]) -> None:
        """`belongs` tells which paths may be touched. Raises OSError."""
        if not below.is_file(f"{hidden}/new/{self.last}") and (self.decider is None or self.decider.is_there()):
            return
        for name, mark in self.files.items():
            if belongs(name) and below.is_file(name) and not below.is_file(f"{hidden}/new/{name}"):
                found = below.status(name)
                if found is not None and [found.st_size, found.st_mtime_ns] == mark:
                    below.remove_file(name)
        self._bring_back(below, f"{hidden}/old/", belongs)
        for folder in folders_above([name for name in self.files if belongs(name)]):
            if folder in self.folders:
                below.remove_folder_if_empty(folder)

    def _bring_back(self, below: Beneath, old: str, belongs: Callable[[str], bool]) -> None:
        if below.status(old) is None:
            return
        for path in below.files(old):
            name = path.removeprefix(old)
            if below.is_file(path) and belongs(name) and below.status(name) is None:
                below.make_folder(str(PurePosixPath(name).parent))
                below.move(path, name)


def _typed(entry: Any, **kinds: type) -> dict[str, Any]:
    """The keys of an entry. Raises TypeError, KeyError."""
    if any(type(entry[key]) is not kind for key, kind in kinds.items()):
        raise TypeError
    return {key: entry[key] for key in kinds}


def with_parents(folder: str) -> list[str]:
    """The folder and all above it, up to "."."""
    return [folder, *map(str, PurePosixPath(folder).parents)]


def folder_of(name: str) -> str:
    """The folder of a file, "." for the root."""
    return name.rpartition("/")[0] or "."


def folders_above(names: list[str]) -> list[str]:
    """All parent folders of the names, including the root ("."), the deepest of each first."""
    return sorted({above for name in names for above in with_parents(folder_of(name))}, reverse=True)
