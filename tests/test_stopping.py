"""A signal at any moment leaves what was there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_bad_inputs import SMALL, everything, lite3r  # noqa: F401 (a fixture)

from lite3r_cli import stopping

MOMENTS = (
    "lite3r_cli.pipelines.finding.discover",
    "lite3r_cli.networks.checkpoint.Checkpoint.load",
    "lite3r_cli.pipelines.preprocess.resize_for_network",
    "conftest.PlaneBackbone.predict",
    "lite3r_cli.scene.fusion.fuse_with_statistics",
    "lite3r_cli.pipelines.result.write_ply",
    "lite3r_cli.io.depth_files.write_confidence",
    "os.fsync",
)  # during the renames signals wait, see tests/io/test_shared_folders.py


@pytest.mark.parametrize(
    "moment, name, code", [(m, *(("SIGINT", 130), ("SIGTERM", 143))[i % 2]) for i, m in enumerate(MOMENTS)]
)
def test_a_signal_at_any_moment_leaves_what_was_there(moment, name, code, lite3r, photographs, tmp_path, monkeypatch):
    photos = photographs(2)
    assert lite3r(photos)[0] == 0
    before = everything(tmp_path)
    function = _resolve(moment)
    sent = []

    def interrupted(*arguments, **options):
        if not sent:
            sent.append(True)
            signal.raise_signal(getattr(signal, name))
        return function(*arguments, **options)

    monkeypatch.setattr(moment, interrupted)
    monkeypatch.setattr(stopping, "GRACE", 30.0)  # a busy machine takes its time; a process would end meanwhile
    result, _, err = lite3r(photos, "--overwrite", "--seed", "1")
    assert sent and result == code and "Traceback" not in err
    assert everything(tmp_path) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos", "scene", "scene.ply"]


def _resolve(path: str):
    import pkgutil

    return pkgutil.resolve_name(path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])  # SIGINT: tests/test_process.py
def test_a_real_process_is_stopped_cleanly(number, photographs, tmp_path):
    photos = photographs(12)  # so many that it is not done before the signal comes, however busy the machine
    output = str(tmp_path / "out" / "scene.ply")
    arguments = [sys.executable, "-m", "lite3r_cli", "reconstruct", str(photos), "-o", output]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=environment)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out").glob(".scene.ply.lite3r-*")):
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    run.send_signal(number)
    err = run.communicate(timeout=60)[1]
    assert run.returncode == -number and "Traceback" not in err, err  # it dies of the signal, so that loops end, too
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos"]


IMPORT = """
import os, signal, sys, threading
from lite3r_cli.extras import import_pycolmap
from lite3r_cli.stopping import Terminated, signals_as_exceptions
try:
    with signals_as_exceptions():
        if sys.argv[1] == "thread":
            other = threading.Thread(target=import_pycolmap, args=("--refine",))
            other.start()
            other.join()
        else:
            import_pycolmap("--refine")
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
except Terminated:
    print("cleaned up")
"""


@pytest.mark.parametrize("where", ["main", "thread"])
def test_a_library_does_not_take_sigterm_away(where: str) -> None:
    pytest.importorskip("pycolmap")
    words = [sys.executable, "-c", IMPORT, where]
    done = subprocess.run(words, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "cleaned up\n", "")


def test_pycolmap_is_imported_in_one_place() -> None:
    code = Path(stopping.__file__).parent
    first = {path.name for path in code.rglob("*.py") if "import pycolmap\n" in path.read_text(encoding="utf-8")}
    assert first == {"colmap_database.py"}  # whose entry has called import_pycolmap
