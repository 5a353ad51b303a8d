"""Files of views, written by threads: what fails there stops the run, and nothing is written after it has stopped."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path

import numpy as np
import pytest

from lite3r_cli.cli import main
from lite3r_cli.errors import OutputError
from lite3r_cli.io import depth_files, syncing, transaction
from lite3r_cli.io.atomic import OutputSet
from lite3r_cli.pipelines import scene_memory
from lite3r_cli.pipelines.view_files import ViewFiles
from lite3r_cli.scene.posed_view import View

FULL = OutputError("depth: cannot be written: the disk is full; free some space or write elsewhere with -o")


def views(count: int) -> list[View]:
    depth = np.arange(1, 13, dtype=np.float32).reshape(3, 4)
    return [View(f"{i}.jpg", 8, 6, np.eye(3), np.eye(3, 4), depth + i, depth) for i in range(count)]


def test_all_files_are_there_and_scales_in_order(tmp_path):
    with OutputSet(tmp_path / "scene.ply") as out, ViewFiles(out, previews=True, save_npy=True) as files:
        files.start(views(20), [f"{i:02d}" for i in range(20)])
        assert files.scales() == [depth_files.depth_scale(view.depth) for view in views(20)]
        names = sorted(path.relative_to(out.directory).as_posix() for path in out.directory.rglob("*.*"))
    ends = ("depth/{}.npy", "depth/{}.png", "depth_preview/{}.png", "confidence/{}.png")
    assert names == sorted(end.format(f"{i:02d}") for i in range(20) for end in ends)


def test_leaving_the_block_waits_for_what_was_begun_and_drops_the_rest(tmp_path, monkeypatch):
    begun, go_on, written = threading.Event(), threading.Event(), []

    def slow(path: Path, depth: np.ndarray, scale: float | None) -> float:
        begun.set()
        go_on.wait(10)
        written.append(path)
        return 1.0

    monkeypatch.setattr(depth_files, "write_depth_png", slow)
    with pytest.raises(KeyboardInterrupt), OutputSet(tmp_path / "scene.ply") as out:
        with ViewFiles(out, previews=False, save_npy=False) as files:
            files.start(views(50), [str(i) for i in range(50)])
            assert begun.wait(10)
            threading.Timer(0.1, go_on.set).start()
            raise KeyboardInterrupt
    assert 0 < len(written) < 50
    assert list(tmp_path.iterdir()) == []


WRITERS = (
    (depth_files, "write_depth_png"),
    (depth_files, "write_depth_preview"),
    (depth_files, "write_confidence"),
    (scene_memory, "write_memory"),
)


@pytest.mark.parametrize("function", WRITERS, ids=[name for _, name in WRITERS])
def test_a_full_disk_in_a_thread_ends_the_run(function, plane_backbone, photographs, tmp_path, monkeypatch, capsys):
    def full(path, *more):
        raise OutputError(f"{path}: cannot be written: the disk is full; free some space or write elsewhere with -o")

    monkeypatch.setattr(*function, full)
    photos = photographs(3)
    assert main(["reconstruct", str(photos), "-o", str(tmp_path / "out" / "scene.ply")]) == 7
    err = capsys.readouterr().err
    assert "the disk is full" in err and ".lite3r-" not in err and "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_a_failure_is_told_before_the_end_of_the_fusion(tmp_path, monkeypatch):
    def full(path, depth, scale):
        raise FULL

    monkeypatch.setattr(depth_files, "write_depth_png", full)
    with pytest.raises(OutputError, match="disk is full"), OutputSet(tmp_path / "scene.ply") as out:
        with ViewFiles(out, previews=False, save_npy=False) as files:
            files.start(views(1), ["0"])
            for _ in range(1000):
                files.raise_failure()
                threading.Event().wait(0.01)


def test_many_files_are_synced_by_threads_and_a_failure_undoes_all(tmp_path, monkeypatch):
    monkeypatch.setattr(syncing, "FEWEST_FOR_THREADS", 2)
    original, seen = transaction.sync_file, set()

    def sync(path: Path) -> None:
        seen.add(threading.current_thread().name)
        if path.name == "07.png":
            raise FULL
        original(path)

    monkeypatch.setattr(transaction, "sync_file", sync)
    with pytest.raises(OutputError, match="disk is full"), OutputSet(tmp_path / "scene.ply") as out:
        for i in range(12):
            out.path(f"depth/{i:02d}.png").write_bytes(b"depth")
        out.cloud.write_bytes(b"cloud")
        out.commit({})
    assert threading.main_thread().name not in seen and list(tmp_path.iterdir()) == []


def test_a_file_that_changes_after_its_entry_was_made_gets_another(tmp_path):
    with OutputSet(tmp_path / "scene.ply") as out:
        for path, later in ((out.path("a.bin"), b"a"), (out.path("b.bin"), b"another")):
            path.write_bytes(b"a")
            out.note(path)
            path.write_bytes(later)
        out.cloud.write_bytes(b"cloud")
        out.commit({})
    files = json.loads((tmp_path / "scene" / "run.json").read_text())["files"]
    for name in ("scene/a.bin", "scene/b.bin", "scene.ply"):
        data = (tmp_path / name).read_bytes()
        assert files[name] == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_pictures_to_look_at_can_be_left_out(plane_backbone, photographs, tmp_path):
    out = tmp_path / "scene.ply"
    assert main(["reconstruct", str(photographs(2)), "-o", str(out), "--no-previews", "-q"]) == 0
    assert sorted(path.name for path in (tmp_path / "scene").iterdir()) == [
        "cameras.json",
        "depth",
        "memory",
        "run.json",
    ]
