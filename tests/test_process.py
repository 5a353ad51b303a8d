"""The process as seen by its parent: signals, standard streams, locales, a deleted working directory."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import photograph

from lite3r_cli import stopping

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = [sys.executable, "-m", "lite3r_cli"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
SMALL = ["--resolution", "112", "--device", "cpu"]


def shell(command: str, folder: Path, **more) -> subprocess.CompletedProcess:
    """Run a bash command in which $L is the program."""
    environment = {**ENVIRONMENT, "L": f"{sys.executable} -m lite3r_cli", "SMALL": " ".join(SMALL), **more}
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.fixture
def photo(tmp_path) -> Path:
    return photograph(tmp_path / "a.jpg")


# --- signals ----------------------------------------------------------------------------------------------------------


def test_ctrl_c_ends_a_loop(tmp_path):
    for name in ("one", "two"):
        photograph(tmp_path / name / "a.jpg")
    loop = f"for d in one two; do echo begin $d; {' '.join(PROGRAM)} reconstruct $d -o $d.ply {' '.join(SMALL)}; done"
    run = subprocess.Popen(
        ["bash", "-c", loop],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for(lambda: list(tmp_path.glob(".one.ply.lite3r-*")))
    os.killpg(run.pid, signal.SIGINT)
    out, err = run.communicate(timeout=60)
    assert out == "begin one\n" and "Traceback" not in err, err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


SLOW_IMPORT = """
import sys, time
class Slow:
    def find_spec(self, name, *rest):
        if name == MODULE:
            print("importing", flush=True)
            time.sleep(60)
sys.meta_path.insert(0, Slow())
sys.argv = ["lite3r", "reconstruct", "a.jpg"]
from lite3r_cli.entry import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    "module, number",
    [("typer", signal.SIGINT), ("typer", signal.SIGHUP), ("numpy", signal.SIGTERM)],
)
def test_a_signal_while_modules_are_imported(tmp_path, number, module, photo):
    code = SLOW_IMPORT.replace("MODULE", repr(module))
    run = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None and run.stdout.readline() == "importing\n"
    run.send_signal(number)
    err = run.communicate(timeout=60)[1]
    assert run.returncode == -number and "Traceback" not in err, err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg"]


def test_a_signal_that_the_parent_ignores_stays_ignored(tmp_path, photo):
    run = shell("trap '' HUP; $L reconstruct a.jpg $SMALL -q & sleep 0.6; kill -HUP $!; wait $!", tmp_path)
    assert run.returncode == 0 and (tmp_path / "scene.ply").exists(), run.stderr


