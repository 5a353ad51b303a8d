"""Handling of signals that stop a run: noticed at once, obeyed once, and never during a clean-up.

Python handles a signal only between two bytecode instructions. A layer over hundreds of views computes for minutes
without one, so such work runs in a separate thread while the main thread handles signals (`responsive`).
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
_ACTION = 1024  # bytes, more than a `struct sigaction` has on any system
GRACE = 0.5  # seconds for the clean-up of interrupted work


class Terminated(BaseException):
    """SIGTERM or SIGHUP arrived. Not an Exception, so that only clean-up code handles it."""

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(number)
        self.number = number


def _signals() -> tuple[int, ...]:
    return (signal.SIGINT, signal.SIGTERM, *((signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()))


@contextmanager
def signals_as_exceptions() -> Iterator[None]:
    """Let the first SIGINT, SIGTERM or SIGHUP unwind the stack, so that temporary files are removed.

    Further ones are ignored until then, and until everything that the block began and did not end (`unfinished`) is
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


_unfinished: dict[object, Callable[[], None]] = {}  # in the order of their registration


def unfinished(clean: Callable[[], None]) -> Callable[[], None]:
    """Register `clean` to be called at the end of the program, unless the returned function is called before.

    A signal may arrive between the call that makes a file and the `try` that would remove it. Therefore the maker
    registers it in the same `uninterrupted` block. `clean` must tolerate that its work is already done.
    """
    key = object()
    _unfinished[key] = clean

    def finished() -> None:
        _unfinished.pop(key, None)

    return finished


def _clean_up(but_for: Collection[object]) -> None:
    """The latest first, because later things may depend on earlier ones."""
    for key in [key for key in reversed(_unfinished) if key not in but_for]:
        clean = _unfinished.pop(key, None)
        if clean is not None:
            with suppress(Exception):  # report only the error that ends the program, and continue to clean up
                clean()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Delay signals during a few short steps that belong together; the first one is raised after them.

    The handlers are replaced, because a signal mask is per thread, and a signal may go to any thread.
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


@contextmanager
def same_actions() -> Iterator[None]:
    """Libraries that are imported in the block leave the actions of signals as they are, in whatever thread.

    glog, a part of pycolmap, replaces that of SIGTERM behind Python's back by a stack trace and the end of the process:
    nothing would be cleaned up, and `signal.getsignal` still names our handler.
    """
    system = ctypes.CDLL(None)
    before = {number: ctypes.create_string_buffer(_ACTION) for number in signal.valid_signals()}
    known = [number for number, action in before.items() if system.sigaction(int(number), None, action) == 0]
    try:
        yield
    finally:
        now = ctypes.create_string_buffer(_ACTION)
        for number in known:
            if system.sigaction(int(number), None, now) == 0 and now.raw != before[number].raw:
                system.sigaction(int(number), before[number], None)


class Noted:
    """Signals that arrived in `between_steps`; call `obey` where a run may be stopped."""

    def __init__(self, handlers: dict[int, Any], patience: float = 0.0) -> None:
        self.handlers, self.number = handlers, 0
        self._patience, self._heard = patience, 0.0

    def obey(self) -> None:
        """Raise the exception of the first signal, if there was one."""
        if self.number:
            number, self.number = self.number, 0
            self._deliver(number)

    def _hear(self, number: int, frame: object) -> None:
        now = time.monotonic()
        if not self.number:
            self.number, self._heard = number, now
        elif now - self._heard >= self._patience:  # a user who repeats it does not want to wait for the end of a step
            self._deliver(number)

    def _deliver(self, number: int) -> None:
        for each, handler in self.handlers.items():
            signal.signal(each, handler)
        signal.raise_signal(number)


@contextmanager
def between_steps(patience: float = 0.0) -> Iterator[Noted]:
    """Record signals, and raise them only where the block calls `obey()`: between two steps of a training, where its
    state is consistent. A second signal is raised at once (if it arrives `patience` seconds later, because a launcher
    forwards signals that its processes already have), and a pending one at the end of the block.
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
    """One thread for all long work, because libraries keep per-thread state."""

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
    """Run function() in another thread so that the main thread can be interrupted.

    On an interrupt the work gets `GRACE` seconds to stop; work that still runs then is abandoned, because the process
    is about to end. Outside the main thread it is an ordinary call.
    """
    if threading.current_thread() is not threading.main_thread():
        return function()
    worker = _idle.pop() if _idle else _Worker()
    context = contextvars.copy_context()  # the work gets the caller's context variables
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
    """Raise KeyboardInterrupt in the worker between two bytecode instructions."""
    if worker.ident is not None and not task.done.is_set():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(worker.ident), ctypes.py_object(KeyboardInterrupt))
        task.done.wait(GRACE)
