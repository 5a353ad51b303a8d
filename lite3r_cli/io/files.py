"""Writing with error checks: every failure of the file system becomes an OutputError that names the
file and the fix.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

from ..errors import OutputError
from .open_files import TOO_MANY

_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space or write elsewhere with -o",
    errno.EDQUOT: "the disk quota is used up; free some space or write elsewhere with -o",
    errno.EFBIG: "the file is larger than this file system or user may write; write elsewhere with -o",
    errno.EROFS: "the file system is read-only; write elsewhere with -o",
    errno.EACCES: "permission denied; write elsewhere with -o",
    errno.EPERM: "permission denied; write elsewhere with -o",
    errno.EEXIST: "a part of the path is a file, a device or a link to nothing, not a folder; write elsewhere with -o",
    errno.ENOTDIR: "a part of the path is a file, not a folder; write elsewhere with -o",
    errno.ENOENT: "the folder is gone, or takes no new files; write elsewhere with -o",
    errno.ENAMETOOLONG: "the name is too long; shorten the name of the image, of the scene's folder or of the output",
    errno.ELOOP: "it is a link, and none is followed within an output; replace it by a folder or give its place to -o",
    errno.EXDEV: "its folder is a part of another file system; give a place there to -o",
    **TOO_MANY,
    errno.ENOMEM: "out of memory; end other programs",
}


def output_error(path: Path, error: OSError) -> OutputError:
    """The OutputError for a failed write of `path`: one line with the reason and what to do."""
    advice = _ADVICE.get(error.errno or 0, error.strerror or str(error) or type(error).__name__)
    return OutputError(f"{path}: cannot be written: {advice}")


def write_bytes(path: Path, *parts: bytes | memoryview) -> None:
    """Write a whole file in parts, and make its folder. Raises OutputError; an incomplete file is removed."""
    try:
        try:
            stream = open(path, "wb")
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = open(path, "wb")
        with stream:
            for part in parts:
                stream.write(part)
    except OSError as error:
        if path.is_file():
            path.unlink(missing_ok=True)
        raise output_error(path, error) from error


def link_file(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it if the file system has no links or is another one. Raises OutputError."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)
    except OSError as error:
        raise output_error(target, error) from error


def write_json(path: Path, document: dict) -> None:
    """Write a JSON document (ASCII with escapes, so that every file name survives). Raises OutputError."""
    write_bytes(path, (json.dumps(document, indent=1, allow_nan=False) + "\n").encode("ascii"))
