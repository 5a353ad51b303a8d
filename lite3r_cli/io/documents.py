"""Text and JSON files of users, read so that nothing can hang, fill the memory or raise anything but InputError."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..errors import InputError
from .names import printable
from .regular import BadImage, open_regular

MAX_BYTES = 1 << 28  # cameras of a million pictures


def read_text(path: Path) -> str:
    """A regular file as UTF-8, with or without a byte order mark. Raises InputError that names it."""
    try:
        with open_regular(path) as stream:
            if os.fstat(stream.fileno()).st_size > MAX_BYTES:
                raise BadImage(f"larger than {MAX_BYTES >> 20} MB")
            return stream.read().decode("utf-8-sig")
    except BadImage as error:
        raise InputError(f"{printable(path)}: cannot be read: {error}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{printable(path)}: cannot be read as text: {' '.join(str(error).split())}") from error


def read_json(path: Path) -> Any:
    """A JSON document. Raises InputError that names the file for anything else."""
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{printable(path)}: not valid JSON: {' '.join(str(error).split())[:200]}") from error
