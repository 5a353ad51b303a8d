"""A prediction that is divided among processes is that of one process, to the last bit in float32 on a CPU."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lite3r_cli.errors import BackendError, UsageError
from lite3r_cli.pipelines.team import divide
from lite3r_cli.ranks import Rank, launched
from lite3r_cli.runtime import device_of

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_answer_is_that_of_one_process():
    """Of three processes, one of which has fewer views; two write whole scenes in tests/pipelines/test_gpus.py."""
    ranks = 3
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks), "OMP_NUM_THREADS": "1"}
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", str(Path(__file__).with_name("shard_ranks.py"))],
            env={**os.environ, **common, "PYTHONPATH": path, "RANK": str(rank), "GLOO_SOCKET_IFNAME": "lo"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    try:
        answers = [process.communicate(timeout=400) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * ranks, answers
    differences = json.loads(answers[0][0])
    assert len(differences) == 18
    assert {case: worst for case, worst in differences.items() if worst > 0} == {}


@pytest.mark.parametrize(
    "sizes, parts, lengths",
    [
        ([1] * 7, 3, [2, 3, 2]),
        ([1] * 4, 4, [1, 1, 1, 1]),
        ([9, 1, 1, 1, 1, 1], 2, [1, 5]),
        ([1, 1, 1, 1, 9], 3, [1, 3, 1]),
        ([5, 5], 2, [1, 1]),
    ],
)
def test_views_are_divided_by_their_pixels_and_nobody_gets_none(sizes, parts, lengths):
    runs = divide(sizes, parts)
    assert [i for run in runs for i in run] == list(range(len(sizes)))
    found = [len(run) for run in runs]
    assert len(found) == parts and min(found) >= 1
    assert max(sum(sizes[i] for i in run) for run in runs) == max(
        sum(sizes[sum(lengths[:k]) : sum(lengths[: k + 1])]) for k in range(parts)
    )


def test_what_a_launcher_says(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert launched() is None
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="torchrun"):
        launched()
    monkeypatch.setenv("MASTER_PORT", "1")
    assert launched() == Rank(5, 8, 1)


def test_a_process_gets_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of(Rank(1, 2, 1), "auto") == "auto"  # all on the CPU
    with pytest.raises(BackendError, match="--device cpu"):
        device_of(Rank(1, 2, 1), "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "drawn")
    assert device_of(Rank(5, 8, 1), "auto") == device_of(Rank(5, 8, 1), "cuda") == "cuda:1"
    for rank, asked, error, told in (
        (Rank(5, 8, 1), "cuda:0", UsageError, "need a GPU each"),
        (Rank(2, 3, 2), "auto", BackendError, "3 processes need a GPU each, and torch finds 2 here"),
    ):
        with pytest.raises(error, match=told):
            device_of(rank, asked)
