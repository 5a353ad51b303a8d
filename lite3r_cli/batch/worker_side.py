"""The worker's side of a batch with several processes: it asks for scenes, makes them, and reports the outcomes.

The link carries the messages: a socket between processes of one machine, or Ray.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .. import console, cores
from ..errors import InputError, Lite3RError
from .job import Outcome
from .past import Past
from .scene_queue import Answer
from .scene_worker import SceneWorker

# Kinds of messages to the coordinator: the methods of `Dispatcher`, and how a worker ends
NEXT, BEGUN, BUSY, ENDED, WARN, NOTE, READY = "next", "begun", "busy", "ended", "warn", "note", "ready"
WRONG = "wrong"  # error that concerns all scenes: class name, message
LEFT = "left"  # no scene is left: facts for batch.json
DIED = "died"  # sent by the pool that watches the worker: how it died
Message = tuple[str, Any]


@dataclass(frozen=True)
class Order:
    """The order that a worker gets at its start."""

    past: Past
    number: int  # of the worker, from 0
    folder: str  # base of relative paths
    cores: list[int] | None = None  # allowed cores; None: those of the system
    debug: bool = False


class Link(Protocol):
    """Carries messages to the coordinator, from any thread, and the answers to `NEXT` back."""

    def send(self, message: Message) -> None:
        """Send without waiting for the reader."""

    def answer(self) -> Answer:
        """Wait for the answer to the oldest `NEXT`."""


class _Distant:
    """The dispatcher of a worker whose coordinator is another process."""

    def __init__(self, link: Link) -> None:
        self._link, self._lock = link, threading.Lock()

    def next(self) -> Answer:
        self.send(NEXT, None)
        return self._link.answer()

    def send(self, kind: str, what: Any) -> None:
        with self._lock:
            self._link.send((kind, what))

    def begun(self, name: str) -> None:
        self.send(BEGUN, name)

    def busy(self, name: str) -> None:
        self.send(BUSY, name)

    def ended(self, outcome: Outcome) -> None:
        self.send(ENDED, outcome)

    def warn(self, text: str) -> None:
        self.send(WARN, text)

    def note(self, text: str) -> None:
        self.send(NOTE, text)

    def ready(self, seconds: dict[str, float]) -> None:
        self.send(READY, seconds)


def follow(order: Order, link: Link) -> None:
    """Make scenes until none is left. Signals and bugs are raised; errors that concern all scenes are sent."""
    dispatcher = _Distant(link)
    console.settings.quiet, console.settings.debug = True, order.debug
    try:
        _enter(order)
        scene_worker = SceneWorker(order.past, dispatcher, order.number)
        scene_worker.run()
        dispatcher.send(LEFT, scene_worker.facts() | {"cores": order.cores or cores.own_cores()})
    except Exception as error:
        if order.debug:
            console.traceback(error)
        known = isinstance(error, Lite3RError)
        dispatcher.send(
            WRONG, (type(error).__name__, str(error)) if known else ("", f"{type(error).__name__}: {error}")
        )


def _enter(order: Order) -> None:
    if order.cores is not None:
        cores.keep_to(order.cores)
    if os.getcwd() == order.folder:
        return
    try:
        os.chdir(order.folder)
    except OSError as error:
        reason = "workers on other machines need the same folders there"
        raise InputError(f"{order.folder}: {error.strerror} where a worker runs; {reason}") from error


def here() -> str:
    """The folder that workers start in."""
    return str(Path.cwd())
