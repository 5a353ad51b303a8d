"""File names on one line, unique on every file system."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath, PurePosixPath

_UNPRINTABLE = re.compile(  # control characters, line breaks, marks of text direction, bytes that are not UTF-8
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_UNSAFE = re.compile(r'[\\/:*?"<>|]')  # not allowed in file names on Windows
_LONGEST_STEM = 160  # bytes of UTF-8; leaves room for an index and a suffix within the usual 255


def printable(name: object) -> str:
    """`name` on one line: line breaks, control characters and undecodable bytes become `_`."""
    return _UNPRINTABLE.sub("_", str(name))


def can_be_a_path(name: str) -> bool:
    """Whether the system can look for a file of this name: no NUL, and only surrogates that stand for bytes."""
    try:
        return b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        return False


def leads_out(name: str) -> bool:
    """Whether a name leaves its folder: it is absolute or has `..`."""
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts


def _fold(name: str) -> str:
    """Names with equal folds are one file on a case-insensitive or normalising file system."""
    return unicodedata.normalize("NFC", name).casefold()


def unique_names(file_names: Sequence[str]) -> list[str]:
    """One-line names that differ even without case; a repeated `a.jpg` becomes `a_2.jpg`.

    A unique name, the usual case, does not change.
    """
    return _numbered([printable(name) for name in file_names])


def output_stems(names: Sequence[str]) -> list[str]:
    """For each of the unique `names` a stem for its output files; stems differ and are valid on every file system.

    `a.jpg` gives `a`, `left/a.jpg` gives `left_a`; if the set also has `a.png`, they give `a_jpg` and `a_png`.
    """
    paths = [PurePosixPath(name) for name in names]
    stems = [_safe_stem("_".join([*path.parts[:-1], path.stem])) for path in paths]
    shared = Counter(map(_fold, stems))
    for i, name in enumerate(names):
        if shared[_fold(stems[i])] > 1:
            stems[i] = f"{stems[i]}_{_safe_stem(PurePath(name).suffix)}"
    return _numbered(stems)


def _safe_stem(stem: str) -> str:
    stem = _UNSAFE.sub("_", printable(stem)).strip(". ")
    stem = stem.encode()[:_LONGEST_STEM].decode(errors="ignore").rstrip(". ")
    return stem or "view"


def _numbered(names: Sequence[str]) -> list[str]:
    """The first owner keeps a name, later ones get the first free number."""
    taken = {_fold(name) for name in names}
    next_number: dict[str, int] = {}  # by fold; numbers below are taken
    result = []
    for name in names:
        fold = _fold(name)
        number = next_number.get(fold, 1)
        chosen = name
        while number > 1 and _fold(chosen := _with_number(name, number)) in taken:
            number += 1
        taken.add(_fold(chosen))
        next_number[fold] = number + 1
        result.append(chosen)
    return result


def _with_number(name: str, number: int) -> str:
    path = PurePosixPath(name)
    return str(path.with_name(f"{path.stem}_{number}{path.suffix}"))


def header_line(text: str) -> str:
    """The text on one line of ASCII, for the header of a file."""
    return " ".join(text.split()).encode("ascii", "backslashreplace").decode("ascii")
