"""The fuzzer itself: a few seconds of fixed cases always, a minute of new ones each day with `-m fuzz`."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

RUN = Path(__file__).with_name("run.py")


def fuzz(*options: str) -> str:
    """The output of a run: the faults that it found."""
    package = RUN.parents[2]
    done = subprocess.run([sys.executable, str(RUN), *options], capture_output=True, text=True, cwd=package)
    assert done.returncode == (1 if done.stdout else 0), done.stderr[-3000:]
    return done.stdout


def test_no_reader_breaks_on_changed_files():
    pytest.importorskip("pillow_heif", reason="needs the extra: pip install 'lite3r[heif]'")
    assert fuzz("--seconds", "8", "--seed", "1") == ""


@pytest.mark.fuzz
def test_a_minute_of_new_cases():
    assert fuzz("--seconds", "60", "--seed", time.strftime("%Y%m%d")) == ""
