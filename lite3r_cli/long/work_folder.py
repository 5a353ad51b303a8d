"""The folder of intermediate results of a run in chunks, next to its output, and resuming a stopped run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from ..console import Tell
from ..errors import InputError, UsageError
from ..io.beneath import Beneath
from ..io.documents import read_json
from ..io.files import output_error
from ..io.kept_chunks import identity_of, is_ours
from ..io.locks import in_the_way
from ..io.names import printable
from ..io.open_files import Reserve
from ..io.syncing import in_threads
from ..io.transaction import MARKER, remove_marked
from ..stopping import uninterrupted
from .pass_store import PassStore, bytes_below

ASKED = "asked.json"  # written first: the options of the run
IMAGES = "the images"  # its entry: [name, width, height, bytes, frame] of every image
ABOUT = "Chunks of a run of lite3r that is not finished. --resume goes on with them; a run without it removes them.\n"


class WorkFolder:
    """`with WorkFolder(path, asked, resume, tell) as work: work.store …; work.done()`.

    The caller holds the lock of the output. Without `done`, the folder is kept if the run is resumable and has a
    complete chunk; else it is removed.
    """

    def __init__(self, path: Path, asked: Mapping[str, Any], resume: bool, tell: Tell) -> None:
        self.path, self.asked, self.resume, self._tell = path, dict(asked), resume, tell
        self.store = PassStore(path, lasting=resume)
        self.found = 0  # complete passes of the resumed run
        self._done = False
        self._identity: tuple[int, int] | None = None
        self._reserve = Reserve()  # for `__exit__`

    def __enter__(self) -> WorkFolder:
        try:
            if os.path.lexists(self.path):
                identity = identity_of(self.path)
                if not is_ours(self.path):
                    raise in_the_way(self.path)
                if not self.resume or not (self.path / ASKED).exists():
                    remove_marked(self.path, identity)
                else:
                    _require_same(self.path, self.asked)
            self._reserve.keep()
            if not os.path.lexists(self.path):
                self._make()
            self._identity = self.store.identity = identity_of(self.path)
        except BaseException as error:
            self._reserve.release()
            if isinstance(error, OSError):
                raise output_error(self.path, error) from error
            raise
        self.found = self._whole()
        return self

    def _make(self) -> None:
        self.path.mkdir(mode=0o700)
        below = Beneath(self.path.parent)  # follows no link that somebody may have put in place of the folder by now
        try:
            for name, text in ((MARKER, ABOUT), (ASKED, json.dumps(self.asked, indent=1, allow_nan=False) + "\n")):
                with open(below.create(f"{self.path.name}/{name}"), "w", encoding="ascii") as stream:
                    stream.write(text)
        except BaseException:
            remove_marked(self.path)
            raise
        finally:
            below.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reserve.release()
        whole = 0 if self._done else self._whole()
        if self.resume and whole:
            size = bytes_below(self.path) / 2**20
            self._tell(f"{whole} finished chunks are kept in {self.path} ({size:.0f} MiB): --resume goes on with them")
            return
        with uninterrupted():
            remove_marked(self.path, self._identity)

    def done(self) -> None:
        """The output is in place: remove the folder."""
        self._done = True

    def _whole(self) -> int:
        with suppress(OSError):
            return sum((entry / "pass.json").exists() for entry in self.path.glob("pass-*"))
        return 0


def require_resumable(path: Path, options: Mapping[str, Any]) -> None:
    """Check the chunks of a stopped run, if there are any, before anything slow: the `options` that are known so far,
    and that every file is whole.

    Raises UsageError that names another option, InputError for a damaged file, OutputError for a folder of others.
    """
    try:
        if not os.path.lexists(path):
            return
        if not is_ours(path):
            raise in_the_way(path)
    except OSError as error:
        raise output_error(path, error) from error
    if not (path / ASKED).exists():
        return
    _require_same(path, options, some=True)
    store = PassStore(path)
    numbers = [entry.name.removeprefix("pass-") for entry in sorted(path.glob("pass-*/"))]
    whole = [number for number in numbers if number.isdecimal() and (store.place(int(number)) / "pass.json").exists()]
    in_threads(lambda number: store.require_whole(int(number)), whole)


def _require_same(path: Path, asked: Mapping[str, Any], some: bool = False) -> None:
    """Raises UsageError that names the difference if the stopped run had other options; with `some`, only those in
    `asked` are compared.
    """
    try:
        before = read_json(path / ASKED)
    except InputError as error:
        raise InputError(f"{error}; run again without --resume") from error
    if not isinstance(before, dict):
        raise InputError(f"{printable(path / ASKED)}: damaged; run again without --resume")
    if some:
        before = {key: value for key, value in before.items() if key in asked}
    for name, (old, new) in _differences(before, asked):
        raise UsageError(
            f"--resume: the run that was stopped had {name} {_short(old)}, this one has {_short(new)}; "
            "give the same, or run without --resume to begin anew"
        )


def _differences(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from _differences(old.get(key), new.get(key), key if isinstance(old.get(key), dict) else _flag(key))
    elif old != new:
        yield name, (old, new)


def _flag(key: str) -> str:
    return f"--{key.replace('_', '-')}" if key.isidentifier() else key


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
