"""`lite3r add`: new photos in scenes on the disk."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import sqlite3
from datetime import datetime
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import on_the_disk_in_order, photo

from lite3r_cli.cli import main
from lite3r_cli.config import ReconstructConfig
from lite3r_cli.config.stored import from_stored
from lite3r_cli.errors import InputError
from lite3r_cli.io.atomic import bring_right
from lite3r_cli.io.cameras_json import read_cameras_json
from lite3r_cli.io.colmap_model import read_colmap_model
from lite3r_cli.io.transaction import Transaction
from lite3r_cli.pipelines.result import plain
from lite3r_cli.scene.geometry import camera_centres

FORMATS = [word for name in ("colmap", "nerfstudio", "glb", "tum") for word in ("-f", name)]


def run(*words: object) -> int:
    return main([str(word) for word in (*words, "-q")])


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def scene(plane_backbone, tmp_path: Path) -> Path:
    """Three photos, of which the first is masked in its left half."""
    for i in range(3):
        photo(tmp_path / f"photos/a{i}.png", i)
    mask = np.full((200, 280), 255, np.uint8)
    mask[:, :140] = 0
    (tmp_path / "masks").mkdir()
    cv2.imwrite(str(tmp_path / "masks/a0.png"), mask)
    for i in (1, 2):
        cv2.imwrite(str(tmp_path / f"masks/a{i}.png"), np.full((200, 280), 255, np.uint8))
    out = tmp_path / "out/a.ply"
    words = ("-o", out, "--keep-unrelated", "--masks", tmp_path / "masks", "-r", "112", *FORMATS)
    assert run("reconstruct", tmp_path / "photos", *words) == 0
    return out


def test_the_scene_grows_and_its_old_cameras_stay(scene: Path, tmp_path: Path, capsys) -> None:
    before, old = digests(scene.parent), json.loads((scene.parent / "a/cameras.json").read_text())["images"]
    points = json.loads((scene.parent / "a/run.json").read_text())["points"]
    new, foreign = photo(tmp_path / "new/a1.png", 1, 0.8), photo(tmp_path / "new/c.png", 77)
    (scene.parent / "a.mp4").write_bytes(b"a film of before")
    with on_the_disk_in_order(scene.parent):
        assert run("add", scene, new, foreign, tmp_path / "photos/a2.png", "--views", 1, "--json") == 3
    said = capsys.readouterr()
    assert "c.png shows nothing that" in said.err and "a2.png is in the scene already" in said.err
    assert "a.mp4: made from the scene as it was" in said.err
    document = json.loads(said.out)
    assert [each["name"] for each in document["added"]] == ["a1_2.png"] and document["scene"]["views"] == 4
    after, cameras = digests(scene.parent), json.loads((scene.parent / "a/cameras.json").read_text())["images"]
    assert {name: cameras[name] for name in old} == old and list(cameras) == [*old, "a1_2.png"]
    same = [
        name for name in before if name.split("/")[1:2] in (["depth"], ["depth_preview"], ["confidence"], ["memory"])
    ]
    assert len(same) == 12 and all(after[name] == before[name] for name in same)
    # the matches tell that it shows just what a1 shows, though PlaneBackbone puts it 0.1 beside a1
    shift = np.array(cameras["a1_2.png"]["cam_from_world"]) - np.array(cameras["a1.png"]["cam_from_world"])
    assert np.allclose(shift, 0, atol=5e-3)
    facts = json.loads((scene.parent / "a/run.json").read_text())
    assert facts["points"] > points and facts["history"][0]["added"] == ["a1_2.png"]
    assert datetime.fromisoformat(facts["history"][0]["time"]).tzinfo is not None
    assert [(e["name"], e["verdict"]) for e in facts["images"][3:]] == [
        ("a1_2.png", "used"), ("a2.png", "left out"), ("c.png", "left out")
    ]  # fmt: skip
    assert len(read_colmap_model(scene.parent / "a/sparse/0")) == 4
    assert len(json.loads((scene.parent / "a/transforms.json").read_text())["frames"]) == 4
    assert (scene.parent / "a/masks/a0.png.png").is_file() and not list(scene.parent.glob(".*"))
    assert run("add", scene, photo(tmp_path / "new/d.png", 2, 0.7), "--views", 1) == 0  # and once more
    assert len(json.loads((scene.parent / "a/run.json").read_text())["history"]) == 2


def test_refused_photos_and_what_is_missing_change_nothing(scene: Path, tmp_path: Path, capsys) -> None:
    before, new = digests(scene.parent), photo(tmp_path / "new/b.png", 1, 0.8)
    assert run("add", scene, photo(tmp_path / "new/c.png", 77), "--views", 1) == 3
    assert run("add", scene, tmp_path / "photos/a2.png") == 3 and run("add", tmp_path / "no.ply", new) == 3
    made = scene.parent / "a/run.json"
    whole = made.read_bytes()
    made.write_bytes(whole.replace(b'"bytes"', b'"octets"'))  # no list of files
    assert run("add", scene, new) == 3 and "a/run.json: does not list the scene's own files" in capsys.readouterr().err
    made.write_bytes(whole)
    assert run("add", scene, new, "--cameras", scene.parent / "a/cameras.json") == 3
    assert "has a camera for none of the photos" in capsys.readouterr().err
    (tmp_path / "photos/a1.png").rename(tmp_path / "photos/b1.png")
    shutil.move(scene.parent / "a/images", tmp_path / "images")
    assert run("add", scene, new) == 3
    assert "photos are not found (a1.png): no longer where they were" in capsys.readouterr().err
    (tmp_path / "photos/b1.png").rename(tmp_path / "photos/a1.png")
    shutil.move(tmp_path / "images", scene.parent / "a/images")
    assert digests(scene.parent) == before
    run_json = scene.parent / "a/run.json"
    sound = run_json.read_text()
    run_json.write_text(sound.replace('"up": ', '"up": NaN, "was": ', 1))
    assert run("add", scene, new) == 3 and "run.json: holds NaN or Infinity" in capsys.readouterr().err
    run_json.write_text(sound)
    assert digests(scene.parent) == before
    shutil.copytree(scene.parent / "a", tmp_path / "renamed/b")
    shutil.copy(scene, tmp_path / "renamed/b.ply")
    assert run("add", tmp_path / "renamed/b.ply", new) == 3 and "was written as a.ply" in capsys.readouterr().err
    (scene.parent / "a/memory/a0.safetensors").unlink()
    assert run("add", scene, new) == 3
    said = capsys.readouterr().err.strip()
    assert "memory/a0.safetensors: is missing" in said and "\n" not in said


def test_killed_at_any_moment_the_scene_is_old_or_new(scene: Path, tmp_path: Path, monkeypatch) -> None:
    old, moments = digests(scene.parent), []
    move, journal = Transaction._move, Transaction._write_journal

    def snapshot(of: Transaction) -> None:
        """What a process that is killed now leaves behind."""
        moments.append(tmp_path / f"killed/{len(moments)}")
        shutil.copytree(of.root, moments[-1])

    def moves(self, source: str, target: str) -> None:
        if not self.moved % 9 or target.endswith("run.json"):
            snapshot(self)
        self.moved += 1
        move(self, source, target)
        if target == "a/run.json":
            snapshot(self)

    def writes(self, *given) -> None:
        snapshot(self)
        journal(self, *given)

    monkeypatch.setattr(Transaction, "moved", 0, raising=False)
    monkeypatch.setattr(Transaction, "_move", moves)
    monkeypatch.setattr(Transaction, "_write_journal", writes)
    assert run("add", scene, photo(tmp_path / "new/b.png", 1, 0.8), "--views", 1) == 0
    new, found = digests(scene.parent), []
    for place in moments:
        bring_right(place / "a.ply")
        found.append(digests(place))
    assert len(moments) > 6 and all(each in (old, new) for each in found)
    assert found[0] == old and found[-1] == new


def test_cameras_that_are_known_stay_exact(scene: Path, tmp_path: Path, capsys) -> None:
    path, made = tmp_path / "known.json", photo(tmp_path / "made/f.png", 5)
    entry = json.loads((scene.parent / "a/cameras.json").read_text())["images"]["a1.png"]
    entry["cam_from_world"][0][3] -= 0.05
    path.write_text(json.dumps({"images": {"f.png": {**entry, "depth": None}}}))
    assert run("add", scene, made, "--cameras", path, "--views", 2) == 0
    view = {view.name: view for view in read_cameras_json(scene.parent / "a")}["f.png"]
    assert np.array_equal(view.cam_from_world, entry["cam_from_world"]) and np.array_equal(view.K, entry["K"])
    assert view.depth is not None and np.allclose(view.depth, 2.0, rtol=2e-2)
    path.write_text(json.dumps({"images": {"g.png": {**entry, "width": 279, "depth": None}}}))
    assert run("add", scene, photo(tmp_path / "made/g.png", 6), "--cameras", path) == 3
    assert "279x200 pixels, the photo has 280x200" in capsys.readouterr().err
    path = tmp_path / "known.txt"
    path.write_text("# 0 g.png\n0 0.25 0 0 0 0 0 1\n")
    assert run("add", scene, tmp_path / "made/g.png", "--cameras", path, "--views", 2) == 0
    views = {view.name: view for view in read_cameras_json(scene.parent / "a")}
    assert np.allclose(views["g.png"].cam_from_world[:, 3], [-0.25, 0, 0]) and np.allclose(views["g.png"].K, entry["K"])


def test_a_disk_that_takes_nothing_leaves_the_scene_and_names_no_option_that_add_has_not(
    scene: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    before, new = digests(scene.parent), photo(tmp_path / "new/b.png", 1, 0.8)

    def full(*given, **named) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("fsync", "mkdir"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            assert run("add", scene, new, "--views", 1) == 7
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert "the disk is full; free some space or copy the scene" in said and "-o" not in said.split()
        assert digests(scene.parent) == before


def test_what_was_asked_comes_back_from_run_json(scene: Path) -> None:
    document = json.loads((scene.parent / "a/run.json").read_text())["arguments"]
    found = from_stored(ReconstructConfig, document, "run.json")
    assert plain(found) == document and found.formats == ("colmap", "nerfstudio", "glb", "tum")
    for change in ({"formats": [3]}, {"input": {"inputs": []}}, {"predict": 5}, {"fusion": {"max_points": "many"}}):
        with pytest.raises(InputError, match="run.json"):
            from_stored(ReconstructConfig, document | change, "run.json")


def along_a_wall(path: Path, k: int) -> Path:
    """The texture of a plane at depth 2 from the k-th camera of PlaneBackbone, whose focal length is 280 pixels."""
    noise = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    wall = cv2.resize(noise, (360, 200), interpolation=cv2.INTER_CUBIC)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), wall[:, 14 * k : 14 * k + 280])
    return path


def test_every_output_of_a_refined_scene_gets_the_new_photos(plane_backbone, tmp_path: Path) -> None:
    pytest.importorskip("pycolmap")
    laspy = pytest.importorskip("laspy")
    for k in range(3):
        along_a_wall(tmp_path / f"photos/a{k}.png", k)
    out, names = tmp_path / "a.ply", ["a0.png", "a1.png", "a2.png"]
    words = [word for name in ("colmap", "html", "3dgs", "las", "tum-rgbd") for word in ("-f", name)]
    words += ["--refine", "--focal", 280, "--fix-intrinsics", "--no-previews"]  # a plane does not tell the focal length
    assert run("reconstruct", tmp_path / "photos", "-o", out, "-r", "56", *words) == 0
    for k, adjust in ((3, ()), (4, ("--adjust",))):
        before, old = digests(tmp_path / "a"), json.loads((tmp_path / "a/cameras.json").read_text())["images"]
        names.append(f"b{k}.png")
        assert run("add", out, along_a_wall(tmp_path / f"new/b{k}.png", k), "--views", 1, *adjust) == 0
        after, cameras = digests(tmp_path / "a"), json.loads((tmp_path / "a/cameras.json").read_text())["images"]
        assert "database.db" in before and set(before) < set(after) and list(cameras) == names
        made = [name for name in before if not name.startswith(("depth/", "memory/", "images/", "sparse/"))]
        assert [name for name in made if after[name] == before[name]] == []
        with contextlib.closing(sqlite3.connect(tmp_path / "a/database.db")) as database:
            assert database.execute("SELECT count(*) FROM images").fetchall() == [(k + 1,)]
        assert len(read_colmap_model(tmp_path / "a/sparse/0")) == k + 1
        points = json.loads((tmp_path / "a/run.json").read_text())["points"]
        assert len(laspy.read(tmp_path / "a/scene.las").points) == points
        listed = [line for line in (tmp_path / "a/depth.txt").read_text().splitlines() if not line.startswith("#")]
        assert len(listed) == k + 1
        changed = [cameras[name]["cam_from_world"] != old[name]["cam_from_world"] for name in old]
        assert any(changed) if adjust else {name: cameras[name] for name in old} == old
    centres = {view.name: camera_centres(view.cam_from_world) for view in read_cameras_json(out.with_suffix(""))}
    for k, name in enumerate(names):  # the frame and the scale have stayed
        assert np.allclose(centres[name] - centres["a0.png"], [0.1 * k, 0, 0], atol=0.02)
