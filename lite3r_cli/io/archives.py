"""Reads NumPy files of users. They cannot run code or fill the memory, and every failure is an InputError."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import InputError
from .names import printable
from .regular import BadImage, open_regular, read_regular

MAX_BYTES = 1 << 32  # total unpacked size of the arrays in an archive


def read_npz(path: Path, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Arrays by name, all or only `names`. Raises InputError that names the file."""
    try:
        with open_regular(path) as stream:
            if not zipfile.is_zipfile(stream):
                raise InputError(f"{printable(path)}: not an .npz archive, or cut off")
            with zipfile.ZipFile(stream) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
                    raise InputError(f"{printable(path)}: its arrays need more than {MAX_BYTES >> 30} GiB")
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as arrays:
                found = {name: arrays[name] for name in (arrays.files if names is None else names)}
            for name, array in found.items():
                if not isinstance(array, np.ndarray):  # NumPy returns bytes for a member that is not an array
                    raise InputError(f"{printable(path)}: {printable(name)[:40]} in it is no array")
            return found
    except BadImage as error:
        raise InputError(f"{printable(path)}: {error}") from error
    except (InputError, MemoryError):
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise many types for a damaged archive
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{printable(path)}: cannot be read as an .npz archive ({reason})") from error


def read_npy(path: Path) -> np.ndarray:
    """The numeric array of an .npy file. Raises InputError that names the file."""
    try:
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
    except BadImage as error:
        raise InputError(f"{printable(path)}: {error}") from error
    except (InputError, MemoryError):
        raise
    except Exception as error:  # NumPy raises many types for a damaged header
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{printable(path)}: cannot be read as an .npy array ({reason})") from error
