"""Descriptors of open files: a run needs some from the start, and its clean-up must not fail for want of them."""

from __future__ import annotations

import errno
import os

from ..errors import BackendError

LEAST = 64  # free descriptors at the start; a run on a CPU uses about a dozen, training and downloads use more
KEPT = 16  # for a clean-up: one for each level of folders, and a few for the journal
_ADVICE = {errno.EMFILE: "allow more with `ulimit -n 4096`", errno.ENFILE: "end other programs"}
TOO_MANY = {number: f"too many open files; {advice}" for number, advice in _ADVICE.items()}


def require_descriptors() -> None:
    """Raises BackendError if fewer than `LEAST` files can be opened."""
    reserve = Reserve()
    try:
        reserve.keep(LEAST)
    except OSError as error:
        if (advice := _ADVICE.get(error.errno or 0)) is not None:
            raise BackendError(f"fewer than {LEAST} files can be opened at a time; {advice}") from error
    finally:
        reserve.release()


class Reserve:
    """Descriptors that are kept until a clean-up needs them. Take them before making anything that it removes."""

    def __init__(self) -> None:
        self._held: list[int] = []

    def keep(self, count: int = KEPT) -> None:
        """Raises OSError if there are too few."""
        try:
            while len(self._held) < count:
                self._held.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let them be used. Does nothing the second time."""
        while self._held:
            os.close(self._held.pop())
