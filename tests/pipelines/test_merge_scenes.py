"""`lite3r merge`: two scenes on the disk become one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import on_the_disk_in_order, photo

from lite3r_cli.cli import main
from lite3r_cli.io.cameras_json import read_cameras_json
from lite3r_cli.io.ply import read_ply
from lite3r_cli.scene import geometry


def run(*words: object) -> int:
    return main([str(word) for word in (*words, "-q")])


def made(photos: list[Path], out: Path, *words: str) -> Path:
    given = ("reconstruct", *photos, "-o", out, "--keep-unrelated", "--no-previews", "-r", "112", *words)
    assert run(*given) == 0
    return out


@pytest.fixture
def first(plane_backbone, tmp_path: Path) -> Path:
    return made([photo(tmp_path / f"first/a{i}.png", i) for i in range(3)], tmp_path / "a.ply", "-f", "colmap")


def test_what_overlaps_becomes_one_scene(first: Path, tmp_path: Path, capsys) -> None:
    photos = [photo(tmp_path / "second/a0.png", 1, 0.8), photo(tmp_path / "second/b.png", 9)]
    second = made(photos, tmp_path / "b.ply", "--scale-from", "a0.png", "b.png", "0.5")  # five times as large
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert run("merge", first, second, "-o", tmp_path / "c.ply", "--views", 1, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["scene"]["views"] == 5 and document["in_both"] == 0
    assert np.linalg.norm(document["first_from_second"][0][:3]) == pytest.approx(0.2, rel=5e-2)
    views = {view.name: view for view in read_cameras_json(tmp_path / "c")}
    assert list(views) == ["a0.png", "a0_2.png", "a1.png", "a2.png", "b.png"]
    # PlaneBackbone puts the second picture of a pass 0.1 beside the first: a0_2 beside a1, and b beside a0_2
    centres = {name: geometry.camera_centres(view.cam_from_world)[0] for name, view in views.items()}
    assert [round(centres[name], 1) for name in ("a0.png", "a1.png", "a0_2.png", "b.png")] == [0.0, 0.1, 0.2, 0.3]
    assert all(np.allclose(view.depth, 2.0, rtol=4e-2) for view in views.values())
    assert np.allclose(read_ply(tmp_path / "c.ply").points[:, 2], 2.0, rtol=4e-2)
    assert len(list((tmp_path / "c/images").iterdir())) == 5  # the formats are those of the first
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert run("merge", first, second, "-o", tmp_path / "c.ply", "--views", 1) == 7  # it is there already
    for place in (first, tmp_path / "b.ply"):  # the scenes that are merged stay
        assert run("merge", first, second, "-o", place, "--overwrite") == 2
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_photographs_that_are_in_both_tie_the_scenes_and_count_once(first: Path, tmp_path: Path, capsys) -> None:
    photos = [tmp_path / "first/a2.png", photo(tmp_path / "second/b.png", 9)]
    second = made(photos, tmp_path / "b.ply")
    with on_the_disk_in_order(tmp_path / "c"):
        assert run("merge", first, second, "-o", tmp_path / "c/", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["in_both"] == 1 and document["scene"]["views"] == 4
    centres = {v.name: geometry.camera_centres(v.cam_from_world)[0] for v in read_cameras_json(tmp_path / "c")}
    assert {name: round(x, 1) for name, x in centres.items()} == {
        "a0.png": 0,
        "a1.png": 0.1,
        "a2.png": 0.2,
        "b.png": 0.3,
    }
    assert json.loads((tmp_path / "c/run.json").read_text())["history"][0]["command"] == "merge"


def test_scenes_that_do_not_overlap_are_refused_with_the_reason(first: Path, tmp_path: Path, capsys) -> None:
    second = made([photo(tmp_path / f"second/b{i}.png", 20 + i) for i in range(2)], tmp_path / "b.ply")
    assert run("merge", first, second, "-o", tmp_path / "c.ply") == 3
    said = capsys.readouterr().err.strip()
    assert "b.ply does not overlap" in said.splitlines()[-1] and "Traceback" not in said
    assert not (tmp_path / "c.ply").exists() and not (tmp_path / "c").exists()
    assert run("merge", first, tmp_path / "no.ply", "-o", tmp_path / "c.ply") == 3
