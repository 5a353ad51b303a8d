"""`reconstruct --gpus N`, with processes on the CPU: the files of one process, and a process that fails."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from conftest import photograph

from lite3r_cli.cli import main
from lite3r_cli.config import PredictConfig
from lite3r_cli.errors import BackendError
from lite3r_cli.io.images import discover
from lite3r_cli.networks import parity
from lite3r_cli.pipelines import helpers
from lite3r_cli.pipelines.predict import Predictor
from lite3r_cli.pipelines.team import Team, launched_team
from lite3r_cli.ranks import Rank

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = ["--resolution", "112", "--device", "cpu", "--dtype", "float32", "--keep-unrelated", "-q"]
# Makes the second process fail when it is handed its pictures
FAILING = """
import os, signal, sys, threading, time
def wait():
    while not hasattr(sys.modules.get("torch.distributed"), "recv"):
        time.sleep(0.002)
    def recv(*given, **more):
        {what}
    sys.modules["torch.distributed"].recv = recv
if sys.orig_argv[1:4] == ["-m", "lite3r_cli.worker_entry", "views"]:
    threading.Thread(target=wait, daemon=True).start()
"""

# Ends it before it has read what it is to do
DYING = """
import os, signal, sys
if sys.orig_argv[1:4] == ["-m", "lite3r_cli.worker_entry", "views"]:
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def photos(tmp_path) -> Path:
    for i, (width, height) in enumerate([(98, 70), (70, 98), (98, 70)]):
        photograph(tmp_path / "photos" / f"a{i}.png", width, height, seed=i)
    return tmp_path / "photos"


def run(
    photos: Path, out: Path, *options: str, hooks: Path | None = None, launcher: Sequence[str] = ()
) -> subprocess.CompletedProcess:
    path = os.pathsep.join([*([str(hooks)] if hooks else []), str(REPOSITORY)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    program = [sys.executable, *launcher, "-m", "lite3r_cli"]
    command = [*program, "reconstruct", str(photos), "-o", f"{out}/", *SMALL, *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "run.json")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_two_processes_write_what_one_writes(photos, tmp_path):
    with parity._threads(1):
        assert main(["reconstruct", str(photos), "-o", f"{tmp_path}/one/", *SMALL, "--save-npy"]) == 0
    done = run(photos, tmp_path / "two", "--save-npy", "--gpus", "2")
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "one") == contents(tmp_path / "two") and "scene.ply" in contents(tmp_path / "one")
    told = json.loads((tmp_path / "two" / "run.json").read_text())
    assert told["runtime"]["processes"]["chosen"] == "2 processes" and told["seconds"]["Wait for processes"] > 0
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = run(photos, tmp_path / "two", "--skip-existing", launcher=launcher)  # the second process waits for a word
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "what, code, told",
    [
        (FAILING.format(what="raise MemoryError"), 6, "process 2 of 2: out of memory on cpu"),
        (FAILING.format(what="os.kill(os.getpid(), signal.SIGKILL)"), 5, "process 2 of 2 died (signal 9)"),
        (DYING, 5, "process 2 of 2 died (signal 9)"),
    ],
)
def test_a_process_that_fails_ends_all_and_nothing_is_written(photos, tmp_path, what, code, told):
    (tmp_path / "sitecustomize.py").write_text(what)
    done = run(photos, tmp_path / "out", "--gpus", "2", hooks=tmp_path)
    assert done.returncode == code and told in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_divided(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(helpers, "start_child", lambda kind: pytest.fail("a process was started"))
    for options, code, told in (
        (["--gpus", "4"], 2, "mini has 6 heads"),
        (["--gpus", "100000"], 2, "use 2, 3, 6"),
        (["--gpus", "0"], 2, "--gpus must be at least 1"),
        (["--gpus", "2", "--device", "cuda:1"], 2, "need a GPU each"),
    ):
        assert main(["reconstruct", str(photos), "-o", f"{tmp_path}/out/", *SMALL, *options]) == code
        assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_fewer_images_than_processes_are_told_as_one_process(photos):
    """The other processes were started, but took no part."""
    predictor = Predictor(PredictConfig(resolution=112, device="cpu", dtype="float32"))
    predictor.team = team = Team(Rank(0, 1, 0), torch.device("cpu"), torch.distributed.HashStore())
    try:
        team.rank = Rank(0, 6, 0)
        predictor.predict(discover([photos]))
        told = predictor.choices()["processes"]
        assert told == {"asked": "6", "chosen": "1 process", "reason": "fewer images than processes"}
    finally:
        torch.distributed.destroy_process_group()


def test_a_process_that_is_lost_without_a_word_is_no_bug():
    """As on another machine, which rank 0 cannot watch."""
    team = Team(Rank(0, 1, 0), torch.device("cpu"), torch.distributed.HashStore())

    def work():
        raise RuntimeError("[gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer")

    try:
        with pytest.raises(BackendError, match="another process of this run has ended"):
            team._watched(work)
    finally:
        torch.distributed.destroy_process_group()


def test_a_process_whose_others_never_come_can_be_stopped(photos, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    process = subprocess.Popen(
        [sys.executable, "-m", "lite3r_cli", "reconstruct", str(photos), "-o", f"{tmp_path}/out/", *SMALL],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **place},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for _ in range(1200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        process.terminate()
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == -signal.SIGTERM and "nothing half-written is left" in err, err
    assert not (tmp_path / "out").exists()


def test_a_port_in_use_is_named(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as other:
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", str(other.getsockname()[1]))
        monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
        with pytest.raises(BackendError, match="cannot meet at 127.0.0.1:.* choose another MASTER_PORT"):
            launched_team(PredictConfig(device="cpu"), Rank(0, 2, 0))
