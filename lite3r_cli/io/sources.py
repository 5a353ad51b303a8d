"""From what stands on the command line to a list of picture and video files, in order."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError, UsageError
from . import containers
from .codecs import heif
from .names import printable
from .natural import natural_key
from .regular import os_reason

IMAGE_SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".mpo",
    ".png",
    ".apng",
    ".webp",
    ".tif",
    ".tiff",
    ".bmp",
    ".dib",
    ".gif",
    ".ppm",
    ".pgm",
    ".pbm",
    ".pnm",
    ".jp2",
    ".j2k",
    ".jpf",
    ".jpx",
    *heif.SUFFIXES,
)
VIDEO_SUFFIXES = containers.SUFFIXES
LOOKED_FOR = f"looked for images ({' '.join(IMAGE_SUFFIXES)}) and videos ({' '.join(VIDEO_SUFFIXES)})"


@dataclass(frozen=True)
class Skipped:
    """An input that is left out, and why."""

    name: str
    reason: str


@dataclass
class Journal:
    """What was left out on the way, and what the user should know; with `strict` the first loss ends the run."""

    strict: bool = False
    skipped: list[Skipped] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    first_loss: str = ""

    def skip(self, path: Path, reason: str) -> None:
        """Note that `path` is left out. Raises InputError if strict."""
        loss = f"{printable(path)}: {reason}"
        if self.strict:
            raise InputError(loss)
        self.first_loss = self.first_loss or loss
        self.skipped.append(Skipped(printable(path.name or path), reason))

    def degrade(self, path: Path, reason: str) -> None:
        """Note that `path` gives less than it promised. Raises InputError if strict."""
        if self.strict:
            raise InputError(f"{printable(path)}: {reason}")
        self.warnings.append(f"{printable(path)}: {reason}")


def is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def collect(inputs: Sequence[Path], journal: Journal) -> list[Path]:
    """Files to read: folders one after the other as given, natural order within a folder, each file once.

    Hidden files and sub-folders of a folder are left alone; its videos count only if it has no images and one video.
    Files given by name keep their folders' order of appearance. Raises UsageError for a path that does not exist.
    """
    found: dict[Path, list[Path]] = {}  # folder → files, in the order in which the folders appear
    for path in inputs:
        try:
            status = os.stat(path)
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in (errno.ELOOP, errno.EACCES):
                journal.skip(path, os_reason(error))
                continue
            raise UsageError(f"{printable(path)}: no such file or folder") from error
        if stat.S_ISDIR(status.st_mode):
            found.setdefault(path.absolute(), []).extend(_folder(path, journal))
        elif path.suffix.lower() in IMAGE_SUFFIXES + VIDEO_SUFFIXES:
            found.setdefault(path.absolute().parent, []).append(path)
        else:
            journal.skip(path, f"neither an image nor a video nor a folder; {LOOKED_FOR}")
    files = [path for group in found.values() for path in sorted(group, key=lambda path: natural_key(path.name))]
    once = {path.absolute(): path for path in reversed(files)}
    if len(once) < len(files):
        journal.warnings.append(f"{len(files) - len(once)} files were named twice and are used once")
    return [path for path in files if once.pop(path.absolute(), None) is not None]


def _folder(folder: Path, journal: Journal) -> list[Path]:
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        journal.skip(folder, os_reason(error))
        return []
    images = [folder / name for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES]
    videos = [folder / name for name in names if is_video(Path(name))]
    if images:
        if videos:
            more = f" and {len(videos) - 1} more" if len(videos) > 1 else ""
            journal.warnings.append(f"{printable(videos[0])}{more}: a video beside images is used only if named itself")
        return images
    if len(videos) == 1:
        return videos
    if videos:
        journal.skip(folder, f"holds {len(videos)} videos and no images: name the one to reconstruct")
    else:
        journal.skip(folder, _why_empty(folder, names))
    return []


def _why_empty(folder: Path, names: Sequence[str]) -> str:
    for name in names:
        try:
            inside = os.listdir(folder / name)
        except OSError:
            continue  # a file, or a folder that is closed to us: neither can be the hint
        if any(Path(entry).suffix.lower() in IMAGE_SUFFIXES for entry in inside):
            hint = "sub-folders are not searched, name that one"
            return f"no images in it, but in its sub-folder {printable(name)}: {hint}"
    what = "the folder is empty" if not names else "no images in the folder"
    return f"{what}; {LOOKED_FOR}"
