"""A signal between any two lines leaves no lock, no hidden file and no half-claimed scene."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest

from lite3r_cli.batch import scene_worker
from lite3r_cli.batch.claims import Claims, Record
from lite3r_cli.batch.job import Outcome
from lite3r_cli.batch.manifest import SceneInput
from lite3r_cli.batch.past import Past
from lite3r_cli.batch.scene_queue import END
from lite3r_cli.config import InputConfig, ReconstructConfig
from lite3r_cli.io.transaction import Transaction
from lite3r_cli.stopping import Terminated, signals_as_exceptions

CLAIMING = ("batch/claims.py", "batch/scene_worker.py", "batch/job_pipeline.py", "io/locks.py")
STEP = 3  # of all lines, to be quick
OLD = ("running", 1)  # one process has died
WRITING = ("io/transaction.py", "io/locks.py")


class Dispatcher:
    """Hands out two scenes."""

    def __init__(self, scenes: list[SceneInput]) -> None:
        self.scenes = scenes

    def next(self):
        return self.scenes.pop(0) if self.scenes else END

    def begun(self, name: str) -> None:
        pass

    def busy(self, name: str) -> None:
        raise AssertionError(f"{name}: who has it?")

    def ended(self, outcome) -> None:
        pass

    warn = begun


class Job:
    """Does with the claim what `batch.job.SceneJob` does."""

    views = 2

    def __init__(self, scene, config, claim, predictor, warn, ended) -> None:
        self.claim, self.ended, self.outcome = claim, ended, Outcome(scene.name, "", "", "done")

    def read(self) -> None:
        pass

    predict = finish = stop = read

    def end(self, error) -> None:
        self.claim.done({})
        self.ended(self.outcome)

    def drop(self) -> None:
        self.claim.give_back()


def make_scenes(root: Path) -> None:
    """Two scenes, on one of which a process has died before."""
    out = root / "out"
    past = Past(ReconstructConfig(InputConfig((root,)), output=str(out)), time.time())
    if not (out / ".batch").exists():
        Claims(out).write(Record("b", *OLD, time.time()))
    scene_worker.SceneWorker(past, Dispatcher([SceneInput("a", root), SceneInput("b", root)])).run()


def write_files(root: Path) -> None:
    """Two files, in a folder that is not there yet."""
    with Transaction(root / "out", "scene.ply", lambda name: True) as files:
        for name in ("scene.ply", "scene/run.json"):
            (files.new / name).parent.mkdir(exist_ok=True)
            (files.new / name).write_text("{}")
        files.commit([], "scene/run.json")


class SignalAt:
    """A trace function that sends SIGTERM at the `moment`-th line of some files."""

    def __init__(self, files: tuple[str, ...], moment: int) -> None:
        self.files, self.moment, self.lines = files, moment, 0

    def __call__(self, frame, event, what):
        if not frame.f_code.co_filename.endswith(self.files):
            return None
        self.lines += event == "line"
        if event == "line" and self.lines == self.moment:
            signal.raise_signal(signal.SIGTERM)
        return self


def stopped_at(work, root: Path, trace: SignalAt) -> bool:
    before = sys.gettrace()
    try:
        with signals_as_exceptions():
            sys.settrace(trace)
            work(root)
    except Terminated:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize("work, files", [(make_scenes, CLAIMING), (write_files, WRITING)])
def test_a_signal_between_any_two_lines(work, files, tmp_path, monkeypatch):
    monkeypatch.setattr(scene_worker, "SceneJob", Job)
    monkeypatch.setattr(scene_worker.SceneWorker, "_load", lambda self: None)
    all_lines = SignalAt(files, -1)
    assert not stopped_at(work, tmp_path / "whole", all_lines) and all_lines.lines > 100
    wrong = {}
    for moment in range(1, all_lines.lines + 1, STEP):
        root = tmp_path / str(moment)
        assert stopped_at(work, root, SignalAt(files, moment)), moment
        out = root / "out"
        names = {path.name for path in out.rglob("*") if not path.is_dir()}
        left = {name for name in names if name.endswith(".lock") or name.startswith(".")}
        records = [Claims(out).record(name) for name in ("a", "b")]
        begun = [each.name for each in records if each and (each.status, each.attempts) not in (("done", 0), OLD)]
        half = work is write_files and names not in (set(), {"scene.ply", "run.json"})
        if left or begun or half:
            wrong[moment] = left, begun, names
    assert wrong == {}
