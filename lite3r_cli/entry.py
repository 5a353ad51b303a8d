"""The process of `lite3r`: its state before any import, and its end.

After a signal and the clean-up the process dies of that signal, so that a shell loop ends too.
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
    """Until the program can clean up, signals have their default effect. Those that the parent ignores stay ignored."""
    for number in STOPPING:
        if signal.getsignal(number) is signal.default_int_handler:
            signal.signal(number, signal.SIG_DFL)


def _open_streams() -> None:
    """Replace closed standard streams by the null device. Otherwise the next opened file would get their descriptor,
    and C libraries would print into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor: the closed one


def main() -> int:
    """Run the program; returns its exit code unless a signal ends it."""
    _open_streams()
    from .cli import main as run

    code = run(began=BEGAN)
    number = code - 128
    if number in STOPPING:
        _die_of(number)
    if {"torch", f"{__package__}.cuda_start"} & sys.modules.keys():
        leave(code)
    return code


def leave(code: int) -> None:
    """Exit without finalising the interpreter and its libraries: with torch that takes a second, also if a thread is
    still loading it.
    """
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        return  # the interpreter can handle closed streams
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
