"""The coordinator of a batch with several processes: it hands out scenes, replaces dead workers, and receives messages.

It has no claims and no network. The records of a dead worker's scenes count the attempts (`claims.py`): these scenes go
back into the queue, and a scene on which three workers died is recorded as failed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from .. import console, errors
from ..config.worker_pool import PoolConfig
from ..console import Progress, Tell
from ..errors import BackendError
from .job import Outcome
from .manifest import SceneInput
from .past import Past
from .scene_queue import Answer, SceneQueue
from .worker_side import BEGUN, BUSY, DIED, ENDED, LEFT, NEXT, NOTE, READY, WARN, WRONG, Message, Order, here

PATIENCE = 0.5  # seconds without a message, after which the coordinator checks the workers
IDLE_DEATHS = 3  # workers in a row that die before they begin a scene


class WorkerPool(Protocol):
    """Worker processes on this or other machines, identified by numbers."""

    def start(self, order: Order) -> None:
        """Start a worker. Raises BackendError."""

    def messages(self, patience: float) -> Iterable[tuple[int, Message]]:
        """Messages of the workers, waited for at most `patience` seconds. `DIED` is the last message of a worker."""

    def reply(self, number: int, answer: Answer) -> None:
        """Answer the worker's `NEXT`."""

    def dismiss(self) -> None:
        """End all workers: each cleans up what it has not finished."""


@dataclass
class _Worker:
    """The state of a worker slot. A new worker takes the slot of a dead one."""

    under_way: set[str] = field(default_factory=set)  # scenes that it has and has not finished
    begun: int = 0  # scenes begun by the present process of this slot
    done: int = 0
    deaths: list[str] = field(default_factory=list)
    active: bool = False
    heard: bool = False  # if not, it may still be waiting for a place in a cluster
    facts: dict[str, Any] = field(default_factory=dict)

    def account(self) -> dict[str, Any]:
        """The entry of batch.json."""
        kept = {key: value for key, value in self.facts.items() if key in ("runtime", "peak_memory", "cores")}
        device = kept.pop("runtime", {}).get("device", {}).get("chosen")
        return {"device": device, "scenes": self.done, "deaths": self.deaths, **kept}


class Coordinator:
    """`run` returns facts for batch.json when every scene is settled."""

    def __init__(
        self,
        config: PoolConfig,
        past: Past,
        scene_queue: SceneQueue,
        progress: Progress,
        warn: Tell,
        step: Callable[..., None],
    ) -> None:
        self.config, self.past, self.scene_queue = config, past, scene_queue
        self.progress, self.warn, self.step = progress, warn, step
        self.start_seconds: float | None = None
        self._notes: set[str] = set()
        self._idle_deaths = 0
        self._handlers: dict[str, Callable[[int, Any], None]] = {
            NEXT: self._next,
            BEGUN: self._begun,
            BUSY: self._busy,
            ENDED: self._ended,
            WARN: lambda number, text: self.warn(text),
            NOTE: self._note,
            READY: self._ready,
            WRONG: self._wrong,
            LEFT: self._left,
            DIED: self._died,
        }
        self._crew = pool_of(config, past.config.predict.device)
        self.workers = [_Worker() for _ in range(config.workers)]

    def run(self) -> dict[str, Any]:
        """Raises BackendError if workers die before they begin a scene, and the errors that concern all scenes."""
        try:
            while self._man():
                for number, (kind, what) in self._crew.messages(PATIENCE):
                    self.workers[number].heard = True
                    self._handlers[kind](number, what)
        finally:
            self._crew.dismiss()
            self.scene_queue.tidy()
        first: dict[str, Any] = next((w.facts for w in self.workers if "runtime" in w.facts), {})
        facts: dict[str, Any] = {key: first[key] for key in ("versions", "runtime") if key in first}
        if self.start_seconds is not None:
            facts["start_seconds"] = round(self.start_seconds, 3)
        return {**facts, "workers": [worker.account() for worker in self.workers]}

    def _man(self) -> bool:
        """Start workers while scenes are waiting. Returns whether any worker is running."""
        waiting = self.scene_queue.missing
        for number, worker in enumerate(self.workers):
            if worker.active:
                waiting -= 0 if worker.under_way else 1  # it will ask for a scene soon
            elif waiting > 0:
                waiting -= 1
                worker.active, worker.heard, worker.begun = True, False, 0
                self._crew.start(Order(self.past, number, here(), debug=console.settings.debug))
        return any(worker.active and (worker.heard or not self.scene_queue.is_done) for worker in self.workers)

    # -- messages of workers -------------------------------------------------------------------------------------------

    def _next(self, number: int, _: object) -> None:
        answer = self.scene_queue.next()
        if isinstance(answer, SceneInput):
            self.workers[number].under_way.add(answer.name)
        self._crew.reply(number, answer)

    def _begun(self, number: int, name: str) -> None:
        self.workers[number].begun += 1
        self._idle_deaths = 0
        self._show(number)

    def _busy(self, number: int, name: str) -> None:
        self.workers[number].under_way.discard(name)
        self.scene_queue.later([name])

    def _ended(self, number: int, outcome: Outcome) -> None:
        worker = self.workers[number]
        worker.under_way.discard(outcome.name)
        worker.done += 1
        self.scene_queue.ended(outcome)
        self._show(number)

    def _note(self, number: int, text: str) -> None:
        if text not in self._notes:  # all workers load the same network
            self._notes.add(text)
            self.progress.note(text)

    def _ready(self, number: int, seconds: dict[str, float]) -> None:
        if self.start_seconds is None:
            self.start_seconds = self.progress.wall
            self.progress.seconds.update(seconds)

    def _wrong(self, number: int, what: tuple[str, str]) -> None:
        kind, text = what
        if kind:
            raise getattr(errors, kind, errors.Lite3RError)(text)
        raise RuntimeError(f"worker {number + 1}: {text}")

    def _left(self, number: int, facts: dict[str, Any]) -> None:
        self.workers[number].facts = facts

    def _died(self, number: int, how: str) -> None:
        """Handle the end of a worker. `how` is empty if it was told to end."""
        worker = self.workers[number]
        lost, worker.under_way, worker.active = worker.under_way, set(), False
        self._show(number)
        self.scene_queue.later(sorted(lost))
        if not how:
            return
        worker.deaths.append(how)
        self._idle_deaths += worker.begun == 0
        if self._idle_deaths >= IDLE_DEATHS:
            reason = "start fewer --workers if memory is short, or run without --workers to see what is wrong"
            raise BackendError(f"{IDLE_DEATHS} workers died ({how}) before they had begun a scene; {reason}")
        at = f" while it worked on {', '.join(sorted(lost))}" if lost else ""
        self.warn(f"worker {number + 1} died ({how}){at}; another takes its place")

    def _show(self, number: int) -> None:
        self.step(lane=f"worker {number + 1}", where=", ".join(sorted(self.workers[number].under_way)))


def pool_of(config: PoolConfig, device: str) -> WorkerPool:
    """The worker pool that a configuration describes. Raises BackendError."""
    if config.ray is not None:
        from .ray_pool import RayPool

        return RayPool(config.ray, config.workers, device)
    from .local_pool import LocalPool

    return LocalPool(config.workers)
