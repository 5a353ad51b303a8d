"""Reads text and JSON files of users. They cannot block or fill the memory, and every failure is an InputError."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from ..errors import InputError, UsageError
from .names import printable
from .regular import BadImage, open_regular

UTF16 = (b"\xff\xfe", b"\xfe\xff")  # byte order marks
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
MAX_BYTES = 1 << 28  # enough for the cameras of a million images


def read_text(path: Path) -> str:
    """A regular file as UTF-8, or as UTF-16 with a byte order mark. Raises InputError that names it."""
    try:
        with open_regular(path) as stream:
            if os.fstat(stream.fileno()).st_size > MAX_BYTES:
                raise BadImage(f"larger than {MAX_BYTES >> 20} MB")
            data = stream.read()
            text = data.decode("utf-16" if data.startswith(UTF16) else "utf-8-sig")
            if "\0" in text:  # UTF-16 without its mark, UTF-32, or no text
                raise ValueError
            return text
    except BadImage as error:
        raise InputError(f"{printable(path)}: cannot be read: {error}") from error
    except OSError as error:
        raise InputError(f"{printable(path)}: cannot be read: {error.strerror or type(error).__name__}") from error
    except ValueError as error:
        why = "is no text file in UTF-8, or UTF-16 with its mark; save it as UTF-8"
        raise InputError(f"{printable(path)}: {why}") from error


def read_json(path: Path) -> Any:
    """A JSON document. Raises InputError that names the file for anything else."""
    return parsed_json(path, read_text(path))


def parsed_json(path: Path, text: str) -> Any:
    """The JSON document in a text that was read from `path`. Raises InputError."""
    try:
        document = json.loads(text)
        if _SURROGATE.search(text):  # two are a letter, a single one is a byte of a file name, or nothing
            json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogateescape")
        return document
    except RecursionError as error:
        raise InputError(f"{printable(path)}: not valid JSON here: lists or objects are nested too deeply") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{printable(path)}: not valid JSON: {' '.join(str(error).split())[:200]}") from error
    except UnicodeEncodeError as error:
        raise InputError(f"{printable(path)}: holds half of a letter (a lone surrogate), which is no text") from error
    except ValueError as error:  # Python converts at most 4,300 digits
        raise InputError(f"{printable(path)}: holds a number of thousands of digits") from error


def is_there(path: Path) -> bool:
    """Whether a path exists; a link counts whatever it leads to. Raises InputError if a closed folder on the way hides
    it.
    """
    try:
        path.lstat()
    except PermissionError as error:
        raise InputError(f"{printable(path)}: {error.strerror}; check the path and its permissions") from error
    except (OSError, ValueError):  # ValueError: no file can have this name
        return False
    return True


def require_folder(path: Path, option: str) -> None:
    """Raises UsageError that names the option if there is no folder."""
    if not path.is_dir():
        raise UsageError(f"{option} {printable(path)}: {'not a folder' if is_there(path) else 'no such folder'}")


def require_file(path: Path, advice: str, option: str = "") -> None:
    """Raises UsageError with `advice` if the path does not exist or is a folder; InputError for a device, a pipe or an
    unreadable file.
    """
    named = f"{option} {printable(path)}".strip()
    if not is_there(path):
        raise UsageError(f"{named}: no such file; {advice}")
    if path.is_dir():
        raise UsageError(f"{named}: a folder, not a file; {advice}")
    try:
        open_regular(path).close()
    except BadImage as error:
        raise InputError(f"{named}: {error}; {advice}") from error
