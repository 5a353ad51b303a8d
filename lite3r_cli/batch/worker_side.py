"""The worker's side of a batch by several processes: it asks for scenes, makes them, and tells what became of them.

How messages travel is the link's business: a socket between processes of one machine, or Ray.
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
from .rota import Answer
from .station import Station

# Kinds of messages to the foreman: `Office`'s methods, and how a worker ends
NEXT, BEGUN, BUSY, ENDED, WARN, NOTE, READY = "next", "begun", "busy", "ended", "warn", "note", "ready"
WRONG = "wrong"  # for all scenes: name of the error's class, message
LEFT = "left"  # no scene is left: facts for batch.json
DIED = "died"  # said by who watches the worker: how
Message = tuple[str, Any]


@dataclass(frozen=True)
class Order:
    """What a worker has to know."""

    past: Past
    number: int  # of the worker, from 0
    folder: str  # relative paths begin there
    cores: list[int] | None = None  # to keep to; None: as the system says
    debug: bool = False


class Link(Protocol):
    """Carries messages to the foreman, from any thread, and answers to `NEXT` back."""

    def send(self, message: Message) -> None:
        """Does not wait for anything to be read."""

    def answer(self) -> Answer:
        """Wait for the answer to the oldest `NEXT`."""


class _Distant:
    """The station's office where the foreman is another process."""

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
    """Make scenes until none is left. Signals and bugs are raised; what is wrong for all scenes is told."""
    office = _Distant(link)
    console.settings.quiet, console.settings.debug = True, order.debug
    try:
        _enter(order)
        station = Station(order.past, office, order.number)
        station.run()
        office.send(LEFT, station.facts() | {"cores": order.cores or cores.own_cores()})
    except Exception as error:
        if order.debug:
            console.traceback(error)
        known = isinstance(error, Lite3RError)
        office.send(WRONG, (type(error).__name__, str(error)) if known else ("", f"{type(error).__name__}: {error}"))


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
    """The folder that workers shall start from."""
    return str(Path.cwd())
