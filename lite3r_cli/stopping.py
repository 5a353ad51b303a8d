"""Signals that stop a run: heard at once, obeyed once, and never in the middle of cleaning up.

Python hears a signal between two of its instructions only. A layer over hundreds of views computes for minutes in
between, so such work runs in a thread of its own while the main thread listens (`responsive`).
"""

from __future__ import annotations

import contextvars
import ctypes
import queue
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

T = TypeVar("T")
GRACE = 0.5  # seconds that interrupted work has to clean up after itself


class Terminated(BaseException):
    """SIGTERM or SIGHUP arrived. Not an Exception, so that cleaning up is all that happens on the way out."""

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(number)
        self.number = number


def _signals() -> tuple[int, ...]:
    return (signal.SIGINT, signal.SIGTERM, *((signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()))


@contextmanager
def signals_as_exceptions() -> Iterator[None]:
    """Let the first SIGINT, SIGTERM or SIGHUP unwind the stack, so that temporary files are removed.

    Further ones are ignored until that is done, and until what the block began and did not end (`unfinished`) is
    cleaned up. A signal that the parent process ignores stays ignored.
    """
    outer = list(_unfinished)
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stopped = False

    def stop(number: int, frame: object) -> None:
        nonlocal stopped
        if stopped:
            return
        stopped = True
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated(number)

    before = {number: signal.getsignal(number) for number in _signals()}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield
    finally:
        stopped = True
        _clean_up(but_for=outer)
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


_unfinished: dict[object, Callable[[], None]] = {}  # in the order in which they were begun


def unfinished(clean: Callable[[], None]) -> Callable[[], None]:
    """`clean` is called at the end of the program, unless the function that this returns is called before.

    A signal may arrive between the call that makes a file and the `try` that would remove it. So whoever makes one
    says so here in the same `uninterrupted` block. `clean` may be called when its work is done already.
    """
    key = object()
    _unfinished[key] = clean

    def finished() -> None:
        _unfinished.pop(key, None)

    return finished


def _clean_up(but_for: Collection[object]) -> None:
    """The latest first: what is built upon another thing goes before it."""
    for key in [key for key in reversed(_unfinished) if key not in but_for]:
        clean = _unfinished.pop(key, None)
        if clean is not None:
            with suppress(Exception):  # the error that ends the program is told, and the others are cleaned up
                clean()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold signals back for a few short steps that have to be done together; the first one arrives behind them.

    The handlers are exchanged, for a mask would not help: it is one thread's, and a signal goes to any of them.
    """
    handlers = {number: signal.getsignal(number) for number in _signals()}
    ours = {number: handler for number, handler in handlers.items() if callable(handler)}
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []
    for number in ours:
        signal.signal(number, lambda number, frame: heard.append(number))
    try:
        yield
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)
        if heard:
            signal.raise_signal(heard[0])


class Noted:
    """Signals that were heard in `between_steps`; `obey` is called where a run may be left."""

    def __init__(self, handlers: dict[int, Any], patience: float = 0.0) -> None:
        self.handlers, self.number = handlers, 0
        self._patience, self._heard = patience, 0.0

    def obey(self) -> None:
        """Raise what the first signal stands for, if there was one."""
        if self.number:
            number, self.number = self.number, 0
            self._deliver(number)

    def _hear(self, number: int, frame: object) -> None:
        now = time.monotonic()
        if not self.number:
            self.number, self._heard = number, now
        elif now - self._heard >= self._patience:  # whoever asks again does not want to wait for the end of a step
            self._deliver(number)

    def _deliver(self, number: int) -> None:
        for each, handler in self.handlers.items():
            signal.signal(each, handler)
        signal.raise_signal(number)


@contextmanager
def between_steps(patience: float = 0.0) -> Iterator[Noted]:
    """Signals are noted, and obeyed where the block calls `obey()`: between two steps of a training, where its state is
    that of a step. A second one is obeyed at once (if it comes `patience` seconds later: a launcher hands on what its
    processes have heard already), and one that nobody obeyed at the end of the block.
    """
    handlers = {number: signal.getsignal(number) for number in _signals()}
    noted = Noted({number: handler for number, handler in handlers.items() if callable(handler)}, patience)
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    for number in noted.handlers:
        signal.signal(number, noted._hear)
    try:
        yield noted
    finally:
        for number, handler in noted.handlers.items():
            signal.signal(number, handler)
    noted.obey()


# --- long work --------------------------------------------------------------------------------------------------------


class _Worker(threading.Thread):
    """One thread for all long work: libraries keep what they set up for a thread."""

    def __init__(self) -> None:
        super().__init__(name="lite3r-work", daemon=True)
        self.tasks: queue.SimpleQueue[_Task] = queue.SimpleQueue()
        self.start()

    def run(self) -> None:
        while True:
            self.tasks.get().run()


class _Task:
    def __init__(self, function: Callable[[], Any]) -> None:
        self.function, self.done = function, threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self.function()
        except BaseException as error:
            self.error = error
        self.done.set()


_idle: list[_Worker] = []


def responsive(function: Callable[[], T]) -> T:
    """function(), computed in another thread so that the main thread can be interrupted meanwhile.

    Interrupted, the work is told to stop and gets `GRACE` seconds for it; what still computes then is left behind, for
    the process is about to end. Outside the main thread it is an ordinary call.
    """
    if threading.current_thread() is not threading.main_thread():
        return function()
    worker = _idle.pop() if _idle else _Worker()
    context = contextvars.copy_context()  # what holds for the caller holds for its work
    task = _Task(lambda: context.run(function))
    worker.tasks.put(task)
    try:
        while not task.done.wait(0.2):
            pass
    except BaseException:
        _interrupt(worker, task)
        raise
    _idle.append(worker)
    if task.error is not None:
        raise task.error
    return task.result


def _interrupt(worker: _Worker, task: _Task) -> None:
    """Raise KeyboardInterrupt in the worker, which hears it between two of Python's instructions."""
    if worker.ident is not None and not task.done.is_set():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(worker.ident), ctypes.py_object(KeyboardInterrupt))
        task.done.wait(GRACE)
