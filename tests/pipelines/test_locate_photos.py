"""`lite3r locate`: new photos in scenes on the disk."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from lite3r_cli.cli import main
from lite3r_cli.config.locating import LocateConfig
from lite3r_cli.io.cameras_json import read_cameras_json
from lite3r_cli.pipelines import retrieval
from lite3r_cli.pipelines.locate_photos import locate
from lite3r_cli.pipelines.place_in_scene import place_in_scene
from lite3r_cli.pipelines.written_scene import Photographs
from lite3r_cli.scene import geometry
from lite3r_cli.scene.geometry import Similarity
from lite3r_cli.scene.posed_view import View

SAMPLES = Path(__file__).parents[2] / "sample_scenes"


def photo(path: Path, seed: int) -> Path:
    """A picture with enough features to be known again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (35, 49, 3), dtype=np.uint8)
    cv2.imwrite(str(path), cv2.resize(noise, (392, 280), interpolation=cv2.INTER_CUBIC))
    return path


def run(*words: object) -> int:
    return main([str(word) for word in (*words, "--resolution", "112", "-q")])


@pytest.fixture
def scene(plane_backbone, tmp_path: Path) -> Path:
    for i in range(3):
        photo(tmp_path / f"photos/a{i}.png", i)
    made = ("reconstruct", tmp_path / "photos", "-o", tmp_path / "out/a.ply", "--keep-unrelated")
    assert run(*made, "--scale-from", "a0.png", "a1.png", "1.0") == 0
    return tmp_path / "out/a.ply"


def test_a_photo_is_placed_in_the_frame_and_at_the_scale_of_the_scene(scene: Path, tmp_path: Path, capsys) -> None:
    again, foreign = photo(tmp_path / "new/b.png", 1), photo(tmp_path / "new/c.png", 77)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert run("locate", scene.with_suffix(""), again, "--views", 1, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    (found,) = document["located"]
    assert found["nearest"][0]["image"] == "a1.png" and found["confidence"] > 0.95
    # PlaneBackbone puts each picture of a pass 0.1 beside the one before, and 0.1 is a metre: a1 is at 1, and a pass
    # of a1 and the photo has it at 2; but the matches tell that it shows just what a1 shows
    assert np.allclose(found["centre"], [1, 0, 0], atol=1e-2) and found["matches"] > 50
    assert np.allclose(found["K"], read_cameras_json(scene.with_suffix(""), load_depth=False)[1].K, rtol=1e-3)
    assert document["world"]["metric"] is True
    assert run("locate", scene, again, foreign, "--views", 1, "--json") == 3
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert [each["name"] for each in document["located"]] == ["b.png"]
    assert [each["name"] for each in document["refused"]] == ["c.png"]
    assert "c.png shows nothing" in said.err
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_what_cannot_be_read_or_is_gone_is_named(scene: Path, tmp_path: Path, capsys) -> None:
    good, damaged = photo(tmp_path / "new/b.png", 1), tmp_path / "new/d.png"
    damaged.write_bytes(good.read_bytes()[:2000])
    assert run("locate", scene, good, damaged, "--views", 1) == 3
    assert "d.png" in capsys.readouterr().err
    (tmp_path / "photos/a0.png").unlink()
    photo(tmp_path / "photos/a2.png", 5).write_bytes(damaged.read_bytes())
    assert run("locate", scene, good, "--views", 1) == 0
    said = capsys.readouterr().err
    assert "1 of 3 photos" in said and "a2.png, a photo of the scene" in said
    (tmp_path / "photos/a1.png").unlink()
    (tmp_path / "photos/a2.png").unlink()
    assert run("locate", scene, good) == 3
    assert "none of its 3 photos" in capsys.readouterr().err
    assert run("locate", tmp_path / "no.ply", good) == 3 and run("locate", scene, good, "--views", 0) == 2


def test_the_memory_of_a_scene_spares_its_photographs(plane_backbone, tmp_path: Path, capsys, monkeypatch) -> None:
    for i in range(3):
        photo(tmp_path / f"photos/a{i}.png", i)
    again, out = photo(tmp_path / "new/b.png", 1), tmp_path / "a.ply"
    assert run("reconstruct", tmp_path / "photos", "-o", out, "--keep-unrelated") == 0
    assert run("locate", out, again, "--views", 1, "--json") == 0
    without = json.loads(capsys.readouterr().out)["located"]
    made = ("reconstruct", tmp_path / "photos", "-o", out, "--keep-unrelated", "--overwrite", "--keep-memory")
    assert run(*made) == 0
    found, ask = [], retrieval.find_keypoints
    monkeypatch.setattr(retrieval, "find_keypoints", lambda *given: found.append(0) or ask(*given))
    read, decode = [], Photographs.read
    monkeypatch.setattr(Photographs, "read", lambda self, view: read.append(view.name) or decode(self, view))
    assert run("locate", out, again, "--views", 1, "--json") == 0
    now = json.loads(capsys.readouterr().out)["located"]
    assert len(found) == 1 and read == ["a1.png"]  # those of the new photo; the one that the network sees beside it
    for each in (*without, *now):
        del each["seconds"]
    assert now == without
    photo(tmp_path / "photos/a1.png", 9)
    assert run("locate", out, again, "--views", 1) == 0  # another photograph stands in for the one that has changed
    assert "a1.png, a photo of the scene, cannot be read: has become" in capsys.readouterr().err
    damaged = tmp_path / "a/memory/a2.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    assert run("locate", out, again) == 3
    said = capsys.readouterr().err.strip()
    assert "a2.safetensors: cannot be used" in said and "\n" not in said and "Traceback" not in said


def test_one_astray_of_the_neighbours_does_not_move_the_new_camera() -> None:
    rng = np.random.default_rng(0)
    move = Similarity(0.3, cv2.Rodrigues(np.array([0.3, -0.5, 0.2]))[0], np.array([1.0, 2.0, -3.0]))
    K = np.array([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]])
    bumps = cv2.resize(rng.uniform(3, 5, (5, 6)).astype(np.float32), (64, 48), interpolation=cv2.INTER_CUBIC)
    scene, seen = [], []
    for k in range(5):
        pose = np.concatenate(
            [cv2.Rodrigues(np.array([0, 0.03 * k, 0]))[0], [[-0.3 * k], [0.1 * (k % 2)], [0]]], axis=1
        )
        scene.append(View(f"{k}", 64, 48, K, pose, bumps, np.ones_like(bumps)))
        depth = (bumps * move.scale).astype(np.float32)
        seen.append(View(f"{k}", 64, 48, K, move.apply_to_poses(pose), depth, np.ones_like(bumps)))
    astray = seen[0].cam_from_world.copy()
    astray[:, 3] += 0.5
    neighbours = [View("0", 64, 48, K, astray, seen[0].depth, seen[0].confidence), *seen[1:4]]
    found = place_in_scene(seen[4], neighbours, scene[:4])
    assert found is not None and found.tie.similarity.scale == pytest.approx(1 / 0.3, rel=1e-2)
    off = geometry.camera_centres(found.view.cam_from_world) - geometry.camera_centres(scene[4].cam_from_world)
    assert np.linalg.norm(off) < 0.1  # the one astray is off by 2.9
    turn = found.view.cam_from_world[:, :3] @ scene[4].cam_from_world[:, :3].T
    assert np.degrees(geometry.rotation_angle(turn)) < 0.1