def test_long_work_is_left_at_once(monkeypatch):
    """Work that does not react to signals, as in a C library, does not delay the end of the program."""
    import threading

    monkeypatch.setattr(stopping, "GRACE", 0.1)
    release = threading.Event()
    lock = threading.Lock()
    lock.acquire()

    def deaf():
        threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
        lock.acquire(timeout=20)
        release.set()

    start = time.monotonic()
    with pytest.raises(stopping.Terminated), stopping.signals_as_exceptions():
        stopping.responsive(deaf)
    assert not release.is_set() and time.monotonic() - start < 15
    lock.release()
    assert stopping.responsive(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        stopping.responsive(lambda: 1 / 0)


def test_a_signal_ends_a_prediction_within_a_layer(tmp_path, monkeypatch, plane_backbone, capsys):
    """Over hundreds of views a layer computes for a minute; the program listens all the same."""
    import threading

    from lite3r_cli.cli import main

    lock, begun = threading.Lock(), []
    lock.acquire()

    def predict(self, images):
        begun.append(len(images))
        threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
        lock.acquire(timeout=20)
        raise AssertionError("the signal came too late")

    monkeypatch.setattr(plane_backbone, "predict", predict)
    photo = photograph(tmp_path / "photos" / "a.jpg")
    code = main(["reconstruct", str(photo), "-o", str(tmp_path / "out" / "a.ply"), "--device", "cpu"])
    lock.release()
    assert code == 128 + signal.SIGTERM and begun == [1]
    assert "terminated: stopped" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_predict_says_how_far_it_is(tmp_path, photo, monkeypatch, capsys):
    """A log gets one line for each layer and for the views whose depth is finished."""
    from lite3r_cli import console
    from lite3r_cli.cli import main

    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", -1.0)
    assert main(["reconstruct", str(photo), "-o", str(tmp_path / "a.ply"), *SMALL]) == 0
    lines = capsys.readouterr().err.splitlines()
    steps = [line for line in lines if line.startswith("Predict: layer")]
    assert steps == [f"Predict: layer {i} of 12" for i in range(1, 13)]
    assert "Predict: depth of 1 of 1 views" in lines


def test_a_second_signal_does_not_disturb_the_cleaning_up():
    cleaned = []
    with pytest.raises(KeyboardInterrupt), stopping.signals_as_exceptions():
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            cleaned.append(True)
    assert cleaned


# --- standard streams -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder with a finished scene, made with no standard stream at all.

    With descriptor 1 or 2 free, the next file opened would get it, and C libraries would print into it.
    """
    folder = tmp_path_factory.mktemp("finished")
    photograph(folder / "a.jpg")
    run = shell("$L reconstruct a.jpg $SMALL <&- >&- 2>&-; echo $? $(head -c 3 scene.ply)", folder)
    assert run.stdout == "0 ply\n" and (folder / "scene/run.json").exists() and not list(folder.glob(".*"))
    return folder


def quiet_end(run: subprocess.CompletedProcess, code: int) -> None:
    assert run.returncode == code, run.stderr
    assert not any(word in run.stderr for word in ("bug", "Traceback", "Exception ignored"))


@pytest.mark.parametrize(
    "redirection, code",
    [
        (">&-", 0),
        ("2>&-", 0),
        (">&- 2>&-", 0),
        ("2>/dev/full", 0),
        ("--json >&-", 7),
        ("--json >/dev/full", 7),
        ("--json 2>&- >/dev/full", 7),
        ("--json 2>/dev/full >/dev/full", 7),
    ],
)
def test_closed_and_full_streams(finished, redirection, code):
    run = shell(f"$L reconstruct a.jpg --skip-existing {redirection}", finished)
    quiet_end(run, code)
    if code == 7 and "2>" not in redirection:
        assert "standard output cannot be written" in run.stderr and run.stderr.count("\n") == 2


def test_a_full_stream_costs_no_result(tmp_path, photo):
    run = shell("$L reconstruct a.jpg $SMALL -q --json >/dev/full", tmp_path)
    quiet_end(run, 7)
    assert "files that the run has written are complete" in run.stderr and (tmp_path / "scene/run.json").exists()


@pytest.mark.parametrize("arguments", ["--help", "--version", "models", "models --json", "reconstruct --help"])
def test_other_output_to_a_full_disk(tmp_path, arguments):
    run = shell(f"$L {arguments} >/dev/full", tmp_path)
    quiet_end(run, 7)
    assert run.stderr.count("\n") == 1
    quiet_end(shell(f"$L {arguments} >&-", tmp_path), 7 if "json" in arguments else 0)


def test_a_terminal_that_goes_away(tmp_path, photo):
    master, slave = pty.openpty()
    run = subprocess.Popen(
        [*PROGRAM, "reconstruct", "a.jpg", *SMALL],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    wait_for(lambda: list(tmp_path.glob(".scene.ply.lite3r-*")))
    os.close(master)  # what is written now fails
    assert run.wait(240) == 0 and (tmp_path / "scene/run.json").exists()


# --- locales ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "locale",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "utf-16"},
        {"PYTHONUTF8": "1"},
    ],
)
def test_json_in_every_locale(finished, tmp_path, locale):
    import shutil

    odd = Path(os.fsdecode("é😀\u202e".encode() + b"\x9b\xe9"))
    shutil.copytree(finished, tmp_path / odd)
    run = subprocess.run(
        [*PROGRAM, "reconstruct", "a.jpg", "-o", odd / "scene.ply", "--skip-existing", "--json"],
        cwd=tmp_path,
        env={**ENVIRONMENT, **locale},
        capture_output=True,
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["skipped_existing"] is True and run.stdout.isascii()
    assert not any(byte < 32 and byte != 10 for byte in run.stdout)


# --- the current folder -----------------------------------------------------------------------------------------------


def test_a_current_folder_that_is_gone(tmp_path, photo):
    gone = 'mkdir gone; cd gone; rmdir "$PWD"; '
    run = shell(gone + f"$L reconstruct {photo} -o {tmp_path}/out/a.ply $SMALL -q", tmp_path)
    assert run.returncode == 0 and (tmp_path / "out/a.ply").exists(), run.stderr
    for arguments, code in ((f"{photo}", 7), (f"a.jpg -o {tmp_path}/b.ply", 2)):
        run = shell(gone + f"$L reconstruct {arguments} $SMALL", tmp_path)
        assert run.returncode == code and "current folder exists no more" in run.stderr, run.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "out"]
