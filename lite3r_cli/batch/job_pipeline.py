"""Runs several scenes at a time: while the network predicts one, the pictures of the next are decoded, and earlier
scenes are fused and written.
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
SMALL = 64  # views: small scenes are finished in parallel up to this total number of views, if there are cores
MOST_FINISHERS = max(FINISHERS, min(6, count_cores() // 2))
PATIENCE = 0.3  # seconds between two checks of scenes that other processes have


class _NoMore:
    """Returned by `next` at the end."""


_NO_MORE = _NoMore()


class Job(Protocol):
    """One scene. Its steps are called one after the other by different threads."""

    @property
    def views(self) -> int:
        """Number of pictures, once they are read."""

    def read(self) -> None:
        """Decode the pictures."""

    def predict(self) -> None:
        """Run the network."""

    def finish(self) -> None:
        """Fuse, write, and move the files into place."""

    def end(self, error: Exception | None) -> None:
        """The scene is done or has failed; called once, by the main thread."""

    def drop(self) -> None:
        """The batch is stopped: remove partial output. Called once instead of `end`, by the main thread."""

    def stop(self) -> None:
        """Make a step in another thread end soon."""


class JobPipeline:
    """`run` takes jobs until there are no more, and ends each of them."""

    def __init__(self, jobs: Iterator[Job | None]) -> None:
        """A job is taken from `jobs` when there is room for it; None means that more may come later."""
        self._jobs, self._exhausted = jobs, False
        self._under_way: list[Job] = []
        self._reading: deque[tuple[Job, Future[None]]] = deque()
        self._finishing: deque[tuple[Job, Future[None]]] = deque()
        self._readers = ThreadPoolExecutor(READ_AHEAD, thread_name_prefix="read scene")
        self._finishers = ThreadPoolExecutor(MOST_FINISHERS, thread_name_prefix="finish scene")

    def run(self) -> None:
        """Errors of a job are passed to its `end`. Any other exception (a signal) drops all jobs in progress."""
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
        """Predict a scene that has been read, while the next one is read, and pass it on."""
        error = future.exception()  # waits
        if error is None:
            self._take()
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
                self._end_finished(at_most=0)  # the maps of these scenes are on the device, too
                job.predict()
        except Exception as error:
            return error
        return None

    def _make_room(self, job: Job) -> None:
        """Wait until this scene may be finished in parallel with the others."""
        while self._finishing:
            held = len(self._finishing)
            small = job.views + sum(other.views for other, _ in self._finishing) <= SMALL
            if held < (MOST_FINISHERS if small else FINISHERS):
                return
            self._end_finished(at_most=held - 1)

    def _end_finished(self, at_most: int) -> None:
        """End finished jobs, and wait until at most `at_most` are in progress."""
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
