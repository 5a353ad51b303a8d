"""Workers that are Ray actors on any machine of a cluster with a common file system. Ray only places them: claims and
the queue decide who has which scene and how often it is tried.
"""

from __future__ import annotations

import ctypes
import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Iterable
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import Any

from ..errors import BackendError
from ..extras import require
from .scene_queue import Answer
from .worker_side import DIED, LEFT, WRONG, Message, Order, follow

POLL = 1.0  # seconds that an actor waits for a message
ANSWER = 10.0  # seconds for a head node to accept a connection
PATIENCE = 20.0  # seconds for the clean-up of workers before they are killed
GONE = "the Ray cluster is gone; start it again, and run the same command: it makes the scenes that are missing"


class RayWorker:
    """The actor: `work` runs the worker, `exchange` carries messages in parallel."""

    def __init__(self) -> None:
        self._said: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._thread = 0

    def work(self, order: Order) -> None:
        """Make scenes until none is left."""
        self._thread = threading.get_ident()
        try:
            follow(order, self)
        except KeyboardInterrupt:
            return  # `stop` was called; scenes in progress are dropped

    def exchange(self, answers: list[Answer]) -> list[Message]:
        """Accept answers, and return the messages since the last call."""
        for answer in answers:
            self._answers.put(answer)
        found: list[Message] = []
        try:
            found.append(self._said.get(timeout=POLL))
            while True:
                found.append(self._said.get_nowait())
        except queue.Empty:
            return found

    def stop(self) -> None:
        """Make `work` drop its scenes and end."""
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), ctypes.py_object(KeyboardInterrupt))

    def send(self, message: Message) -> None:
        """See `worker_side.Link`."""
        self._said.put(message)

    def answer(self) -> Answer:
        """See `worker_side.Link`."""
        while True:
            try:
                return self._answers.get(timeout=POLL)
            except queue.Empty:
                continue  # so that `stop` is heard


class RayPool:
    """See `coordinator.WorkerPool`. Raises BackendError without Ray or a cluster."""

    def __init__(self, address: str, workers: int, device: str) -> None:
        require("ray", "--ray")
        import ray

        require_head(address)
        self._ray, self._workers, self._device = ray, workers, device
        self._around = ExitStack()
        null = self._around.enter_context(open(os.devnull, "w"))
        self._around.enter_context(redirect_stdout(null))  # Ray prints deaths, which the coordinator reports itself
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise BackendError(
                f"--ray {address}: no cluster there ({reason}); `ray start --head` starts one"
            ) from error
        self._options = self._placement()
        self._actors: dict[int, Any] = {}
        self._work: dict[int, Any] = {}
        self._asked: dict[Any, int] = {}  # pending call of `exchange` → its worker
        self._answers: dict[int, list[Answer]] = {}

    def _placement(self) -> dict[str, Any]:
        """Resources of each worker: a GPU if the cluster has GPUs, and an equal share of the cores."""
        there = self._ray.cluster_resources()
        gpus, cores = int(there.get("GPU", 0)), int(there.get("CPU", 1))
        wants = self._device != "cpu" and (gpus > 0 or self._device.startswith("cuda"))
        if wants and gpus < self._workers:
            raise BackendError(f"--workers {self._workers}: the Ray cluster has {gpus} GPUs; ask for no more workers")
        if not wants and cores < self._workers:
            raise BackendError(f"--workers {self._workers}: the Ray cluster has {cores} cores; ask for no more workers")
        placed = {"num_gpus": int(wants), "num_cpus": max(1, cores // self._workers), "scheduling_strategy": "SPREAD"}
        return {**placed, "max_restarts": 0, "max_concurrency": 3}  # the queue restarts scenes

    def start(self, order: Order) -> None:
        """Start a worker where Ray places it."""
        number = order.number
        actor = self._ray.remote(RayWorker).options(**self._options).remote()
        self._actors[number], self._work[number] = actor, actor.work.remote(order)
        self._answers[number] = []
        self._asked[actor.exchange.remote([])] = number

    def messages(self, patience: float) -> Iterable[tuple[int, Message]]:
        """Messages of the workers."""
        exceptions = self._ray.exceptions
        try:
            ready, _ = self._ray.wait(list(self._asked), timeout=patience)
        except (exceptions.RayError, ConnectionError) as error:
            raise BackendError(GONE) from error
        for call in ready:
            number = self._asked.pop(call)
            try:
                said = self._ray.get(call)
            except exceptions.ActorDiedError as error:
                self._forget(number)
                yield number, (DIED, _how(error))
                continue
            except (exceptions.RayError, ConnectionError) as error:
                raise BackendError(GONE) from error
            yield from ((number, message) for message in said)
            if any(kind in (LEFT, WRONG) for kind, _ in said):
                self._ray.kill(self._actors[number])
                self._forget(number)
                yield number, (DIED, "")
            else:
                answers, self._answers[number] = self._answers[number], []
                self._asked[self._actors[number].exchange.remote(answers)] = number

    def reply(self, number: int, answer: Answer) -> None:
        """Sent with the next exchange."""
        self._answers[number].append(answer)

    def _forget(self, number: int) -> None:
        del self._actors[number], self._work[number], self._answers[number]

    def dismiss(self) -> None:
        """End all workers and leave the cluster."""
        try:
            for actor in self._actors.values():
                actor.stop.remote()
            deadline = time.monotonic() + PATIENCE
            for number, work in self._work.items():
                self._ray.wait([work], timeout=max(0.0, deadline - time.monotonic()))
                self._ray.kill(self._actors[number])
        except Exception:  # the cluster is gone, and its workers too
            pass
        finally:
            self._ray.shutdown()
            self._around.close()


def require_head(address: str) -> None:
    """Raise BackendError if no process accepts connections at HOST:PORT, because Ray would try for many minutes. `auto`
    is the address that Ray takes: RAY_ADDRESS, else that of the last `ray start` on this machine.
    """
    meant, source = address, ""
    if address == "auto":
        note = Path(os.environ.get("RAY_TMPDIR") or "/tmp", "ray", "ray_current_cluster")
        meant, source = os.environ.get("RAY_ADDRESS", ""), ", from RAY_ADDRESS"
        if not meant and note.is_file():
            meant, source = note.read_text(errors="replace").strip(), f", from {note}"
    host, _, port = meant.rpartition(":")
    if not host or "/" in host or not (port.isascii() and port.isdigit()):
        return  # no HOST:PORT: Ray says what it is
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise BackendError(
            f"--ray {address}: no cluster there (no answer at {meant}{source}: {error}); `ray start --head` starts one"
        ) from error


def _how(error: Exception) -> str:
    """Ray's report of a death in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    causes = [line for line in lines if "died" in line or "exit" in line or "killed" in line]
    return (causes or lines or ["no reason given"])[-1].partition(" Some common causes")[0][:200]
