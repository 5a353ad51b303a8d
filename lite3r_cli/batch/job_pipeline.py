"""Scenes on their way from photographs to files, several at a time: while the network sees one, the pictures of the
next are decoded, and the one before is fused and written.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from ..cores import count_cores
from ..errors import MemoryLimitError

READ_AHEAD = 1  # scenes whose pictures are decoded before the network is free
FINISHERS = 2  # scenes that are fused and written at a time, of any size
SMALL = 64  # views: as many small scenes as have so many together are finished at a time, if there are cores for it
MOST_FINISHERS = max(FINISHERS, min(6, count_cores() // 2))
PATIENCE = 0.3  # seconds between two looks at scenes that other processes have


class _NoMore:
    """What `next` gives at the end."""


_NO_MORE = _NoMore()


class Job(Protocol):
    """One scene. Its steps are called one after the other, by different threads."""

    @property
    def views(self) -> int:
        """Pictures, known once they are read."""

    def read(self) -> None:
        """Decode the pictures."""

    def predict(self) -> None:
        """Run the network."""

    def finish(self) -> None:
        """Fuse, write, put the files into place."""

    def end(self, error: Exception | None) -> None:
        """It is done, or has failed; called once, by the main thread."""

    def drop(self) -> None:
        """The batch is stopped: leave nothing half-written. Called once, instead of `end`, by the main thread."""

    def stop(self) -> None:
        """Make a step that runs in another thread end soon."""


class Conveyor:
    """`run` takes jobs as long as there are some, and ends each of them."""

    def __init__(self, jobs: Iterator[Job | None]) -> None:
        """A job is taken from `jobs` when there is room for it; None: others may come later."""
        self._jobs, self._exhausted = jobs, False
        self._under_way: list[Job] = []
        self._reading: deque[tuple[Job, Future[None]]] = deque()
        self._finishing: deque[tuple[Job, Future[None]]] = deque()
        self._readers = ThreadPoolExecutor(READ_AHEAD, thread_name_prefix="read scene")
        self._finishers = ThreadPoolExecutor(MOST_FINISHERS, thread_name_prefix="finish scene")

    def run(self) -> None:
        """Errors of a job are its own. Whatever else is raised (a signal) drops all jobs that are under way."""
        try:
            while not self._exhausted or self._under_way:
                self._take()
                if self._reading:
                    self._advance(*self._reading.popleft())
                elif self._finishing:
                    self._end_finished(at_most=0)
                elif not self._exhausted:
                    time.sleep(PATIENCE)
        except BaseException:
            self._drop_all()
            raise
        finally:
            self._readers.shutdown()
            self._finishers.shutdown()

    def _take(self) -> None:
        while len(self._reading) < READ_AHEAD and not self._exhausted:
            job = next(self._jobs, _NO_MORE)
            if job is None:
                return
            if isinstance(job, _NoMore):
                self._exhausted = True
                return
            self._under_way.append(job)
            self._reading.append((job, self._readers.submit(job.read)))

    def _advance(self, job: Job, future: Future[None]) -> None:
        """Predict what is read, while the next one is read, and hand it on."""
        error = future.exception()  # waits
        self._take()
        if error is None:
            error = self._predict(job)
        if error is None:
            self._make_room(job)
            self._finishing.append((job, self._finishers.submit(job.finish)))
        else:
            self._end(job, error)
        self._end_finished(at_most=MOST_FINISHERS)

    def _predict(self, job: Job) -> BaseException | None:
        try:
            try:
                job.predict()
            except MemoryLimitError:
                if not self._finishing:
                    raise
                self._end_finished(at_most=0)  # their maps are on the device, too
                job.predict()
        except Exception as error:
            return error
        return None

    def _make_room(self, job: Job) -> None:
        """Wait until another scene may be finished beside those that are."""
        while self._finishing:
            held = len(self._finishing)
            small = job.views + sum(other.views for other, _ in self._finishing) <= SMALL
            if held < (MOST_FINISHERS if small else FINISHERS):
                return
            self._end_finished(at_most=held - 1)

    def _end_finished(self, at_most: int) -> None:
        """End the jobs that are finished, and wait until no more than `at_most` are under way."""
        while self._finishing and (len(self._finishing) > at_most or self._finishing[0][1].done()):
            job, future = self._finishing[0]
            error = future.exception()  # waits
            self._end(job, error)
            self._finishing.popleft()

    def _end(self, job: Job, error: BaseException | None) -> None:
        if error is not None and not isinstance(error, Exception):
            raise error
        job.end(error)
        self._under_way.remove(job)

    def _drop_all(self) -> None:
        for job in self._under_way:
            job.stop()
        for pool in (self._readers, self._finishers):
            pool.shutdown(wait=True, cancel_futures=True)
        for job in self._under_way:
            job.drop()
