"""Reads NumPy files of users. They cannot run code or fill the memory, and every failure is an InputError."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import InputError
from .names import printable
from .regular import BadImage, open_regular, read_regular

MAX_BYTES = 1 << 32  # total unpacked size of the arrays in an archive


def require_npz(path: Path, names: Sequence[str]) -> None:
    """Raises InputError that names the file, unless it is an archive that lists these arrays. Only its list is read, so
    that this is quick for any size.
    """
    with _named(path, "an .npz archive"), open_regular(path) as stream:
        listed = _listed(path, stream)
    if missing := [name for name in names if not {name, f"{name}.npy"} & listed]:
        raise InputError(f"{printable(path)}: holds no array `{missing[0]}`")


def read_npz(path: Path, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Arrays by name, all or only `names`. Raises InputError that names the file."""
    with _named(path, "an .npz archive"), open_regular(path) as stream:
        _listed(path, stream)
        stream.seek(0)
        with np.load(stream, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in (arrays.files if names is None else names)}
        for name, array in found.items():
            if not isinstance(array, np.ndarray):  # NumPy returns bytes for a member that is not an array
                raise InputError(f"{printable(path)}: {printable(name)[:40]} in it is no array")
        return found


def _listed(path: Path, stream: BinaryIO) -> set[str]:
    """The names in the list of an archive. Raises InputError."""
    if not zipfile.is_zipfile(stream):
        raise InputError(f"{printable(path)}: not an .npz archive, or cut off")
    with zipfile.ZipFile(stream) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
            raise InputError(f"{printable(path)}: its arrays need more than {MAX_BYTES >> 30} GiB")
        return set(archive.namelist())


def read_npy(path: Path) -> np.ndarray:
    """The numeric array of an .npy file. Raises InputError that names the file."""
    with _named(path, "an .npy array"):
        data = read_regular(path)
        stream = io.BytesIO(data)
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(stream)
        if dtype.kind not in "fiub":
            raise InputError(f"{printable(path)}: an array of {str(dtype)[:40]}, not of numbers")
        if math.prod(shape) * dtype.itemsize > len(data) - stream.tell():
            raise InputError(f"{printable(path)}: cut off: fewer values than its header says")
        stream.seek(0)
        return np.load(stream, allow_pickle=False)


@contextmanager
def _named(path: Path, kind: str) -> Iterator[None]:
    """Errors in the block become an InputError that names the file. zipfile, zlib and NumPy raise many types for a
    damaged one.
    """
    try:
        yield
    except BadImage as error:
        raise InputError(f"{printable(path)}: {error}") from error
    except (InputError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{printable(path)}: cannot be read as {kind} ({reason})") from error
