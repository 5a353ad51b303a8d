"""A folder with two scenes and a stranger, from the command line to the files."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from lite3r_cli import cli
from lite3r_cli.io.cameras_json import read_cameras_json
from lite3r_cli.io.ply import read_ply

pytestmark = pytest.mark.usefixtures("plane_backbone")


def write_views(folder, name: str, seed: int, count: int) -> None:
    """Overlapping pieces of one picture of noise in a colour of its own."""
    noise = np.random.default_rng(seed).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    picture = cv2.resize(noise, (560, 400), interpolation=cv2.INTER_CUBIC) * np.roll([0.5, 0.75, 1.0], seed)
    folder.mkdir(exist_ok=True)
    for i in range(count):
        top, left = 12 * i, 25 * i
        cv2.imwrite(str(folder / f"{name}{i}.png"), picture[top : top + 300, left : left + 400])


@pytest.fixture
def mixed(tmp_path):
    write_views(tmp_path / "photos", "a", 0, 3)
    write_views(tmp_path / "photos", "b", 1, 2)
    write_views(tmp_path / "photos", "c", 2, 1)
    return tmp_path / "photos"


def run(photos, output, *more):
    return cli.main(["reconstruct", str(photos), "-o", str(output), "--device", "cpu", "-r", "280", *more])


def test_parts_are_scenes_of_their_own(mixed, tmp_path, capsys):
    assert run(mixed, tmp_path / "scene.ply", "--format", "tum") == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "c0.png" in said and "2 scenes" in said and "part-2" in said
    part = tmp_path / "scene" / "part-2"
    assert [view.name for view in read_cameras_json(tmp_path / "scene")] == ["a0.png", "a1.png", "a2.png"]
    assert [view.name for view in read_cameras_json(part)] == ["b0.png", "b1.png"]
    assert len(read_ply(part / "scene.ply")) and (part / "trajectory.txt").is_file()
    document = json.loads((tmp_path / "scene" / "run.json").read_text())
    assert {entry["name"]: entry.get("part", entry["verdict"]) for entry in document["images"]} == {
        "a0.png": 1, "a1.png": 1, "a2.png": 1, "b0.png": 2, "b1.png": 2, "c0.png": "left out",
    }  # fmt: skip
    assert [p["folder"] for p in document["parts"]] == [".", "part-2"]
    assert "scene/part-2/scene.ply" in document["files"]


def test_all_can_be_kept_and_strict_fails(mixed, tmp_path, capsys):
    assert run(mixed, tmp_path / "strict.ply", "--strict") == 3
    assert "left out" in capsys.readouterr().err and not (tmp_path / "strict").exists()
    assert run(mixed, tmp_path / "all.ply", "--keep-unrelated") == 0
    assert len(read_cameras_json(tmp_path / "all")) == 6 and not (tmp_path / "all" / "part-2").exists()
