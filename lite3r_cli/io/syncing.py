"""Syncing of files and folders to disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from .beneath import Beneath
from .files import output_error

T = TypeVar("T")
THREADS = 16  # for hashing and syncing files
FEWEST_FOR_THREADS = 16  # files; for fewer ones threads are slower


def in_threads(function: Callable[[str], T], names: Sequence[str]) -> list[T]:
    """The results of the function for all names, several at a time: a disk is faster with several requests in its
    queue.

    Raises the error of the first name that failed, after all calls have ended.
    """
    if len(names) < FEWEST_FOR_THREADS:
        return [function(name) for name in names]
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            return list(pool.map(function, names))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def sync_file(path: Path) -> None:
    """Sync the content of a file to disk. Raises OutputError."""
    try:
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())
    except OSError as error:
        raise output_error(path, error) from error


def sync_folder(folder: Path) -> None:
    """Sync the entries of a folder to disk."""
    opened = Beneath(folder)
    try:
        opened.sync_folder("")
    finally:
        opened.close()
