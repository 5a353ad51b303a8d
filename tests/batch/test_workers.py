"""`lite3r batch --workers N`: real processes, killed and stopped; and the coordinator with workers that only talk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import photograph

from lite3r_cli.batch import claims as recorded
from lite3r_cli.batch import coordinator, job
from lite3r_cli.batch.claims import Claims, Record
from lite3r_cli.cli import main
from lite3r_cli.cores import divide_cores
from lite3r_cli.io.output_layout import is_complete

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = ["--resolution", "112", "--device", "cpu", "--keep-unrelated"]
# Ends a worker as `kill -9` does when it opens a picture of the scene `poison`
POISON = """
import os, signal, sys
def hear(event, what):
    if event == "open" and "/poison/" in str(what[0]) and str(what[0]).endswith(".jpg"):
        if sys.argv[0].endswith("worker_entry.py"):
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hear)
"""


# A worker that waits for ever when it opens a picture of the scene `poison`, and has a second for its clean-up
HANGING = """
import sys, time
def hear(event, what):
    if event == "open" and "/poison/" in str(what[0]) and "lite3r_cli.batch.local_pool" in sys.modules:
        sys.modules["lite3r_cli.batch.local_pool"].PATIENCE = 1
        print("hangs", file=sys.stderr, flush=True)
        time.sleep(1000)
