"""`lite3r splat` on a CPU, a few steps: what it writes, what it says, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import on_the_disk_in_order
from plyfile import PlyData

from lite3r_cli.cli import main

pytestmark = pytest.mark.usefixtures("plane_backbone")


def call(*words: object) -> int:
    return main([str(word) for word in words])


@pytest.fixture
def scene(photographs, tmp_path: Path) -> Path:
    small = ("--resolution", "56", "--max-points", "1000", "-q")
    assert call("reconstruct", photographs(6), "-o", tmp_path / "out/a.ply", *small) == 0
    return tmp_path / "out/a.ply"


def test_splats_and_how_good_they_are(scene: Path, capsys) -> None:
    words = ("splat", scene, "--device", "cpu", "--steps", 2, "--size", 64)
    assert call(*words, "--json") == 0
    told = capsys.readouterr()
    assert "network alone" in told.err and "hours" in told.err
    facts = json.loads(scene.with_name("a-splats.json").read_text())
    assert json.loads(told.out)["psnr"] == facts["psnr"] > 3 and facts["held_out"] == ["a2.jpg"]
    vertices = PlyData.read(scene.with_name("a-splats.ply"))["vertex"].data
    assert len(vertices) == facts["gaussians"] > 100 and "f_rest_23" in vertices.dtype.names
    cloud = PlyData.read(scene)["vertex"].data
    for axis in "xyz":  # in the frame of the cloud
        apart = abs(np.median(vertices[axis]) - np.median(cloud[axis]))
        assert apart < 0.3 * np.ptp(cloud[axis]) + 0.05
    assert call(*words) == 7  # they are there
    assert not list(scene.parent.glob(".*"))


def test_all_photographs_on_request(scene: Path) -> None:
    words = ("splat", scene, "--device", "cpu", "--steps", 1, "--size", 64, "--no-hold-out", "-q")
    with on_the_disk_in_order(scene.parent):
        assert call(*words, "-o", scene.with_name("b.ply")) == 0
    facts = json.loads(scene.with_name("b.json").read_text())
    assert facts["psnr"] is None and facts["held_out"] == [] and facts["step"] == 1


def test_other_files_are_made_by_splat_transform(scene: Path, tmp_path, monkeypatch, capsys) -> None:
    words = ("splat", scene, "--device", "cpu", "--steps", 1, "--size", 64, "-q", "-o", scene.with_name("c.spz"))
    monkeypatch.setenv("PATH", str(tmp_path / "programs"))
    assert call(*words) == 5 and "npm install -g @playcanvas/splat-transform" in capsys.readouterr().err
    program = tmp_path / "programs" / "splat-transform"
    program.parent.mkdir()
    kept = scene.with_name("c.spz.ply")
    for body, more, code in (
        ("echo 'no such thing' >&2; exit 3", (), 7),
        ("exit 0", (), 7),  # nothing is trained: the splats of the first run are in the way
        ('/bin/rm "$0"; exit 0', ("--overwrite",), 7),
        ('/bin/cp "$1" "$2"', ("--overwrite",), 0),
    ):
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)
        assert call(*words, *more) == code
        told = capsys.readouterr().err
        assert ("c.spz.ply" in told) == kept.exists() == bool(code) and ("no such thing" in told) == ("such" in body)
        assert scene.with_name("c.spz").exists() == scene.with_name("c.json").exists() == (not code)
        assert not code or len(PlyData.read(kept)["vertex"].data) > 100
    assert scene.with_name("c.spz").read_bytes().startswith(b"ply") and not scene.with_name("c.ply").exists()
    assert not list(scene.parent.glob(".*")) and len(PlyData.read(scene)["vertex"].data) > 100


def test_without_a_gpu_it_says_so(scene: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert call("splat", scene) == 5
    assert "--device cpu" in capsys.readouterr().err


def test_lost_photographs(scene: Path, photographs, tmp_path, capsys) -> None:
    for path in (tmp_path / "photos").iterdir():
        path.unlink()
    assert call("splat", scene, "--device", "cpu") == 3
    assert "0 of 6 photos" in capsys.readouterr().err
