"""NumPy's `.npz` files of users, read so that nothing can run, fill the memory or raise anything but InputError."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import InputError
from .names import printable
from .regular import BadImage, open_regular

MAX_BYTES = 1 << 32  # of an archive's arrays together, unpacked


def read_npz(path: Path, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Arrays by name, all or those asked for. Raises InputError that names the file."""
    try:
        with open_regular(path) as stream:
            if not zipfile.is_zipfile(stream):
                raise InputError(f"{printable(path)}: not an .npz archive, or cut off")
            with zipfile.ZipFile(stream) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
                    raise InputError(f"{printable(path)}: its arrays need more than {MAX_BYTES >> 30} GiB")
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in (arrays.files if names is None else names)}
    except BadImage as error:
        raise InputError(f"{printable(path)}: {error}") from error
    except (InputError, MemoryError):
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise many things over a damaged archive
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{printable(path)}: cannot be read as an .npz archive ({reason})") from error