sys.addaudithook(hear)
"""


def scenes(root: Path, *names: str) -> Path:
    for k, name in enumerate(names):
        for i in range(2):
            photograph(root / name / f"a{i}.jpg", seed=10 * k + i)
    return root


def start(root: Path, out: Path, *options: str, hooks: Path | None = None) -> subprocess.Popen:
    path = os.pathsep.join([*([str(hooks)] if hooks else []), str(REPOSITORY)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "lite3r_cli", "batch", str(root), "-o", str(out), *SMALL, "--workers", "2"]
    return subprocess.Popen(
        [*command, *options], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def workers_of(process: subprocess.Popen) -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        pytest.skip("this system does not list a process's children")
    return [int(number) for number in children.read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, process: subprocess.Popen | None = None) -> None:
    for _ in range(6000):
        if condition():
            return
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise AssertionError("it has not come about in two minutes")


def half_written(out: Path) -> list[str]:
    return [str(p) for p in out.rglob("*") if p.suffix == ".lock" or (p.name.startswith(".") and p.name != ".batch")]


def test_workers_that_are_killed_cost_their_scenes_a_retry_and_a_scene_that_kills_is_given_up(tmp_path):
    root, out = scenes(tmp_path / "root", "s0", "poison", "s1", "s2", "s3"), tmp_path / "out"
    (tmp_path / "hooks").mkdir()
    (tmp_path / "hooks" / "sitecustomize.py").write_text(POISON)
    process = start(root, out, "--json", "-q", hooks=tmp_path / "hooks")
    wait_for(lambda: list(out.glob("s*/.scene.ply.lite3r-*")), process)
    os.kill(workers_of(process)[0], signal.SIGKILL)
    text, err = process.communicate(timeout=300)
    assert process.returncode == 3 and "Traceback" not in err, err
    document = json.loads(text)
    assert document == json.loads((out / "batch.json").read_text())
    found = {scene["name"]: scene for scene in document["scenes"]}
    assert found.pop("poison")["reason"] == recorded.DIED and not (out / "poison").exists()
    assert {scene["status"] for scene in found.values()} <= {
        "done",
        "elsewhere",
        "there",
    }
    assert all(is_complete(f"{out}/{name}/") for name in found)
    # the killed worker may have put its last file in place, but not yet recorded the scene: run.json has its figures
    assert all(scene["views"] == 2 and scene["wall_seconds"] > 0 for scene in found.values())
    deaths = [how for worker in document["workers"] for how in worker["deaths"]]
    assert len(deaths) >= recorded.MOST_ATTEMPTS and set(deaths) == {"signal 9"}
    assert "while it worked on" in err and half_written(out) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_the_process_that_was_started(tmp_path, number):
    root, out = scenes(tmp_path / "root", "s0", "s1", "s2"), tmp_path / "out"
    process = start(root, out)
    if number == signal.SIGTERM:
        wait_for(lambda: list(out.glob(".batch/*.json")), process)
    else:  # which leaves them no time to say anything
        wait_for(lambda: len(workers_of(process)) == 2, process)
    pids = workers_of(process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == -number and "Traceback" not in err and len(pids) == 2
    wait_for(lambda: not any(map(is_alive, pids)))
    assert half_written(out) == []
    records = [Claims(out).record(name) for name in ("s0", "s1", "s2")]
    assert all(record.status != recorded.RUNNING for record in records if record is not None)


def test_a_worker_that_hangs_ends_with_the_process_that_was_started(tmp_path):
    root = scenes(tmp_path / "root", "poison")
    (tmp_path / "sitecustomize.py").write_text(HANGING)
    process = start(root, tmp_path / "out", hooks=tmp_path)
    assert process.stderr is not None and any("hangs" in line for line in process.stderr)
    pids = workers_of(process)
    process.kill()
    process.communicate(timeout=60)
    assert pids
    wait_for(lambda: not any(map(is_alive, pids)))


def test_a_scene_on_which_a_process_died_runs_alone(plane_backbone, tmp_path, monkeypatch):
    """So that only this scene is counted if the process dies again."""
    root, out = scenes(tmp_path / "root", "s0", "s1", "s2", "s3"), tmp_path / "out"
    Claims(out).write(Record("s1", recorded.RUNNING, 1, time.time()))
    under_way: set[str] = set()
    beside: set[str] = set()
    lock, read, end = threading.Lock(), job.SceneJob.read, job.SceneJob.end

    def note(self) -> None:
        with lock:
            under_way.add(self.scene.name)
            if "s1" in under_way:
                beside.update(under_way)
        read(self)

    def leave(self, error) -> None:
        end(self, error)
        under_way.discard(self.scene.name)

    monkeypatch.setattr(job.SceneJob, "read", note)
    monkeypatch.setattr(job.SceneJob, "end", leave)
    assert main(["batch", str(root), "-o", str(out), "-q", "--resolution", "112"]) == 0
    assert beside == {"s1"} and Claims(out).record("s1").status == recorded.DONE


class Talking:
    """Stands for the workers of `pool_of`; each sends one message and ends."""

    def __init__(self, said: tuple) -> None:
        self.said = said
        self.started: list[int] = []
        self.dismissed = False

    def start(self, order) -> None:
        self.started.append(order.number)

    def messages(self, patience):
        while self.started:
            yield self.started.pop(), self.said

    def reply(self, number, answer) -> None:
        raise AssertionError("they ask nothing")

    def dismiss(self) -> None:
        self.dismissed = True


@pytest.mark.parametrize(
    "said, code, told",
    [
        (("died", "signal 9"), 5, "3 workers died (signal 9) before they had begun"),
        (("wrong", ("WeightsError", "a.safetensors: damaged")), 4, "error: a.safetensors: damaged"),
        (("wrong", ("", "KeyError: 3")), 1, "worker 2: KeyError: 3"),
    ],
)
def test_what_is_wrong_for_all_scenes_ends_the_batch(tmp_path, monkeypatch, capsys, said, code, told):
    made: list[Talking] = []
    monkeypatch.setattr(coordinator, "pool_of", lambda config, device: made.append(Talking(said)) or made[0])
    root, lock = scenes(tmp_path / "root", "s0", "s1"), tmp_path / "out" / ".batch" / "s1.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()  # as a worker that was killed leaves it
    assert main(["batch", str(root), "-o", str(tmp_path / "out"), "--workers", "2"]) == code
    assert told in capsys.readouterr().err and made[0].dismissed and not lock.exists()


def test_a_number_of_workers_that_no_machine_has_is_refused(tmp_path, capsys):
    root = scenes(tmp_path / "root", "s0")
    assert main(["batch", str(root), "-o", str(tmp_path / "out"), "--workers", "1000000000"]) == 2
    assert "ask for fewer" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("cores, parts", [(8, 2), (7, 3), (2, 2), (2, 5), (1, 1)])
def test_cores_are_divided(cores, parts):
    groups = divide_cores(list(range(10, 10 + cores)), parts)
    assert len(groups) == parts and all(groups) and {c for g in groups for c in g} == set(range(10, 10 + cores))
    if parts <= cores:
        assert sum(map(len, groups)) == cores and max(map(len, groups)) - min(map(len, groups)) <= 1
