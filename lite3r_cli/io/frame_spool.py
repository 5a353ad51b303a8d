"""The encoded frames of a long video: in memory up to a limit, beyond it in a temporary file without a name."""

from __future__ import annotations

import os
import tempfile
import threading
from dataclasses import dataclass
from typing import IO

from .temporary import no_place

MOST_IN_MEMORY = 256 << 20  # bytes of the frames of one video


@dataclass(frozen=True)
class SpooledFrame:
    """Where a frame lies in a spool's file, which exists as long as one of its frames does."""

    spool: FrameSpool
    start: int
    length: int

    def read(self) -> bytes:
        """The frame as it was kept; any thread may ask."""
        return self.spool.read(self.start, self.length)


Encoded = bytes | SpooledFrame


def bytes_of(encoded: Encoded) -> bytes:
    """An encoded frame, wherever it is kept. Raises OutputError where the file cannot be read."""
    return encoded if isinstance(encoded, bytes) else encoded.read()


class FrameSpool:
    """`keep(data)` gives what stands for it."""

    def __init__(self, most: int | None = None) -> None:
        self._left = MOST_IN_MEMORY if most is None else most
        self._file: IO[bytes] | None = None
        self._end = 0
        self._lock = threading.Lock()

    def keep(self, data: bytes) -> Encoded:
        """The data itself while there is room in memory. Raises OutputError where the disk is full."""
        with self._lock:
            if len(data) <= self._left:
                self._left -= len(data)
                return data
            try:
                if self._file is None:
                    self._file = tempfile.TemporaryFile(prefix="lite3r-frames-")
                self._file.seek(self._end)
                self._file.write(data)
                self._file.flush()
            except OSError as error:
                raise no_place("the frames of the video", error) from error
            start, self._end = self._end, self._end + len(data)
            return SpooledFrame(self, start, len(data))

    def read(self, start: int, length: int) -> bytes:
        """What `keep` wrote there."""
        assert self._file is not None  # only frames in the file are asked for
        try:
            return os.pread(self._file.fileno(), length, start)
        except OSError as error:
            raise no_place("the frames of the video", error) from error
