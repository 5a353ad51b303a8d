"""All tests of Triton kernels, on a machine without a GPU: in Triton's interpreter.

Triton looks for TRITON_INTERPRET when a kernel is defined, so the tests need a process of their own: one for all of
them, because its start takes longer than most of the tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(torch.cuda.is_available() or "TRITON_INTERPRET" in os.environ, reason="the kernels' tests run here")
def test_kernels_in_the_interpreter():
    pytest.importorskip("triton", reason="Triton is not installed")
    files = [str(file) for file in sorted(TESTS.rglob("test_*.py")) if "pytest.mark.kernel" in file.read_text()]
    assert len(files) >= 5
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "kernel", *files]
    run = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert run.returncode == 0 and " passed" in run.stdout, run.stdout[-3000:] + run.stderr[-1000:]
