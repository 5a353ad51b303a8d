"""Distillation by two processes, with gloo on a CPU."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import two_processes
from test_distill import CPU

REPOSITORY = Path(__file__).resolve().parents[2]


def test_two_processes_learn_together_what_one_learns(tmp_path):
    """With the same images they learn what one process learns; with different images both have the same weights, which
    differ from those of one process. The log has the losses of both."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests"), str(REPOSITORY / "tests/distillation")])
    common = {**os.environ, "PYTHONPATH": path, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {"WORLD_SIZE": "2", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-W", "ignore", two_processes.__file__, str(tmp_path)]
    processes = [
        subprocess.Popen(command, env={**common, "RANK": str(r), "LOCAL_RANK": str(r)}, stderr=subprocess.PIPE)
        for r in range(2)
    ]
    try:
        said = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], said
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    losses, weights = two_processes.trained(CPU, 0)
    assert len(losses) == 3 and second["same"][0] == []  # the first process alone reports
    np.testing.assert_allclose(first["same"][0], losses, rtol=1e-4)
    np.testing.assert_allclose(first["same"][1], weights, rtol=1e-2, atol=1e-4)
    assert first["means"] == second["means"] == {"total": (0 + 1 + 2 + 10 + 11) / 5, "truth": 7.0}
    assert first["other"][1] == second["other"][1]
    assert first["other"][0][0] != pytest.approx(losses[0], rel=1e-4)  # the first process alone has the same images
    assert np.abs(np.subtract(first["other"][1], weights)).max() > 1e-3
