"""Replaces files of a folder together, or not at all.

New files are written into a hidden folder next to their place, on the same file system. `commit` syncs it to disk,
moves the old files aside, renames the new ones into place, the one that marks completeness last, and only then removes
the old ones. A journal is written before the first rename, so that an interrupted commit (by an error, a signal, a
power cut) is undone: by this run, or by the next run at the same place. flock() serialises concurrent runs; the kernel
releases it when the process ends. Two places, perhaps on two file systems, can be one change (`commit_together`).

The folder may be shared with other users. A hidden folder counts as that of a stopped run only if it is not a link,
belongs to this user, is closed to others and has our marker. No link below the output's folder is followed, and only
regular files are moved or removed.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from ..errors import OutputError
from ..stopping import unfinished, uninterrupted
from .beneath import Beneath, refuse_planted
from .files import output_error, write_bytes
from .journal import NAME as JOURNAL
from .journal import Decider, Follower, Journal, folder_of, folders_above, with_parents
from .locks import acquire, give_back, in_the_way, not_ours, remove_folders
from .mounts import require_no_mounts
from .open_files import Reserve
from .syncing import in_threads, sync_file, sync_folder

MARKER = "made-by-lite3r"  # first file of every hidden folder
ABOUT = "Files of a run of lite3r that is not finished. The next run with the same -o removes this folder.\n"
_RANDOM = "[0-9a-f]{12}"  # end of a hidden folder's name
_TEMPORARY = re.compile(rf"\..+\.(lite3r-({_RANDOM}|chunks)|lock)")


@dataclass(frozen=True)
class _Change:
    """Paths relative to the root."""

    gone: list[str]  # old files that are removed
    names: list[str]  # new files, the one that marks completeness last

    @property
    def last(self) -> str:
        return self.names[-1]


class Transaction:
    """`with Transaction(root, name, belongs) as files: write below files.new; files.commit(old, last)`.

    `name` is the name of the output, from which those of the lock and the hidden folder are derived. `belongs` returns
    whether a path relative to `root` may be touched when a stopped commit is undone. `twin` is the path, relative to
    `root`, of an output in a folder below that has files of this one: it is locked, too. Without `commit` nothing
    appears. Raises OutputError if another run is writing there, or if writing fails.
    """

    def __init__(self, root: Path, name: str, belongs: Callable[[str], bool], twin: str = "") -> None:
        self.root, self.name, self.belongs, self.twin = root, name, belongs, twin
        self._hidden: str | None = None  # name of the hidden folder
        self._identity: tuple[int, int] | None = None  # its device and inode
        self._below: Beneath | None = None
        self._reserve = Reserve()  # for `leave`
        self._locks = ExitStack()  # gives back those that are held
        self._finished: Callable[[], None] = lambda: None  # cancels the registered clean-up
        self._made_above: list[Path] = []  # the root and its parents that did not exist before
        self._made: list[str] = []  # new folders below the root
        self._emptied: list[str] = []  # folders below the root that lost old files

    @property
    def staging(self) -> Path:
        """The hidden folder."""
        if self._hidden is None:
            raise RuntimeError(f"the output of {self.name} is used outside its `with` block")
        return self.root / self._hidden

    @property
    def new(self) -> Path:
        """The temporary folder; files have their final paths relative to it."""
        return self.staging / "new"

    @property
    def entries(self) -> tuple[str, str]:
        """Temporary entries of this run in `root`: the hidden folder and the lock."""
        return self.staging.name, self._lock_file.name

    def __enter__(self) -> Transaction:
        self._finished = unfinished(self.leave)
        try:
            self._made_above = [path for path in (self.root, *self.root.parents) if not path.exists()]
            refuse_planted(self.root)
            self._reserve.keep()
            self.root.mkdir(parents=True, exist_ok=True)
            self._below = below = Beneath(self.root)
            after_a_kill = os.path.lexists(self._lock_file)
            self._take(self._lock_file)
            if self.twin:
                folder = folder_of(self.twin)
                self._made = below.make_folder(folder) or ([folder] if after_a_kill else [])  # removed if empty
                self._take(_lock_of(self.root / self.twin))
            self._hidden = f".{self.name}.lite3r-{secrets.token_hex(6)}"
            self.staging.mkdir(mode=0o700)
            self._identity = self._opened.identity(self._hidden)
            with open(below.create(f"{self._hidden}/{MARKER}"), "w", encoding="ascii") as stream:
                stream.write(ABOUT)
            below.make_folder(f"{self._hidden}/new")
            for leftover, identity in self._leftovers().items():
                self._bring_follower_right(leftover)
                self._discard(leftover, below, identity)
        except BaseException as error:
            self.leave()
            if isinstance(error, OSError):
                raise output_error(self.root / self.name, error) from error
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        hidden = self._hidden
        try:
            self.leave()
        except OSError as failure:
            raise output_error(Path(failure.filename or self.root), failure) from failure
        if hidden is None or not isinstance(error, (OSError, OutputError)):
            return
        here, there = f"{self.root / hidden / 'new'}{os.sep}", f"{self.root}{os.sep}"
        if isinstance(error, OutputError) and here in str(error):  # use the file name that the user knows
            raise OutputError(str(error).replace(here, there)) from error
        if isinstance(error, OSError) and here in str(error.filename):
            raise output_error(Path(str(error.filename).replace(here, there)), error) from error

    def commit(self, old: Sequence[str], last: str, synced: Collection[str] = ()) -> None:
        """Move every file below `new` into its place, `last` at the end. `old` are the files to remove, paths relative
        to `root`, the one that marks completeness first; the contents of `synced` are on the disk already. Raises
        OutputError. Signals wait until all is done.
        """
        with _named_errors(self):
            change = self._prepared(old, last, synced)
            with uninterrupted():
                self._write_journal(change)
                self._exchange(change)
                self._leave_committed(change)

    def _prepared(self, old: Sequence[str], last: str, synced: Collection[str] = ()) -> _Change:
        """What is to be moved, all of it on the disk."""
        staging, below = self.staging, self._opened
        found = below.identity(staging.name)
        if found != self._identity:
            raise not_ours(staging, found)
        prefix = f"{staging.name}/new/"
        names = [name.removeprefix(prefix) for name in below.files(f"{staging.name}/new")]
        names = [*sorted(name for name in names if name != last), last]
        gone = [name for name in old if below.is_file(name)]
        there = {folder for folder in _folders_of(names) if folder == "." or below.status(folder) is not None}
        replaced = set(gone)
        for name in names:
            if name not in replaced and folder_of(name) in there and below.status(name) is not None:
                raise in_the_way(self.root / name)
        in_threads(lambda name: sync_file(self.new / name), [name for name in names if name not in synced])
        return _Change(gone, names)

    def _exchange(self, change: _Change) -> None:
        """The renames. All are synced to disk before the one that marks completeness."""
        below, hidden, gone, names = self._opened, self.staging.name, change.gone, change.names
        for folder in _folders_of(gone):
            below.make_folder(f"{hidden}/old/{folder}")
        for name in gone:
            self._move(name, f"{hidden}/old/{name}")
        for folder in _folders_of(names):
            self._made += below.make_folder(folder)
        for name in names:
            if name == change.last:
                for folder in folders_above([*gone, *names]):
                    below.sync_folder(folder)
            self._move(f"{hidden}/new/{name}", name)
        for folder in folders_above([change.last]):
            below.sync_folder(folder)
        for above in {path.parent for path in self._made_above}:
            sync_folder(above)

    def _leave_committed(self, change: _Change) -> None:
        self._emptied, self._made = [folder_of(name) for name in change.gone], []
        self._made_above = []
        self.leave()

    def _move(self, source: str, target: str) -> None:
        self._opened.move(source, target)

    def _write_journal(self, change: _Change, decider: Decider | None = None, follower: Follower | None = None) -> None:
        """Write what will be moved, so that it can be undone: each new file with data that identify it."""
        marks = {name: [(stat := (self.new / name).stat()).st_size, stat.st_mtime_ns] for name in change.names}
        above = folders_above(change.names)
        made = {folder for folder in above if self._opened.status(folder) is None}.union(self._made)
        folders = [folder for folder in above if folder != "." and folder in made]
        Journal(change.last, marks, folders, decider, follower).write(self.staging / "journal.tmp")
        sync_file(self.staging / "journal.tmp")
        os.replace(self.staging / "journal.tmp", self.staging / JOURNAL)
        self._opened.sync_folder(self.staging.name)
        self._opened.sync_folder("")

    @property
    def _opened(self) -> Beneath:
        if self._below is None:
            raise RuntimeError(f"the output of {self.name} is used outside its `with` block")
        return self._below

    @property
    def _lock_file(self) -> Path:
        return _lock_of(self.root / self.name)

    def _take(self, lock: Path) -> None:
        self._locks.callback(give_back, acquire(lock), lock)

    def leave(self) -> None:
        """Undo or finish, remove the temporary files, release the lock. Does nothing the second time."""
        with uninterrupted():
            self._finished()
            self._reserve.release()
            below, self._below = self._below, None
            if below is None:
                remove_folders(self._made_above)
                return
            try:
                if self._hidden is not None:
                    self._discard(self._hidden, below, self._identity)
            finally:
                self._hidden = None
                self._locks.close()
                emptied = {above for name in self._emptied for above in with_parents(name)}
                for name in sorted({*emptied, *self._made} - {"."}, key=lambda name: -name.count("/")):
                    below.remove_folder_if_empty(name)
                below.close()
            remove_folders(self._made_above)

    # -- leftovers of stopped runs ------------------------------------------------------------------------------------

    def _leftovers(self) -> dict[str, tuple[int, int]]:
        """Hidden folders of stopped runs at this place, with their identities. A folder that only has such a name is
        not touched.
        """
        pattern = re.compile(re.escape(f".{self.name}.lite3r-") + _RANDOM)
        found = [name for name in os.listdir(self.root) if pattern.fullmatch(name) and name != self._hidden]
        ours = {name: self._identity_of_ours(name) for name in sorted(found)}
        return {name: identity for name, identity in ours.items() if identity is not None}

    def _identity_of_ours(self, name: str) -> tuple[int, int] | None:
        """The identity of a folder that belongs to this user, is not writable by others, and is empty or has our
        marker; None for any other one. The folder of this run shows what a closed one looks like, because some file
        systems have no modes.
        """
        closed, found = self._opened.status(self.staging.name), self._opened.status(name)
        if closed is None or found is None or (found.st_uid, found.st_mode) != (closed.st_uid, closed.st_mode):
            return None
        marker = self._opened.status(f"{name}/{MARKER}")
        if marker is None:
            ours = not os.listdir(self.root / name)
        else:
            ours = stat.S_ISREG(marker.st_mode) and marker.st_uid == closed.st_uid
        return (found.st_dev, found.st_ino) if ours else None

    def _discard(self, hidden: str, below: Beneath, identity: tuple[int, int] | None) -> None:
        """Remove a hidden folder; first undo its commit if it was begun and not completed."""
        if identity not in (None, below.identity(hidden)):
            return  # somebody has put another folder or a link there
        journal = Journal.read(below, hidden)
        if journal is not None:
            journal.undo_if_unfinished(below, hidden, self.belongs)
        below.remove_tree(hidden, identity, MARKER)

    def _bring_follower_right(self, leftover: str) -> None:
        """The place that a stopped commit changed together with this one: it asks for a file here."""
        journal = Journal.read(self._opened, leftover)
        if journal is not None and journal.follower is not None and journal.follower.is_pending():
            name = journal.follower.name
            recover(Path(journal.follower.root), name, lambda file: file == name)


def commit_together(
    leader: Transaction, old: Sequence[str], last: str, follower: Transaction, old_file: Sequence[str]
) -> None:
    """Commit two places, perhaps on two file systems, as one change: after a kill both are old or both are new.

    `last`, the last file of the leader, completes both; the follower has one file, which bears its name. Until then
    its journal says to undo it; the journal of the leader says to bring the follower right first. Raises OutputError.
    """
    with _named_errors(leader, follower):
        ours = leader._prepared(old, last)
        theirs = follower._prepared(old_file, follower.name)
        status = (leader.new / last).stat()
        decider = Decider(str((leader.root / last).absolute()), status.st_size, status.st_mtime_ns)
        waiting = Follower(str(follower.root.absolute()), follower.name, follower.staging.name)
        with uninterrupted():
            leader._write_journal(ours, follower=waiting)
            follower._write_journal(theirs, decider=decider)
            follower._exchange(theirs)
            leader._exchange(ours)
            follower._leave_committed(theirs)
            leader._leave_committed(ours)


@contextmanager
def _named_errors(*places: Transaction) -> Iterator[None]:
    """Errors of the system become those of the final names."""
    hidden = [place.staging for place in places]
    try:
        yield
    except OSError as error:
        involved = [Path(name) for name in (error.filename, error.filename2) if name]
        lasting = [path for path in involved if not any(staging in path.parents for staging in hidden)]
        raise output_error(lasting[0] if lasting else places[0].root, error) from error


def remove_marked(staging: Path, identity: tuple[int, int] | None = None) -> None:
    """Remove a hidden folder, its marker last, so that the rest is recognised as ours after a kill. No link is
    followed; with an `identity` (device, inode) only that very folder is removed.
    """
    with suppress(OSError):
        below = Beneath(staging.parent)
        try:
            below.remove_tree(staging.name, identity, MARKER)
        finally:
            below.close()


def recover(root: Path, name: str, belongs: Callable[[str], bool], twin: str = "") -> None:
    """Clean up what a stopped run has left at a place before its content is read. Raises OutputError."""
    try:
        found = any(entry.startswith((f".{name}.lite3r-", f".{name}.lock")) for entry in os.listdir(root))
    except OSError:
        return  # nothing is there, or it is not readable: the run itself will report it
    if found:
        with Transaction(root, name, belongs, twin):
            pass


def replace_file(path: Path, content: bytes) -> None:
    """Write one file in place of an older one. Raises OutputError."""
    with Transaction(path.parent, path.name, lambda name: name == path.name) as files:
        write_bytes(files.new / path.name, content)
        files.commit([path.name], path.name)


def require_writable(path: Path, overwrite: bool, *beside: Path) -> None:
    """Raises OutputError if `replace_file` would fail, or would replace a file without permission. `beside` are files
    in the same folder that are written in the same transaction.
    """
    names = {each.name for each in (path, *beside)}
    with Transaction(path.parent, path.name, lambda name: name in names):
        for each in (path, *beside):
            require_free(each, overwrite)


def require_free(path: Path, overwrite: bool) -> None:
    """The same for a caller that holds the lock of the place."""
    try:
        status = path.lstat()
    except OSError:
        return  # nothing is there, or writing will report it
    if not stat.S_ISREG(status.st_mode):
        raise in_the_way(path)
    if not overwrite:
        raise OutputError(f"{path}: exists; --overwrite replaces it")
    require_no_mounts(path.parent, [path])


def is_temporary(name: str) -> bool:
    """Whether an entry of a folder has the name of a temporary one of a run: a hidden folder, kept chunks, a lock."""
    return _TEMPORARY.fullmatch(name) is not None


def _lock_of(output: Path) -> Path:
    return output.with_name(f".{output.name}.lock")


def _folders_of(names: Sequence[str]) -> list[str]:
    """The folders of the files, in the order of the names."""
    return list(dict.fromkeys(map(folder_of, names)))
