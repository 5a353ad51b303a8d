"""The process of the program `lite3r`: what has to be right before anything is imported, and how it ends.

Stopped by a signal, a process says so by dying of it, once it has cleaned up: a shell's loop then ends, too.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time

BEGAN = time.perf_counter()
STOPPING = (signal.SIGINT, signal.SIGTERM, *((signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()))


def _default_signals() -> None:
    """Until the program can clean up there is nothing to clean up. A signal that the parent ignores stays ignored."""
    for number in STOPPING:
        if signal.getsignal(number) is signal.default_int_handler:
            signal.signal(number, signal.SIG_DFL)


def _open_streams() -> None:
    """Where a standard stream is closed, the null device takes its place: else the next file opened would, and C
    libraries print into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one


def main() -> int:
    """Run the program; returns its exit code unless a signal ends it."""
    _open_streams()
    from .cli import main as run

    code = run(began=BEGAN)
    number = code - 128
    if number in STOPPING:
        _die_of(number)
    if "torch" in sys.modules:
        leave(code)
    return code


def leave(code: int) -> None:
    """End without taking the interpreter and its libraries down piece by piece: with torch that takes a second."""
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        return  # the interpreter knows how to end with streams that are gone
    os._exit(code)


def _die_of(number: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            continue
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


_default_signals()
