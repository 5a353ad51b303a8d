"""`lite3r batch`: real runs with failures, resuming and several processes; scenes equal those of `reconstruct`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import photograph

from lite3r_cli.batch import claims as recorded
from lite3r_cli.batch.claims import Claims, Record
from lite3r_cli.cli import main
from lite3r_cli.errors import OutputError
from lite3r_cli.io import depth_files
from lite3r_cli.io.output_layout import is_complete

REPOSITORY = Path(__file__).resolve().parents[2]
FEW_PIXELS = ["--resolution", "112"]
SMALL = ["--resolution", "112", "--device", "cpu", "--keep-unrelated"]
FULL = OutputError("depth: cannot be written: the disk is full; free some space or write elsewhere with -o")


@pytest.fixture
def root(tmp_path) -> Path:
    """Scenes s0, s1, s2 of two pictures each."""
    for scene in range(3):
        for i in range(2):
            photograph(tmp_path / "root" / f"s{scene}" / f"a{i}.jpg", seed=10 * scene + i)
    return tmp_path / "root"


def statuses(out: Path) -> dict[str, str]:
    return {scene["name"]: scene["status"] for scene in json.loads((out / "batch.json").read_text())["scenes"]}


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "run.json")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def nothing_half_written(out: Path) -> None:
    assert [path.name for path in out.rglob("*.lock")] == []
    assert [path.name for path in out.rglob(".*") if path.name != ".batch"] == []


# --- one process ------------------------------------------------------------------------------------------------------


def test_scenes_are_those_of_reconstruct_to_the_last_byte(root, tmp_path, capsys):
    """With the embedded network; run.json differs in times and paths alone."""
    out = tmp_path / "out"
    assert main(["batch", str(root), "-o", str(out), *SMALL, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == json.loads((out / "batch.json").read_text())
    assert document["counts"] == {"done": 3} and [scene["views"] for scene in document["scenes"]] == [2, 2, 2]
    assert 0 < document["start_seconds"] < document["wall_seconds"]
    for name in ("s0", "s2"):
        alone = tmp_path / "alone" / name
        assert main(["reconstruct", str(root / name), "-o", f"{alone}/", *SMALL]) == 0
        assert capsys.readouterr().err.count("Load model:") == 1  # a part before the reading, the rest in parallel
        assert contents(out / name) == contents(alone) and "scene.ply" in contents(alone)
        told, expected = (json.loads((folder / "run.json").read_text()) for folder in (out / name, alone))
        for key in ("model", "runtime", "attention", "images", "fusion", "warnings"):
            assert told[key] == expected[key]
    nothing_half_written(out)


def test_what_a_killed_process_left_of_a_record_goes_with_the_next_claim(tmp_path):
    claims = Claims(tmp_path)
    claims.write(Record("a", recorded.RUNNING, 1))
    for name in (".a.json-x7", ".b.json-x7"):
        (tmp_path / ".batch" / name).write_text("{")
    claim = claims.take("a")
    assert claim is not None
    claim.leave()
    assert sorted(os.listdir(tmp_path / ".batch")) == [".b.json-x7", "a.json"]
    for name in "ab":  # of killed processes; the next look is at settled scenes
        (tmp_path / f".batch/{name}.lock").touch()
    held = claims.take("a")
    for name in "ab":
        claims.tidy(name)
    assert sorted(os.listdir(tmp_path / ".batch")) == ["a.json", "a.lock"] and held is not None
    held.leave()


def test_a_bad_scene_is_recorded_and_the_rest_goes_on(plane_backbone, root, tmp_path, capsys):
    (root / "s1" / "a0.jpg").write_bytes(b"no image")
    (root / "s1" / "a1.jpg").write_bytes(b"")
    out = tmp_path / "out"
    assert main(["batch", str(root), "-o", str(out), *FEW_PIXELS]) == 3
    text = capsys.readouterr()
    assert "1 of 3 scenes failed: s1" in text.err and "Traceback" not in text.err
    assert statuses(out) == {"s0": "done", "s1": "failed", "s2": "done"}
    scene = json.loads((out / "batch.json").read_text())["scenes"][1]
    assert "not an image" in scene["reason"] and scene["exit_code"] == 3 and not (out / "s1").exists()
    nothing_half_written(out)

    # again: what is there stays as it is, what is missing is made
    for i in range(2):
        photograph(root / "s1" / f"a{i}.jpg", seed=i)
    (out / "s2" / "scene.ply").unlink()
    before = (out / "s0" / "run.json").stat().st_mtime_ns
    assert (
        main(["batch", str(root), "-o", str(out), *FEW_PIXELS, "-q"]) == 3
    )  # s2 has lost a file: that is not for a batch to mend
    assert statuses(out) == {"s0": "there", "s1": "done", "s2": "failed"}
    assert main(["batch", str(root), "-o", str(out), *FEW_PIXELS, "-q", "--overwrite"]) == 0
    assert statuses(out) == dict.fromkeys(("s0", "s1", "s2"), "done")
    assert before < (out / "s0" / "run.json").stat().st_mtime_ns
    assert main(["batch", str(root), "-o", str(out), *FEW_PIXELS, "-q"]) == 0
    assert statuses(out) == dict.fromkeys(("s0", "s1", "s2"), "there")
    assert json.loads((out / "batch.json").read_text())["scenes"][0]["views"] == 2  # its record tells


def test_records_of_a_machine_whose_clock_is_an_hour_ahead_are_old(plane_backbone, root, tmp_path, monkeypatch):
    (root / "s1" / "a0.jpg").write_bytes(b"no image")
    command, clock = ["batch", str(root), "-o", str(tmp_path / "out"), *FEW_PIXELS, "-q", "--strict"], time.time
    with monkeypatch.context() as there:
        there.setattr(time, "time", lambda: clock() + 3600)
        recorded._ahead.cache_clear()
        assert main(command) == 3
    recorded._ahead.cache_clear()
    photograph(root / "s1" / "a0.jpg", seed=1)
    assert main([*command, "--overwrite"]) == 0  # not "s1 has failed in this batch", nor "s0 is made by it"
    assert statuses(tmp_path / "out") == dict.fromkeys(("s0", "s1", "s2"), "done")


def test_strict_begins_no_other(plane_backbone, root, tmp_path):
    (root / "s0" / "a0.jpg").write_bytes(b"no image")
    out = tmp_path / "out"
    assert main(["batch", str(root), "-o", str(out), *FEW_PIXELS, "--strict", "-q"]) == 3
    assert statuses(out) == {"s0": "failed", "s1": "open", "s2": "open"}


def test_a_full_disk_in_a_writer_thread_costs_its_scene_alone(plane_backbone, root, tmp_path, monkeypatch):
    original = depth_files.write_depth_png

    def full(path: Path, depth, *more):
        if "/s1/" in str(path):
            raise FULL
        return original(path, depth, *more)

    monkeypatch.setattr(depth_files, "write_depth_png", full)
    out = tmp_path / "out"
    assert main(["batch", str(root), "-o", str(out), *FEW_PIXELS, "-q"]) == 3
    assert statuses(out) == {"s0": "done", "s1": "failed", "s2": "done"} and not (out / "s1").exists()
    assert "disk is full" in json.loads((out / "batch.json").read_text())["scenes"][1]["reason"]
    nothing_half_written(out)


def test_a_bug_in_one_scene_is_no_end_of_the_batch(plane_backbone, root, tmp_path, monkeypatch):
    from lite3r_cli.pipelines import reconstruct_scene as reconstruct

    original = reconstruct.write_scene

    def broken(out, *rest):
        if "/s2/" in str(out.cloud):
            raise ZeroDivisionError("by zero")
        return original(out, *rest)

    monkeypatch.setattr(reconstruct, "write_scene", broken)
    out = tmp_path / "out"
    assert main(["batch", str(root), "-o", str(out), *FEW_PIXELS, "-q"]) == 3
    scene = json.loads((out / "batch.json").read_text())["scenes"][2]
    assert scene["exit_code"] == 1 and "ZeroDivisionError" in scene["reason"] and not (out / "s2").exists()


def test_what_is_wrong_for_all_scenes_ends_the_batch(root, tmp_path, capsys):
    out = tmp_path / "out"
    for options, code in (
        (["--model", "nonesuch.safetensors"], 4),
        (["--format", "nonesuch"], 2),
        (["--device", "cuda:9"], 5),
    ):
        assert main(["batch", str(root), "-o", str(out), *FEW_PIXELS, *options]) == code
    assert main(["batch", str(root), "-o", str(out / "a.ply")]) == 2
    assert "-o takes a folder" in capsys.readouterr().err
    assert not list(out.rglob("*.json")) and not list(out.rglob("*.lock"))


def test_masks_of_each_scene(plane_backbone, root, tmp_path):
    for scene in range(3):
        for i in range(2):
            mask = photograph(tmp_path / "masks" / f"s{scene}" / f"a{i}.jpg.png")
            cv2.imwrite(str(mask), np.repeat(np.uint8([0, 255]), 49)[None].repeat(70, 0))
    out = tmp_path / "out"
    assert main(["batch", str(root), "-o", str(out), *FEW_PIXELS, "--masks", str(tmp_path / "masks"), "-q"]) == 0
    fusion = json.loads((out / "s1" / "run.json").read_text())["fusion"]
    assert fusion["masked"] > 0


# --- claims -----------------------------------------------------------------------------------------------------------


def test_a_scene_that_kills_processes_is_given_up(plane_backbone, root, tmp_path, capsys):
    out = tmp_path / "out"
    claims = Claims(out)
    claims.write(Record("s1", recorded.RUNNING, recorded.MOST_ATTEMPTS, time.time()))
    claims.write(Record("s2", recorded.RUNNING, recorded.MOST_ATTEMPTS - 1, time.time()))
    for _ in range(2):
        assert main(["batch", str(root), "-o", str(out), *FEW_PIXELS, "-q"]) == 3
        assert statuses(out)["s1"] == "failed" and is_complete(f"{out}/s2/")
        assert "3 processes died" in capsys.readouterr().err
    assert main(["batch", str(root), "-o", str(out), *FEW_PIXELS, "-q", "--overwrite"]) == 0
    assert claims.record("s1").status == "done"


def test_a_scene_that_another_process_holds_is_waited_for(plane_backbone, root, tmp_path):
    """It takes the scene over when the other process ends, however it ends."""
    out = tmp_path / "out"
    claim = Claims(out).take("s0")
    assert claim is not None and Claims(out).take("s0") is None

    def die() -> None:
        claim.begin(None)
        os.close(claim._descriptor)  # as the kernel does

    timer = threading.Timer(1.0, die)
    timer.start()
    assert main(["batch", str(root), "-o", str(out), *FEW_PIXELS, "-q"]) == 0
    timer.join()
    assert statuses(out) == dict.fromkeys(("s0", "s1", "s2"), "done")
    nothing_half_written(out)


def test_records_that_are_damaged_or_of_another_are_none(tmp_path):
    claims = Claims(tmp_path)
    claims.write(Record("a", recorded.DONE, 0, 1.0, {"views": 3}))
    assert claims.record("a") == Record("a", recorded.DONE, 0, 1.0, {"views": 3})
    (tmp_path / ".batch" / "b.json").write_text((tmp_path / ".batch" / "a.json").read_text())
    (tmp_path / ".batch" / "c.json").write_text('{"name": "c", "more": 1}')
    (tmp_path / ".batch" / "d.json").write_text("[")
    assert [claims.record(name) for name in "bcde"] == [None] * 4
    for key, value in (("attempts", "3"), ("time", float("nan")), ("time", 10**400), ("status", "?"), ("facts", [])):
        values = {"name": "a", "status": recorded.DONE, "attempts": 0, "time": 1.0, "facts": {}} | {key: value}
        (tmp_path / ".batch" / "a.json").write_text(json.dumps(values))
        assert claims.record("a") is None


def test_what_a_record_says_of_a_scene_is_taken_in_its_kind(plane_backbone, root, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["batch", str(root), "-o", str(out), *SMALL, "-q"]) == 0
    facts = {
        "views": 2,
        "images": 10**400,
        "points": "many",
        "wall_seconds": float("inf"),
        "warnings": "none",
        "exit_code": None,
        "x": 1,
    }
    Claims(out).write(Record("s1", recorded.DONE, 0, 1.0, facts))
    hidden = out / "s1/.scene.ply.lite3r-0123456789ab"  # of a process that was killed behind its last file
    hidden.mkdir(mode=0o700)
    capsys.readouterr()
    assert main(["batch", str(root), "-o", str(out), *SMALL, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["scenes"][1]
    assert (told["status"], told["views"], told["points"], told["warnings"]) == ("there", 2, None, [])
    nothing_half_written(out)


def test_the_figures_of_a_scene_whose_record_is_missing_are_those_of_its_run_json(root, tmp_path, capsys):
    """A process that is killed behind its last file has not written the record."""
    out = tmp_path / "out"
    (root / "s1/b.jpg").write_bytes(b"no image")
    assert main(["batch", str(root), "-o", str(out), *SMALL, "--json"]) == 0
    before = json.loads(capsys.readouterr().out)["scenes"]
    Claims(out).write(Record("s1", recorded.RUNNING, 1))
    assert main(["batch", str(root), "-o", str(out), *SMALL, "--json"]) == 0
    after = json.loads(capsys.readouterr().out)["scenes"]
    assert [scene["status"] for scene in after] == ["there"] * 3
    for key in ("images", "views", "points", "warnings"):
        assert after[1][key] == before[1][key]
    assert (after[1]["images"], after[1]["views"]) == (3, 2) and 0 < after[1]["wall_seconds"] <= before[1][
        "wall_seconds"
    ]
    assert 0 < after[1]["seconds"]["Predict"] <= before[1]["seconds"]["Predict"]


def test_no_link_in_the_folder_of_records_is_followed(tmp_path):
    claims, victim = Claims(tmp_path / "out"), tmp_path / "home"
    victim.mkdir()
    (victim / "a.json").write_text('{"name": "a", "status": "done"}')
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.batch").symlink_to(victim)
    for refused in (claims.take, claims.forget, lambda name: claims.write(Record(name, recorded.DONE))):
        with pytest.raises(OutputError, match="link"):
            refused("a")
    assert claims.record("a") is None
    claims.tidy("a")
    assert [p.name for p in victim.iterdir()] == ["a.json"] and "done" in (victim / "a.json").read_text()
    (tmp_path / "out/.batch").unlink()
    claims.write(Record("b", recorded.DONE))
    (tmp_path / "out/.batch/a.json").symlink_to(victim / "a.json")
    assert claims.record("a") is None
    claims.write(Record("a", recorded.FAILED))  # takes the link's place, not its target's
    assert claims.record("a") == Record("a", recorded.FAILED) and "done" in (victim / "a.json").read_text()


# --- several processes and signals ------------------------------------------------------------------------------------


def start(root: Path, out: Path, *options: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "lite3r_cli", "batch", str(root), "-o", str(out), *SMALL, *options]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition, process: subprocess.Popen) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def test_two_processes_share_one_folder(root, tmp_path):
    for scene in range(3, 8):
        for i in range(2):
            photograph(root / f"s{scene}" / f"a{i}.jpg", seed=10 * scene + i)
    out = tmp_path / "out"
    processes = [start(root, out, "--json", "-q") for _ in range(2)]
    documents = []
    for process in processes:
        text, err = process.communicate(timeout=300)
        assert process.returncode == 0 and err == "", err
        documents.append(json.loads(text))
    made = [[s["name"] for s in document["scenes"] if s["status"] == "done"] for document in documents]
    assert sorted(made[0] + made[1]) == [f"s{k}" for k in range(8)]  # each by one of them
    for document in documents:
        assert len(document["scenes"]) == 8 and all(scene["views"] == 2 for scene in document["scenes"])
    nothing_half_written(out)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_process_that_is_stopped_costs_nothing_but_its_scenes(root, tmp_path, capsys, number):
    out = tmp_path / "out"
    first = start(root, out)
    wait_for(lambda: list(out.glob("s*/.scene.ply.lite3r-*")), first)
    time.sleep(0.3)
    first.send_signal(number)
    _, err = first.communicate(timeout=60)
    assert first.returncode == -number and "Traceback" not in err, err
    if number == signal.SIGINT:
        nothing_half_written(out)
        assert all(r.status != recorded.RUNNING for k in range(3) if (r := Claims(out).record(f"s{k}")) is not None)
    capsys.readouterr()
    assert main(["batch", str(root), "-o", str(out), *SMALL, "-q", "--json"]) == 0
    assert {scene["status"] for scene in json.loads(capsys.readouterr().out)["scenes"]} <= {"done", "there"}
    assert all(is_complete(f"{out}/s{k}/") for k in range(3))
    nothing_half_written(out)


def test_a_reader_that_goes_away(root, tmp_path):
    process = start(root, tmp_path / "out", "-q", "--json")
    process.stdout.close()
    process.wait(timeout=300)
    assert process.returncode == 141 and process.stderr.read() == ""
    assert statuses(tmp_path / "out") == dict.fromkeys(("s0", "s1", "s2"), "done")