def test_mini_locates_what_was_left_out_of_a_sample_scene(tmp_path: Path) -> None:
    pictures = [SAMPLES / f"facade/images/{k:02d}.jpg" for k in (0, 2, 4, 6)]
    made = ["reconstruct", *pictures, "-o", tmp_path / "a.ply", "--resolution", "224", "-q"]
    assert main([str(word) for word in made]) == 0
    portrait = tmp_path / "portrait.png"  # the middle of a photo, as if the camera had been held upright
    cv2.imwrite(str(portrait), cv2.imread(str(SAMPLES / "facade/images/03.jpg"))[:, 112:400])
    glass = tmp_path / "glass.png"  # nothing of it may be used
    cv2.imwrite(
        str(glass), np.dstack([cv2.imread(str(SAMPLES / "facade/images/03.jpg")), np.zeros((384, 512), np.uint8)])
    )
    new = (SAMPLES / "facade/images/03.jpg", SAMPLES / "desk/images/03.jpg", portrait, glass)
    found = locate(LocateConfig(tmp_path / "a.ply", new, views=3))
    assert [each.path for each in found.located] == [new[0], portrait]
    assert [Path(refused.name).name for refused in found.refused] == ["03.jpg", "glass.png"]
    truth = {view.name: view for view in read_cameras_json(SAMPLES / "facade", load_depth=False)}
    scene = {view.name: view for view in read_cameras_json(tmp_path / "a/cameras.json", load_depth=False)}
    for mine in found.located:
        assert mine.view.K[0, 0] == pytest.approx(scene["02.jpg"].K[0, 0], rel=0.1)
        for name in ("02.jpg", "04.jpg"):
            here = geometry.relative_pose(scene[name].cam_from_world, mine.view.cam_from_world)
            there = geometry.relative_pose(truth[name].cam_from_world, truth["03.jpg"].cam_from_world)
            assert np.degrees(geometry.rotation_angle(here[:, :3] @ there[:, :3].T)) < 3
            direction = np.degrees(geometry.vector_angle(here[:, 3], there[:, 3]))
            assert direction < 15 or mine.path == portrait  # its focal length is less sure, and with it its distance
