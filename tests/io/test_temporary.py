"""A temporary folder that is missing or full is told with the way out, and nothing stays in it."""

from __future__ import annotations

import errno
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from lite3r_cli.errors import OutputError
from lite3r_cli.io.frame_spool import FrameSpool
from lite3r_cli.io.temporary import FULL, temporary_folder


def test_where_there_is_none(tmp_path: Path, monkeypatch) -> None:
    def nowhere() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(OutputError, match="the matches cannot be kept there .*TMPDIR"), temporary_folder("the matches"):
        pass
    with pytest.raises(OutputError, match="frames of the video cannot be kept there .*TMPDIR"):
        FrameSpool(most=0).keep(b"frame")


@pytest.mark.parametrize(
    "error, free, told",
    [
        (RuntimeError("No registered database factory succeeded."), FULL - 1, True),
        (RuntimeError("a bug"), FULL, False),
        (OSError(errno.ENOSPC, "No space left on device", "IN"), FULL, True),
        (OSError(errno.ENOSPC, "No space left on device", "/elsewhere/a"), 0, False),
    ],
)
def test_what_fails_in_a_full_one(tmp_path: Path, monkeypatch, error: Exception, free: int, told: bool) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1 << 30, (1 << 30) - free, free))
    with pytest.raises(OutputError if told else type(error), match="TMPDIR" if told else None):
        with temporary_folder("the matches") as folder:
            (folder / "database.db").write_bytes(b"half")
            if getattr(error, "filename", None) == "IN":
                error.filename = str(folder / "database.db")
            raise error
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_goes_and_what_is_in_use_stays(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    mine, others = tmp_path / "lite3r-photos", tmp_path / "lite3r-open"
    mine.mkdir()
    others.mkdir(mode=0o755)
    for place in (mine, others):
        (place / "a.jpg").touch()
    (others / "in-use").touch()
    (tmp_path / "lite3r-link").symlink_to(mine)
    before = sorted(tmp_path.iterdir())
    script = """
import os, signal, sys, tempfile
from lite3r_cli.io.temporary import temporary_folder
tempfile.tempdir = sys.argv[1]
with temporary_folder("the matches") as folder:
    (folder / "database.db").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == -signal.SIGKILL and len(list(tmp_path.iterdir())) == len(before) + 1
    with temporary_folder("the matches") as one, temporary_folder("the matches") as two:
        assert sorted(tmp_path.iterdir()) == sorted([*before, one, two])
    assert sorted(tmp_path.iterdir()) == before


def test_a_limit_of_file_sizes_is_told(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(OutputError, match="the matches cannot be kept there .*large"):
            with temporary_folder("the matches") as folder:
                (folder / "database.db").write_bytes(bytes(3 * FULL))
                resource.setrlimit(resource.RLIMIT_FSIZE, (3 * FULL, limits[1]))
                raise RuntimeError("No registered database factory succeeded.")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())
