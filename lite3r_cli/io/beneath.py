"""Access to files below a folder without following any link (dir_fd and O_NOFOLLOW).

In a shared folder another user may place a link where lite3r is about to write. The folder itself was named by the user
and is opened normally. Links below it are refused, including links that appear between a check and the access.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Beneath:
    """An open folder. Names are relative to it, with `/` between their parts. Raises OSError with the whole path."""

    def __init__(self, root: Path) -> None:
        self.root = root
        refuse_planted(root)
        self._descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._descriptor)

    def status(self, name: str) -> os.stat_result | None:
        """Status of the entry without following a link; None if it, or a folder above it, does not exist."""
        try:
            with self._parent(name) as (folder, last):
                return os.stat(last, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def is_file(self, name: str, size: int | None = None) -> bool:
        """Whether a regular file exists, with this size if one is given. Raises OSError if that cannot be determined: a
        caller might remove files because of a wrong answer.
        """
        try:
            status = self.status(name)
        except ValueError:  # the name leaves the folder
            return False
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENAMETOOLONG):
                return False
            raise
        return status is not None and stat.S_ISREG(status.st_mode) and size in (None, status.st_size)

    def identity(self, name: str) -> tuple[int, int] | None:
        """Device and inode."""
        status = self.status(name)
        return None if status is None else (status.st_dev, status.st_ino)

    def make_folder(self, name: str) -> list[str]:
        """Make a folder and its parents. Returns the names of the new ones, the highest first. "" is
        the root itself.
        """
        made, parts = [], PurePosixPath(name).parts
        descriptor = os.dup(self._descriptor)
        try:
            for i, part in enumerate(parts):
                path = "/".join(parts[: i + 1])
                with suppress(FileExistsError), self._whole(path):
                    os.mkdir(part, dir_fd=descriptor)
                    made.append(path)
                descriptor = self._step(descriptor, part, path)
        finally:
            os.close(descriptor)
        return made

    def create(self, name: str) -> int:
        """A descriptor of a new file that other users cannot read. Its folder must exist, the file must not."""
        with self._parent(name) as (folder, last), self._whole(name):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            return os.open(last, flags, 0o600, dir_fd=folder)

    def move(self, source: str, target: str) -> None:
        """Rename. The target's folder must exist."""
        with self._parent(source) as (here, old), self._parent(target) as (there, new), self._whole(source, target):
            os.rename(old, new, src_dir_fd=here, dst_dir_fd=there)

    def remove_file(self, name: str) -> None:
        with self._parent(name) as (folder, last), self._whole(name):
            os.unlink(last, dir_fd=folder)

    def remove_folder_if_empty(self, name: str) -> None:
        try:
            with self._parent(name) as (folder, last), self._whole(name):
                os.rmdir(last, dir_fd=folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise

    def remove_tree(self, name: str, identity: tuple[int, int] | None, last: str) -> None:
        """Remove a folder with all that is in it, the file `last` of it at the end; what cannot be removed stays.

        Nothing is removed if the name is a link by now, or another folder than the one with this `identity`: in a
        folder without the sticky bit, other users can put a link or a folder of the caller's there. None: any folder.
        """
        with suppress(OSError):
            with self._folder(name) as folder:
                status = os.fstat(folder)
                if identity not in (None, (status.st_dev, status.st_ino)):
                    return
                for entry in set(os.listdir(folder)) - {last}:
                    if stat.S_ISDIR(os.lstat(entry, dir_fd=folder).st_mode):
                        shutil.rmtree(entry, ignore_errors=True, dir_fd=folder)
                    else:
                        os.unlink(entry, dir_fd=folder)
                if os.listdir(folder) == [last]:
                    os.unlink(last, dir_fd=folder)
            self.remove_folder_if_empty(name)

    def sync_folder(self, name: str) -> None:
        """Sync the entries of a folder to disk, if the file system supports it (some network file systems return
        EINVAL).
        """
        with self._folder(name) as descriptor:
            try:
                os.fsync(descriptor)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise

    def files(self, name: str) -> list[str]:
        """All files below a folder, relative to the root. Links to folders count as files."""
        found: list[str] = []
        with self._folder(name) as descriptor:
            for place, folders, entries, opened in os.fwalk(".", onerror=_raise, dir_fd=descriptor):
                links = [entry for entry in folders if stat.S_ISLNK(os.lstat(entry, dir_fd=opened).st_mode)]
                found += [(PurePosixPath(name) / place / entry).as_posix() for entry in (*entries, *links)]
        return sorted(found)

    @contextmanager
    def _folder(self, name: str) -> Iterator[int]:
        """A descriptor of a folder below the root, or of the root itself for ""."""
        descriptor = os.dup(self._descriptor)
        parts = PurePosixPath(name).parts
        try:
            for i, part in enumerate(parts):
                descriptor = self._step(descriptor, part, "/".join(parts[: i + 1]))
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def _parent(self, name: str) -> Iterator[tuple[int, str]]:
        path = PurePosixPath(name)
        with self._folder(str(path.parent)) as folder:
            yield folder, path.name

    def _step(self, descriptor: int, part: str, path: str) -> int:
        """The descriptor of a sub-folder; closes that of the folder. A link gives ELOOP on every system."""
        if part == "..":
            raise ValueError(f"{path}: leads out of its folder")
        with self._whole(path):
            try:
                below = os.open(part, _FOLDER, dir_fd=descriptor)
            except NotADirectoryError:
                if stat.S_ISLNK(os.lstat(part, dir_fd=descriptor).st_mode):
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), part) from None
                raise
        os.close(descriptor)
        return below

    @contextmanager
    def _whole(self, name: str, target: str | None = None) -> Iterator[None]:
        """Adds the whole path to errors, because the system only knows the part below a descriptor."""
        try:
            yield
        except OSError as error:
            involved = [str(self.root / name), *([] if target is None else [None, str(self.root / target)])]
            raise OSError(error.errno, error.strerror, *involved) from error


def refuse_planted(path: Path) -> None:
    """Raises OSError (ELOOP) if the path, or a folder above it, is a link that another user may have planted."""
    for place in (path.absolute(), *path.absolute().parents):
        try:
            planted = place.is_symlink() and _is_planted(place.lstat(), place.parent.stat())
        except OSError:
            continue  # missing, or closed: the access itself will fail
        if planted:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(place))


def _is_planted(link: os.stat_result, folder: os.stat_result) -> bool:
    """Whether a link lies in a folder like /tmp, and belongs neither to this user nor to the owner of that folder.
    Linux refuses the same links unless fs.protected_symlinks is off; other systems follow them.
    """
    shared = stat.S_ISVTX | stat.S_IWOTH
    return folder.st_mode & shared == shared and link.st_uid not in (os.geteuid(), folder.st_uid)


def refuse_links(root: Path, name: str) -> None:
    """Raises OSError (ELOOP) if the entry `name` below `root`, or a folder between the two, is a link. None of them
    needs to exist.
    """
    if not root.exists():
        return
    below = Beneath(root)
    try:
        status = below.status(name)
    finally:
        below.close()
    if status is not None and stat.S_ISLNK(status.st_mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(root / name))


def _raise(error: OSError) -> None:
    """A folder that cannot be listed must not count as empty: its files would be left behind."""
    raise error
