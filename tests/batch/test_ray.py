"""`lite3r batch --ray` on a local cluster: killed workers and a lost head node."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import photograph

from lite3r_cli.io.output_layout import is_complete

pytest.importorskip("ray")
REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = ["--resolution", "112", "--device", "cpu", "--keep-unrelated", "-q", "--json"]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(REPOSITORY),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # Ray's own 15 starves its workers where other processes use all cores
    "OMP_NUM_THREADS": "1",
}


class Cluster:
    """One head with two cores. Ray keeps its sockets in a short path."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process: subprocess.Popen | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        more = ["--num-cpus", "2", "--include-dashboard=false", "--block"]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--port", str(self.port), *more]
        self.process = subprocess.Popen(
            command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    break
            time.sleep(0.2)
        time.sleep(3)

    def end(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)  # all that it has started
            self.process.wait()
            self.process = None


@pytest.fixture
def cluster():
    made = Cluster()
    made.start()
    yield made
    made.end()


def start(root: Path, out: Path, cluster: Cluster) -> subprocess.Popen:
    command = [sys.executable, "-m", "lite3r_cli", "batch", str(root), "-o", str(out), *SMALL, "--workers", "2"]
    return subprocess.Popen(
        [*command, "--ray", cluster.address], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(condition, process: subprocess.Popen) -> None:
    for _ in range(6000):
        if condition():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("it has not come about in five minutes")


def actors() -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cmdline").read_bytes().startswith(b"ray::RayWorker"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def test_a_worker_that_is_killed_and_a_head_that_is_lost(tmp_path, cluster):
    root, out = tmp_path / "root", tmp_path / "out"
    for scene in range(4):
        for i in range(2):
            photograph(root / f"s{scene}" / f"a{i}.jpg", seed=10 * scene + i)
    process = start(root, out, cluster)
    wait_for(lambda: list(out.glob("s*/.scene.ply.lite3r-*")), process)
    os.kill(actors()[0], signal.SIGKILL)
    text, err = process.communicate(timeout=400)
    assert process.returncode == 0 and "died" in err and "Traceback" not in err, err
    document = json.loads(text)
    assert {scene["status"] for scene in document["scenes"]} <= {"done", "elsewhere"} and len(document["scenes"]) == 4
    assert sum(len(worker["deaths"]) for worker in document["workers"]) == 1

    again = tmp_path / "again"
    for scene in range(4, 12):  # so many that the batch is not done when the head is lost
        photograph(root / f"s{scene}" / "a.jpg", seed=scene)
    process = start(root, again, cluster)
    wait_for(lambda: list(again.glob("s*/.scene.ply.lite3r-*")), process)
    cluster.end()
    try:
        process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
    assert process.returncode != 0
    cluster.start()
    process = start(root, again, cluster)
    text, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    assert all(is_complete(f"{again}/s{k}/") for k in range(12))
    assert not list(again.rglob(".scene.ply*"))
