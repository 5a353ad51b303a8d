"""Expands the inputs of the command line to an ordered list of image and video files. Everything that is left out is
reported.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePath
from typing import Any

from ..errors import InputError, UsageError
from . import containers
from .codecs import heif, unread
from .names import printable
from .natural import natural_key
from .own_outputs import is_output, written_above, written_into
from .probe import is_picture
from .regular import BadImage, open_regular, os_reason
from .transaction import is_temporary

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".gif",
    ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", *heif.SUFFIXES,
)  # fmt: skip
VIDEO_SUFFIXES = containers.SUFFIXES
LOOKED_FOR = (
    f"looked for images (.jpg .png .webp .tif .bmp .heic and {len(IMAGE_SUFFIXES) - 6} more suffixes) and videos "
    f"(.mp4 .mov .mkv .avi and {len(VIDEO_SUFFIXES) - 4} more)"
)
_UNREAD = unread.OTHER_SUFFIXES | unread.VIDEO_SUFFIXES
NEVER_SEARCHED = ("@eaDir", "__MACOSX")  # previews and resource forks that other programs put next to images
_MAX_FOLDERS, _MAX_DEPTH = 10_000, 64
_HEAD = 200  # bytes that identify an image or a video


@dataclass(frozen=True)
class Skipped:
    """A skipped input and the reason."""

    name: str
    reason: str


@dataclass(frozen=True)
class Found:
    """An image or video file, and its name with the folders below the given one."""

    path: Path
    name: str


@dataclass
class FolderAccount:
    """Account of every entry of a folder, for run.json."""

    folder: str
    images: int = 0
    videos: int = 0
    unread: dict[str, int] = field(default_factory=dict)  # images of unsupported formats, by suffix
    outputs: int = 0  # files that an earlier run wrote
    sub_folders: dict[str, int] = field(default_factory=dict)  # name → number of images in it; not searched
    others: dict[str, int] = field(default_factory=dict)  # by suffix
    hidden: int = 0


@dataclass
class Journal:
    """Skipped inputs and warnings; with `strict` the first loss ends the run."""

    strict: bool = False
    skipped: list[Skipped] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    folders: list[FolderAccount] = field(default_factory=list)
    first_loss: str = ""

    def skip(self, path: Path, reason: str) -> None:
        """Record a skipped `path`. Raises InputError if strict."""
        loss = f"{printable(path)}: {reason}"
        if self.strict:
            raise InputError(loss)
        self.first_loss = self.first_loss or loss
        self.skipped.append(Skipped(printable(path.name or path), reason))

    def degrade(self, path: Path, reason: str) -> None:
        """Record a `path` that is only partly usable. Raises InputError if strict."""
        if self.strict:
            raise InputError(f"{printable(path)}: {reason}")
        self.warnings.append(f"{printable(path)}: {reason}")

    def nothing_left(self) -> str:
        """The error if no image is usable."""
        if not self.skipped:
            return "no images given: name a folder, image files or a video"
        others = len(self.skipped) - 1
        return f"no usable image: {self.first_loss}" + (f" (and {others} more skipped)" if others else "")

    def accounts(self) -> list[dict[str, Any]]:
        return [asdict(account) for account in self.folders]


def is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def collect(inputs: Sequence[Path], journal: Journal, recursive: bool = False) -> list[Found]:
    """Files to read: folders in the given order, natural order within a folder, each file once.

    Videos in a folder count only if there is one video and no image. With `recursive` the sub-folders of a folder
    follow it. Hidden files and outputs of earlier runs are ignored. Files given by name follow the order of their
    folders. Raises UsageError for a path that does not exist.
    """
    found: dict[Path, list[Found]] = {}  # folder → files, in the order of the folders' appearance
    given = {os.path.realpath(path) for path in inputs}
    for path in inputs:
        try:
            status = os.stat(path)
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in (errno.ELOOP, errno.EACCES):
                journal.skip(path, os_reason(error))
                continue
            raise UsageError(_no_such(path)) from error
        if stat.S_ISDIR(status.st_mode):
            for folder, files in _Search(path, journal, recursive, given).run():
                found.setdefault(folder.absolute(), []).extend(files)
        elif is_output(path, written_above(path)):
            journal.skip(path, "an earlier run of lite3r wrote it: it is no photo")
        elif path.suffix.lower() in unread.RAW_SUFFIXES:
            journal.skip(path, unread.reason(_head(path), path.suffix))
        elif path.suffix.lower() in IMAGE_SUFFIXES + VIDEO_SUFFIXES or _holds(path):
            found.setdefault(path.absolute().parent, []).append(Found(path, path.name))
        else:
            journal.skip(path, _why_not(path))
    files = [item for group in found.values() for item in sorted(group, key=lambda item: natural_key(item.path.name))]
    once: dict[str, Found] = {}
    doubles = [item for item in files if once.setdefault(_identity(item.path), item) is not item]
    if doubles:
        text = f"named twice, or by two paths, and used once: {', '.join(printable(d.path) for d in doubles[:3])}"
        more = f" and {len(doubles) - 3} more" if len(doubles) > 3 else ""
        journal.warnings.append(text + more)
    return _told_apart(list(once.values()))


def _no_such(path: Path) -> str:
    """The message for a path that does not exist, with a suggestion."""
    address = re.match(r"([a-z]{2,8}):/+([^/].*)", str(path), re.DOTALL)  # pathlib joins the two slashes of a URL
    if address:
        url = f"{address[1]}://{address[2]}"
        return f"{printable(url)}: lite3r does not download images; download the file and give its path"
    hint = "; no name fits the pattern" if any(sign in str(path) for sign in "*?[") else ""
    return f"{printable(path)}: no such file or folder{hint}"


def _identity(path: Path) -> str:
    """A key that is equal for all paths and hard links of a file."""
    try:
        status = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return f"{status.st_dev}:{status.st_ino}" if status.st_ino else os.path.realpath(path)


def _told_apart(files: Sequence[Found]) -> list[Found]:
    """Files with equal names in several folders get the folders in their names: left/0001.jpg, right/0001.jpg."""
    count = Counter(item.name for item in files)
    if max(count.values(), default=0) < 2:
        return list(files)
    common = Path(os.path.commonpath([item.path.absolute().parent for item in files]))
    return [
        item if count[item.name] == 1 else Found(item.path, item.path.absolute().relative_to(common).as_posix())
        for item in files
    ]


def _said_of_misnamed(files: Sequence[Path]) -> str:
    what = "file holds an image, but its name does" if len(files) == 1 else "files hold images, but their names do"
    return f"{len(files)} {what} not end like it (first: {printable(files[0].name)})"


def _holds(path: Path) -> bool:
    """Whether a file is an image or a video, regardless of its name."""
    head = _head(path)
    return is_picture(head) or containers.is_video(head)


def _head(path: Path) -> bytes:
    try:
        with open_regular(path) as stream:
            return stream.read(_HEAD)
    except (BadImage, OSError):
        return b""


def _may_be_video(path: Path, suffix: str) -> bool:
    """False for an image with the suffix of a video, and for TypeScript sources, which share `.ts`."""
    head = _head(path)
    return containers.is_video(head) if suffix == ".ts" else not is_picture(head)


def _why_not(path: Path) -> str:
    """The reason why a named file is no input."""
    try:
        with open_regular(path) as stream:
            reason = unread.reason(stream.read(_HEAD))
    except BadImage as error:
        return str(error)
    unknown = reason.startswith("not an image")
    return f"neither an image nor a video nor a folder; {LOOKED_FOR}" if unknown else reason


class _Search:
    """One folder of the command line."""

    def __init__(self, top: Path, journal: Journal, recursive: bool, given: set[str]) -> None:
        self.top, self.journal, self.recursive, self.given = top, journal, recursive, given
        self.outputs = written_above(top)
        self.seen: set[str] = set()
        self.misnamed: list[Path] = []  # images without an image suffix

    def run(self) -> Iterable[tuple[Path, list[Found]]]:
        """Yields (folder, its images, or else its video). Problems are recorded in the journal."""
        waiting = [self.top]
        results, first, too_deep = [], True, 0
        while waiting and len(self.seen) < _MAX_FOLDERS:
            folder = waiting.pop(0)
            real = os.path.realpath(folder)
            if real in self.seen:
                continue  # a link to a folder that was already searched
            self.seen.add(real)
            try:
                names = sorted(os.listdir(folder))
            except OSError as error:
                self.journal.skip(folder, os_reason(error))
                continue
            self.outputs |= written_into(folder)
            account, files = self._sort(folder, names)
            self.journal.folders.append(account)
            inner = [folder / name for name in sorted(account.sub_folders, key=natural_key)]
            if self.recursive:
                near = [f for f in inner if len(f.relative_to(self.top).parts) <= _MAX_DEPTH]
                too_deep += len(inner) - len(near)
                waiting = near + waiting
                account.sub_folders = {}
            else:
                inner = [path for path in inner if os.path.realpath(path) not in self.given]
                account.sub_folders = {p.name: n for p in inner if (n := self._pictures_below(p))}
            if files or not first:
                self._tell(folder, account)
            results.append((folder, files))
            first = False
        if waiting or too_deep:
            limits = f"at most {_MAX_FOLDERS} folders, {_MAX_DEPTH} levels down"
            text = f"{len(waiting) + too_deep} sub-folders are not searched ({limits}): name them themselves"
            self.journal.warnings.append(f"{printable(self.top)}: {text}")
        if not any(files for _, files in results) and results:
            self.journal.skip(self.top, self._why_empty())
        return results

    def _sort(self, folder: Path, names: Sequence[str]) -> tuple[FolderAccount, list[Found]]:
        """Count the entries by kind. Returns the images, or the only video."""
        account = FolderAccount(printable(folder))
        images, videos, unread_files = [], [], []
        misnamed: list[Path] = []
        unread_kinds: Counter[str] = Counter()
        others: Counter[str] = Counter()
        for name in names:
            path, suffix = folder / name, PurePath(name).suffix.lower()
            if name.startswith("."):
                account.hidden += 1
            elif is_output(path, self.outputs):
                account.outputs += 1
            elif suffix in IMAGE_SUFFIXES:
                images.append(path)
            elif path.is_dir():
                if name not in NEVER_SEARCHED:
                    account.sub_folders[name] = 0
                else:
                    account.hidden += 1
            elif suffix in VIDEO_SUFFIXES and _may_be_video(path, suffix):
                videos.append(path)
            elif suffix in unread.RAW_SUFFIXES or (suffix in _UNREAD and not _holds(path)):
                unread_kinds[suffix] += 1
                unread_files.append(path)
            elif is_picture(_head(path)):
                (images if suffix in _UNREAD else misnamed).append(path)
                others[suffix] += suffix not in _UNREAD
            else:
                others[suffix] += 1
        account.images, account.videos = len(images), len(videos)
        account.unread, account.others = dict(unread_kinds), dict(+others)
        self._tell_unread(folder, unread_files, images)
        if misnamed:
            self.misnamed += misnamed
            self.journal.warnings.append(f"{printable(folder)}: {_said_of_misnamed(misnamed)}: not used")
        if images and videos:
            more = f" and {len(videos) - 1} more" if len(videos) > 1 else ""
            text = f"{printable(videos[0])}{more}: a video beside images is used only if named itself"
            self.journal.warnings.append(text)
        if not images and len(videos) > 1:
            self.journal.skip(folder, f"holds {len(videos)} videos and no images: name the one to reconstruct")
        chosen = images or (videos if len(videos) == 1 else [])
        return account, [Found(path, path.relative_to(self.top).as_posix()) for path in chosen]

    def _tell_unread(self, folder: Path, files: Sequence[Path], images: Sequence[Path]) -> None:
        """Raw photographs with a JPEG of the same name are no loss; all other unsupported images are."""
        stems = {path.stem.lower() for path in images}
        doubles = [p for p in files if p.suffix.lower() in unread.RAW_SUFFIXES and p.stem.lower() in stems]
        if doubles:
            are = "photo is" if len(doubles) == 1 else "photos are"
            text = f"{len(doubles)} raw {are} left out, for images of the same names beside them"
            self.journal.warnings.append(f"{printable(folder)}: {text}")
        for path in files:
            if path not in doubles:
                self.journal.skip(path, unread.reason(_head(path), path.suffix))

    def _tell(self, folder: Path, account: FolderAccount) -> None:
        """Warnings about a folder with images."""
        if account.outputs:
            files = (
                "file that an earlier run wrote is" if account.outputs == 1 else "files that an earlier run wrote are"
            )
            self.journal.warnings.append(f"{printable(folder)}: {account.outputs} {files} no input")
        if account.sub_folders:
            counts = [f"{printable(name)} ({n})" for name, n in list(account.sub_folders.items())[:3]]
            more = f" and {len(account.sub_folders) - 3} more" if len(account.sub_folders) > 3 else ""
            text = f"images in sub-folders are not used: {', '.join(counts)}{more}; --recursive takes them"
            self.journal.warnings.append(f"{printable(folder)}: {text}")

    def _pictures_below(self, folder: Path) -> int:
        """Images in a folder and its sub-folders, without outputs of runs."""
        count, outputs = 0, dict(self.outputs)
        for visited, (place, folders, files) in enumerate(os.walk(folder)):
            if visited == 1000:
                break
            outputs |= written_into(Path(place))
            folders[:] = [name for name in folders if not name.startswith(".") and name not in NEVER_SEARCHED]
            pictures = [n for n in files if PurePath(n).suffix.lower() in IMAGE_SUFFIXES and not n.startswith(".")]
            count += sum(not is_output(Path(place, name), outputs) for name in pictures)
        return count

    def _why_empty(self) -> str:
        """The reason why nothing was found, with a hint."""
        account = next(a for a in self.journal.folders if a.folder == printable(self.top))
        if account.sub_folders:
            folders = account.sub_folders
            name, count = next(((n, folders[n]) for n in folders if n == "images"), next(iter(folders.items())))
            hint = f"name that one, or take all with --recursive ({count} images)"
            return f"no images in it, but in its sub-folder {printable(name)}: {hint}"
        everything = account.images or account.others or account.unread or account.outputs or account.videos
        if self.misnamed:
            return f"no images in the folder, but {_said_of_misnamed(self.misnamed)}: rename them, or name them each"
        if account.outputs:
            return f"no images in the folder beside the {account.outputs} files that an earlier run wrote; {LOOKED_FOR}"
        names = sorted(name for name in os.listdir(self.top) if not is_temporary(name))
        if names and all(name.startswith(".") for name in names):
            return f"nothing in it but what is hidden ({printable(names[0])}) and therefore not used; {LOOKED_FOR}"
        return f"{'no images in the folder' if everything else 'the folder is empty'}; {LOOKED_FOR}"
