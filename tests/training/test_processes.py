"""Two processes that train together: a signal to one, or to their launcher, ends all with the state of a step."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import photograph
from safetensors.torch import load_file
from test_loop import TINY

from lite3r_cli.networks import standin
from lite3r_cli.networks.mini.network import Mini
from lite3r_cli.stopping import between_steps
from lite3r_cli.training.state import read_metadata, save_weights
from lite3r_cli.training.worker import Worker

ROOT = Path(__file__).resolve().parents[2]
WAIT = 240  # seconds, of a busy machine
# `lite3r train` with a tiny network, and batches that need no ray-caster
TRAIN = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]
from pathlib import Path
from test_loop import TINY, batches
from lite3r_cli.networks.mini.network import Mini
from lite3r_cli.pipelines import train_mini as train
class Data:
    def __init__(self, *arguments): pass
    def batches(self, first):
        for number, batch in enumerate(batches(first)):
            if number == 5:
                Path("begun").touch()
            yield batch
train.Mini = lambda config: Mini(TINY)  # batches without hints of cameras
train.TrainingData = Data
from lite3r_cli.entry import main
sys.exit(main())
"""


@pytest.fixture
def environment(tmp_path) -> dict[str, str]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    return {**os.environ, **place, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def start(command: list[str], folder: Path, environment: dict[str, str], name: str) -> subprocess.Popen:
    with (folder / name).open("wb") as said:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=said)


def wait_for(condition, processes: list[subprocess.Popen]) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end and all(process.poll() is None for process in processes)
        time.sleep(0.05)


def state_of_a_step(folder: Path) -> int:
    """The step of a saved state, after a check that weights, averages and the optimiser's counter belong to it."""
    step = int(read_metadata(folder / "state.safetensors")["step"])
    counters = {int(v) for k, v in load_file(folder / "state.safetensors").items() if k.endswith(".step")}
    assert counters == {step}
    return step


def test_a_signal_to_one_process_of_train_ends_both(tmp_path, environment):
    (tmp_path / "train.py").write_text(TRAIN)
    command = [sys.executable, "train.py", "train", "-o", "t", "--max-steps", "100000", "--device", "cpu"]
    both = [
        start(command, tmp_path, environment | {"RANK": str(i), "LOCAL_RANK": str(i)}, f"rank{i}.txt") for i in range(2)
    ]
    try:
        wait_for((tmp_path / "begun").exists, both)
        both[1].send_signal(signal.SIGTERM)
        assert [process.wait(WAIT) for process in both] == [-signal.SIGTERM, -signal.SIGTERM]
    finally:
        for process in both:
            process.kill()
    step = state_of_a_step(tmp_path / "t")
    said = (tmp_path / "rank0.txt").read_text()
    assert f"stopped at step {step}; go on with" in said and "Traceback" not in said
    assert "bug" not in said + (tmp_path / "rank1.txt").read_text()
    assert step >= 5
    names = sorted(path.name for path in (tmp_path / "t").iterdir() if path.name != "log.jsonl")
    assert names == ["average.safetensors", "state.safetensors"]


@pytest.mark.parametrize("number, ends", [(signal.SIGTERM, "launcher"), (signal.SIGKILL, "rank 1")])
def test_torchrun_and_distill(tmp_path, environment, number, ends):
    for i in range(3):
        photograph(tmp_path / f"photos/{i}.png", seed=i)
    model = Mini(TINY)
    standin.fill(model, 1)
    save_weights(tmp_path / "tiny.safetensors", model.state_dict(), model, torch.float16)
    words = "distill photos -m tiny.safetensors -o d.safetensors --steps 100000 --views 2 -r 56 --validate-every 1"
    words += " --calibration-batches 1 --device cpu --workers 0"
    log = tmp_path / "d/log.jsonl"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment.pop("WORLD_SIZE")
    run = start([*launcher, "-m", "lite3r_cli", *words.split()], tmp_path, environment, "said.txt")
    try:
        wait_for(lambda: log.exists() and log.read_text().count("\n") > 2, [run])  # a line for each step
        if ends == "launcher":
            run.send_signal(number)
        else:
            os.kill(_rank_1(run.pid), number)
        assert run.wait(WAIT) != 0
    finally:
        run.kill()
    step = state_of_a_step(tmp_path / "d")
    said = (tmp_path / "said.txt").read_text()
    assert step > 1 and f"stopped at step {step}; go on with" in said and "bug: " not in said
    assert not (tmp_path / "d.safetensors").exists() and not list((tmp_path / "d").glob(".*"))


def _rank_1(launcher: int) -> int:
    for child in map(int, Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()):
        if b"\0RANK=1\0" in b"\0" + Path(f"/proc/{child}/environ").read_bytes():
            return child
    raise AssertionError("no process of rank 1")


def test_a_signal_that_comes_while_the_processes_meet_is_told_at_the_next_step(monkeypatch):
    worker, found = Worker(0, 2, torch.device("cpu")), []
    with pytest.raises(KeyboardInterrupt), between_steps() as noted:

        def meet(heard: torch.Tensor, *arguments: object, **more: object) -> None:
            found.append(int(heard))
            if len(found) == 1:
                signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(torch.distributed, "all_reduce", meet)
        worker.obey(noted)
        assert noted.number == signal.SIGINT
        worker.obey(noted)
    assert found == [0, signal.SIGINT]


def test_the_same_signal_again_is_one_and_a_later_one_is_obeyed_at_once():
    with pytest.raises(KeyboardInterrupt), between_steps(patience=0.05) as noted:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert noted.number == signal.SIGINT
        time.sleep(0.06)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the last one was not obeyed")
