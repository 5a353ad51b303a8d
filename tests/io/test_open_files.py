"""Where the system opens no more files, this is said at the start, and what was begun goes all the same."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from lite3r_cli.cli import main
from lite3r_cli.errors import BackendError, OutputError
from lite3r_cli.io import temporary
from lite3r_cli.io.atomic import OutputSet
from lite3r_cli.io.images import discover
from lite3r_cli.io.open_files import LEAST
from lite3r_cli.io.temporary import temporary_folder
from lite3r_cli.long.work_folder import WorkFolder


@contextmanager
def free(count: int) -> Iterator[None]:
    """`count` more files can be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = [int(name) for name in os.listdir("/dev/fd")]
    held = []
    try:
        while (last := os.open(os.devnull, os.O_RDONLY)) < max(used):  # no gaps below the limit
            held.append(last)
        held.append(last)
        resource.setrlimit(resource.RLIMIT_NOFILE, (last + 1 + count, hard))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for each in held:
            os.close(each)


@contextmanager
def output(place: Path) -> Iterator[Path]:
    with OutputSet(place / "new/scene/s.ply") as out:
        yield out.directory


@contextmanager
def chunks(place: Path) -> Iterator[Path]:
    with WorkFolder(place / ".s.ply.lite3r-chunks", {}, False, print):
        yield place / ".s.ply.lite3r-chunks/pass-00000"


@contextmanager
def matches(place: Path) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(temporary.tempfile, "tempdir", str(place))
        with temporary_folder("the matches") as folder:
            yield folder


@pytest.mark.parametrize("begun", [output, chunks, matches])
def test_a_clean_up_needs_none_that_are_free(tmp_path: Path, begun: Callable) -> None:
    before = os.listdir("/dev/fd")
    with ExitStack() as limit, pytest.raises((OSError, OutputError), match="oo many open files"):
        with begun(tmp_path) as folder:
            (folder / "images/a/b/c").mkdir(parents=True)
            (folder / "images/a/b/c/0.jpg").touch()
            limit.enter_context(free(0))
            (folder / "1.jpg").touch()
    assert not list(tmp_path.iterdir()) and os.listdir("/dev/fd") == before


def test_an_image_is_not_skipped_for_want_of_them(photographs) -> None:
    folder = photographs(2)
    with free(0), pytest.raises(BackendError, match="ulimit -n"):
        discover([folder])


@pytest.mark.parametrize("words", ["reconstruct photos -o s.ply", "synth -o s", "models"])
def test_too_few_are_told_at_the_start(tmp_path: Path, monkeypatch, capsys, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    with free(LEAST - 1):
        assert main(words.split()) == 5
    said = capsys.readouterr().err
    assert "ulimit -n" in said and said.count("\n") == 1 and not os.listdir(tmp_path)
