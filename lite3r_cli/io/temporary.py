"""The folder for intermediate files: that of TMPDIR, else the system's."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import OutputError

FULL = 1 << 20  # bytes; with less free space, an error of a library is taken as that of a full disk


@contextmanager
def temporary_folder(what: str) -> Iterator[Path]:
    """A folder that is removed in the end. `what` is kept there ("the matches").

    Raises OutputError if there is no such folder, or if it is full when the block fails: libraries report that as a
    RuntimeError without a reason.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix="lite3r-", ignore_cleanup_errors=True)
    except OSError as error:
        raise no_place(what, error) from error
    with folder as path:
        try:
            yield Path(path)
        except OSError as error:
            if Path(path) in Path(str(error.filename)).parents:
                raise no_place(what, error) from error
            raise
        except RuntimeError as error:
            if shutil.disk_usage(path).free < FULL:
                raise no_place(what, OSError(0, "the disk is full")) from error
            raise


def no_place(what: str, error: OSError) -> OutputError:
    """The error for something that cannot be kept in the temporary folder."""
    place = "temporary folder"
    with suppress(OSError):  # where there is none at all
        place = tempfile.gettempdir()
    advice = "make room, or let TMPDIR name a folder on another disk"
    return OutputError(f"{place}: {what} cannot be kept there ({error.strerror}); {advice}")
