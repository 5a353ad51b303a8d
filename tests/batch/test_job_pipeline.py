"""The job pipeline alone: which stages overlap, how jobs end, and what remains after a signal."""

from __future__ import annotations

import threading

import pytest

from lite3r_cli.batch import job_pipeline
from lite3r_cli.batch.job_pipeline import JobPipeline
from lite3r_cli.errors import InputError, MemoryLimitError


class Job:
    """Notes its steps; `fails` says in which step it raises what."""

    views = 8

    def __init__(self, name: str, log: list, fails: dict | None = None) -> None:
        self.name, self.log, self.fails = name, log, fails or {}
        self.stopped = threading.Event()

    def _step(self, step: str) -> None:
        self.log.append((self.name, step))
        errors = self.fails.get(step, [])
        if errors and (error := errors.pop(0)) is not None:
            raise error

    def read(self) -> None:
        self._step("read")

    def predict(self) -> None:
        self._step("predict")

    def finish(self) -> None:
        self._step("finish")

    def end(self, error) -> None:
        self.log.append((self.name, "done" if error is None else str(error)))

    def drop(self) -> None:
        self.log.append((self.name, "dropped"))

    def stop(self) -> None:
        self.stopped.set()


def test_a_job_that_fails_does_not_disturb_the_others():
    log: list = []
    where = ["read", "predict", "finish", None]
    jobs = [Job(str(k), log, {step: [InputError(f"bad {step}")]} if step else {}) for k, step in enumerate(where)]
    JobPipeline(iter([jobs[0], None, *jobs[1:]])).run()
    ends = {name: what for name, what in log if what not in ("read", "predict", "finish")}
    assert ends == {"0": "bad read", "1": "bad predict", "2": "bad finish", "3": "done"}
    assert ("0", "predict") not in log and ("1", "finish") not in log


def test_pictures_are_read_and_scenes_finished_while_the_network_works():
    log: list = []
    jobs = [Job(str(k), log) for k in range(3)]
    read, finished = threading.Event(), threading.Event()
    jobs[2].read = lambda: read.set()
    jobs[0].finish = lambda: finished.set()

    def predict() -> None:
        assert read.wait(20) and finished.wait(20), "nothing ran beside the network"

    jobs[1].predict = predict
    JobPipeline(iter(jobs)).run()
    assert [name for name, what in log if what == "done"] == ["0", "1", "2"]


@pytest.mark.parametrize("views, limit", [(job_pipeline.SMALL, job_pipeline.FINISHERS), (8, 5)], ids=["large", "small"])
def test_no_more_scenes_are_held_than_said(views, limit, monkeypatch):
    monkeypatch.setattr(job_pipeline, "MOST_FINISHERS", 5)
    under_way, most, lock, all_there = 0, 0, threading.Lock(), threading.Event()

    class Counted(Job):
        def predict(self) -> None:
            nonlocal under_way, most
            with lock:
                under_way += 1
                most = max(most, under_way)

        def finish(self) -> None:
            if under_way >= limit:
                all_there.set()
            assert all_there.wait(20), "fewer are finished at a time"

        def end(self, error) -> None:
            nonlocal under_way
            assert error is None
            with lock:
                under_way -= 1

    jobs = [Counted(str(k), []) for k in range(12)]
    for job in jobs:
        job.views = views
    JobPipeline(iter(jobs)).run()
    assert under_way == 0 and limit <= most <= limit + 1


def test_out_of_memory_beside_others_is_tried_again_alone():
    log: list = []
    first, second, third = (Job(name, log) for name in "abc")
    gate = threading.Event()
    first.finish = lambda: gate.wait(20)
    second.fails = {"predict": [MemoryLimitError("full"), None]}
    third.fails = {"predict": [MemoryLimitError("full"), MemoryLimitError("full")]}
    threading.Timer(0.2, gate.set).start()
    JobPipeline(iter([first, second, third])).run()
    ends = [entry for entry in log if entry[1] in ("done", "full")]
    assert sorted(ends) == [("a", "done"), ("b", "done"), ("c", "full")]
    assert log.index(("a", "done")) < len(log) - 1 - log[::-1].index(("b", "predict"))


@pytest.mark.parametrize("step", ["predict", "jobs"])
def test_a_signal_drops_what_is_under_way(step):
    log: list = []
    slow, struck = Job("slow", log), Job("struck", log)
    slow.finish = lambda: slow.stopped.wait(20)
    struck.fails = {"predict": [KeyboardInterrupt()]} if step == "predict" else {}

    def jobs():
        yield slow
        yield struck
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        JobPipeline(jobs()).run()
    assert slow.stopped.is_set()
    ended = [name for name, what in log if what in ("dropped", "done")]
    assert sorted(ended) == ["slow", "struck"]
