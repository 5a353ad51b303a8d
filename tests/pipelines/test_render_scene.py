"""`lite3r render`: films and frames of scenes on the disk."""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from lite3r_cli.cli import main
from lite3r_cli.io.cameras_json import read_cameras_json
from lite3r_cli.io.transaction import Transaction

pytestmark = pytest.mark.usefixtures("plane_backbone")
SMALL = ("--size", "64x48", "-q")


def render(*arguments: object) -> int:
    return main([str(argument) for argument in ("render", *arguments, *SMALL)])


@pytest.fixture
def scene(photographs, tmp_path: Path) -> Path:
    words = ["reconstruct", photographs(3), "-o", tmp_path / "out/a.ply", "--resolution", "112", "-q"]
    assert main([str(word) for word in words]) == 0
    return tmp_path / "out/a.ply"


def frames_of(film: Path) -> list[np.ndarray]:
    with av.open(str(film)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_a_film_beside_the_cloud_and_frames_with_what_they_show(scene: Path, tmp_path: Path) -> None:
    assert render(scene, "--seconds", 0.5, "--fps", 12) == 0
    film = frames_of(scene.with_suffix(".mp4"))
    assert len(film) == 6 and film[0].shape == (48, 64, 3) and film[3].max() > 60
    assert render(scene) == 7  # it is there already
    folder = tmp_path / "frames"
    words = ("--seconds", 0.5, "--fps", 12, "--frames", folder, "--condition", 2)
    assert render(scene.with_suffix(""), *words) == 0
    views = read_cameras_json(folder / "cameras.json")
    assert len(views) == 6 and views[0].depth is not None and views[0].depth.shape == (48, 64)
    seen = cv2.imread(str(folder / "seen" / views[0].name), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(seen > 0, views[0].depth > 0)
    rgb = cv2.imread(str(folder / "rgb" / views[3].name))[..., ::-1]
    assert np.abs(rgb.astype(int) - film[3]).mean() < 12  # the film is compressed
    condition = json.loads((folder / "condition.json").read_text())
    entry = condition["frames"][views[0].name][0]
    assert entry["visible_share"] > 0.5 and (folder / entry["file"]).is_file()
    assert set(condition["captured"]) <= {"a0.jpg", "a1.jpg", "a2.jpg"}
    assert not list(tmp_path.rglob(".*"))


def test_a_flight_along_given_cameras(scene: Path, tmp_path: Path) -> None:
    cameras, folder = scene.with_suffix("") / "cameras.json", tmp_path / "f"
    assert render(scene, "--path", cameras, "--exact", "--frames", folder) == 0
    given, made = read_cameras_json(cameras, load_depth=False), read_cameras_json(folder / "cameras.json")
    assert [np.allclose(a.cam_from_world, b.cam_from_world) for a, b in zip(given, made)] == [True] * 3
    matrix = np.vstack([np.column_stack([np.diag([1.0, -1, -1]), np.zeros(3)]), [0, 0, 0, 1]]).ravel().tolist()
    path = {"render_height": 48, "render_width": 64, "camera_path": [{"camera_to_world": matrix, "fov": 50}]}
    (tmp_path / "path.json").write_text(json.dumps(path))
    assert render(scene, "--path", tmp_path / "path.json", "--exact", "--frames", folder, "--overwrite") == 0
    (made,) = read_cameras_json(folder / "cameras.json")
    assert np.allclose(made.cam_from_world, np.eye(4)[:3], atol=1e-9)
    assert made.K[1, 1] == pytest.approx(24 / np.tan(np.radians(25)), rel=1e-6)
    (tmp_path / "walk.txt").write_text("0 0 0 0 0 0 0 1\n1 0.1 0 0 0 0 0 1\n")
    assert render(scene, "--path", tmp_path / "walk.txt", "-o", tmp_path / "walk.mp4", "--seconds", 0.2) == 0
    assert len(frames_of(tmp_path / "walk.mp4")) == 6
    (tmp_path / "long.json").write_text(json.dumps(path | {"camera_path": path["camera_path"] * 100_001}))
    assert render(scene, "--path", tmp_path / "long.json", "-o", tmp_path / "long.mp4") == 3


def test_only_a_flight_as_it_was_written_is_replaced(scene: Path, tmp_path: Path, capsys) -> None:
    folder, short = tmp_path / "f", ("--seconds", 0.1, "--fps", 20, "--overwrite")
    left = folder / ".render.json.lite3r-0123456789ab"  # of a run that was killed before its marker
    left.mkdir(mode=0o700, parents=True)
    assert render(scene, "--frames", folder, "-o", folder / "f.mp4", *short) == 0
    assert render(scene, "--frames", folder, "-o", folder / "f.mp4", *short) == 0
    frame, record = folder / "rgb/frame_00001.png", folder / "render.json"
    assert json.loads(record.read_text())["files"]["rgb/frame_00001.png"]["bytes"] == frame.stat().st_size
    assert json.loads(record.read_text())["device"]["chosen"] == "cpu" and not list(tmp_path.rglob(".*"))
    (folder / "f.mp4").unlink()
    frame.write_bytes(frame.read_bytes() + b"retouched")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert render(scene, "--frames", folder, *short) == 7 and "frame_00001.png" in capsys.readouterr().err
    record.unlink()  # a data set of somebody else's with the same names
    before.pop(record)
    assert render(scene, "--frames", folder, *short) == 7 and "is not from lite3r render" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert not list(tmp_path.rglob(".*"))


def test_what_the_flight_is_made_from_is_not_replaced(scene: Path, photographs, tmp_path: Path, capsys) -> None:
    folder, short = tmp_path / "f", ("--seconds", 0.1, "--fps", 20, "--overwrite")
    assert render(scene, "--frames", folder, *short) == 0
    flight, again = folder / "cameras.json", tmp_path / "again/a.ply"
    words = ["reconstruct", folder / "rgb", "-o", again, "--resolution", "112", "-q"]
    assert main([str(word) for word in words]) == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert render(scene, "--path", flight, "--frames", folder, *short) == 2
    assert "cameras.json: is the flight that --path names" in capsys.readouterr().err
    assert render(again, "--frames", folder, *short) == 2 and "a photo of the scene" in capsys.readouterr().err
    (tmp_path / "flight.mp4").write_bytes(flight.read_bytes())
    linked = tmp_path / "linked"
    linked.symlink_to(tmp_path)
    assert render(scene, "--path", linked / "flight.mp4", "-o", tmp_path / "flight.mp4", *short) == 2
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert (tmp_path / "flight.mp4").read_bytes() == flight.read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_between_frames_and_film_waits_for_both(scene: Path, tmp_path: Path, monkeypatch, number) -> None:
    folder, film = tmp_path / "f", tmp_path / "film.mp4"
    words = (scene, "--frames", folder, "-o", film, "--fps", 20, "--overwrite")
    assert render(*words, "--seconds", 0.1) == 0
    exchange, calls = Transaction._exchange, []

    def interrupted(files: Transaction, *arguments: object) -> None:
        exchange(files, *arguments)
        calls.append(files.name)
        if len(calls) == 1:
            signal.raise_signal(number)

    monkeypatch.setattr(Transaction, "_exchange", interrupted)
    assert render(*words, "--seconds", 0.3) == 128 + number
    assert len(calls) == 2 and len(frames_of(film)) == len(list((folder / "rgb").iterdir())) == 6


def test_if_the_frames_cannot_be_moved_the_old_film_stays(scene: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    folder, film = tmp_path / "f", tmp_path / "film.mp4"
    words = (scene, "--frames", folder, "-o", film, "--fps", 20, "--overwrite")
    assert render(*words, "--seconds", 0.1) == 0
    move = Transaction._move

    def full(files: Transaction, source: str, target: str) -> None:
        if target == "render.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / target))
        move(files, source, target)

    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(Transaction, "_move", full)
        assert render(*words, "--seconds", 0.3) == 7
    assert "render.json: cannot be written: the disk is full" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert render(*words, "--seconds", 0.3) == 0 and len(frames_of(film)) == 6 and not list(tmp_path.rglob(".*"))


def test_what_is_wrong_is_said_before_anything_is_written(scene: Path, tmp_path: Path, capsys) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text('{"camera_path": [], "render_height": 48, "render_width": 64}')
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_text("dear")
    cases = {
        (scene, "--path", bad): 3, (scene, "--path", tmp_path / "no.json"): 2, (tmp_path / "no.ply",): 3,
        (scene, "--frames", mine, "--overwrite"): 7, (scene, "-o", "film.gif"): 2, (scene, "--condition", 2): 2,
        (scene, "--exact"): 2, (scene, "--seconds", 0): 2,
        (scene, "-o", tmp_path / "f.mp4", "--frames", tmp_path / "x/../f.mp4"): 2,
    }  # fmt: skip
    before = sorted(tmp_path.rglob("*"))
    for words, code in cases.items():
        assert render(*words) == code, words
        assert "bug" not in capsys.readouterr().err, words
    assert main(["render", str(scene), "--size", "63x48", "-q"]) == 2
    assert sorted(tmp_path.rglob("*")) == before
