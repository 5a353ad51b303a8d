"""Workers that are processes of this machine (`children.py`). Each ends itself when the coordinator is gone."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from multiprocessing import connection
from typing import Any

from ..children import how_it_ended, start_child
from ..cores import divide_cores, own_cores
from ..errors import UsageError
from .scene_queue import Answer
from .worker_side import DIED, LEFT, WRONG, Message, Order, follow

MOST_PER_CORE = 4
PATIENCE = 20.0  # seconds for the clean-up of workers before they are killed


class _Process:
    """A worker from the coordinator's side."""

    def __init__(self, order: Order) -> None:
        self.process, self.pipe = start_child("scenes")
        self.told_end = False
        self.send(order)

    def send(self, what: Any) -> None:
        try:
            self.pipe.send(what)
        except OSError:
            pass  # the worker is dead, which its socket reports

    def receive(self) -> Message:
        """Its message, or how it ended."""
        try:
            message = self.pipe.recv()
        except (OSError, EOFError):
            how = how_it_ended(self.process.wait())
            return DIED, "" if self.told_end else how
        self.told_end = self.told_end or message[0] in (LEFT, WRONG)
        return message


class LocalPool:
    """See `coordinator.WorkerPool`. Raises UsageError for more workers than the cores can ever supply."""

    def __init__(self, workers: int) -> None:
        cores = own_cores()
        if workers > MOST_PER_CORE * len(cores):
            most = f"{len(cores)} cores are here, for at most {MOST_PER_CORE} workers each"
            raise UsageError(f"--workers {workers}: {most}; ask for fewer")
        self._processes: dict[int, _Process] = {}
        self._cores = divide_cores(cores, workers)

    def start(self, order: Order) -> None:
        self._processes[order.number] = _Process(replace(order, cores=self._cores[order.number]))

    def messages(self, patience: float) -> Iterable[tuple[int, Message]]:
        pipes = {each.pipe: number for number, each in self._processes.items()}
        for pipe in connection.wait(list(pipes), patience):
            number = pipes[pipe]  # type: ignore[index]
            message = self._processes[number].receive()
            if message[0] == DIED:
                self._processes.pop(number).pipe.close()
            yield number, message

    def reply(self, number: int, answer: Answer) -> None:
        self._processes[number].send(answer)

    def dismiss(self) -> None:
        for each in self._processes.values():
            if each.process.poll() is None:
                each.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + PATIENCE
        for each in self._processes.values():
            try:
                each.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                each.process.kill()
                each.process.wait()
            each.pipe.close()
        self._processes.clear()


# -- in the worker -----------------------------------------------------------------------------------------------------


class _Socket:
    """The link of a worker. A thread reads, so that the end of the coordinator is noticed at once."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        threading.Thread(target=self._read, name="coordinator", daemon=True).start()

    def send(self, message: Message) -> None:
        try:
            self._pipe.send(message)
        except OSError:
            pass  # the coordinator is gone, which `_read` notices too

    def answer(self) -> Answer:
        return self._answers.get()

    def _read(self) -> None:
        try:
            while True:
                self._answers.put(self._pipe.recv())
        except (OSError, EOFError):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(PATIENCE)
            os._exit(1)  # a step that never ends, for example on a dead file server, must not keep the process


def serve(descriptor: int) -> None:
    """Run a worker process; `descriptor` is the number of its socket to the coordinator. Signals raise exceptions."""
    pipe = connection.Connection(descriptor)
    try:
        order = pipe.recv()
    except (OSError, EOFError):
        return  # the coordinator ended before it sent an order
    follow(order, _Socket(pipe))
