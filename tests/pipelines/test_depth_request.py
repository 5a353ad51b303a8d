"""Depth files with one scale, at the size of the pictures, and as a set of TUM's RGB-D benchmark."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import PLANE_DEPTH, photograph
from PIL import Image

from lite3r_cli.cli import main
from lite3r_cli.config.prediction import parse_depth_unit
from lite3r_cli.errors import UsageError
from lite3r_cli.io.cameras_json import read_cameras_json
from lite3r_cli.io.tum import read_tum
from lite3r_cli.scene.geometry import invert_pose

pytestmark = pytest.mark.usefixtures("plane_backbone")


def run(*arguments: object) -> int:
    given = [str(argument) for argument in ("reconstruct", *arguments)]
    return main([*given, "--resolution", "112", "--confidence-percentile", "0", "-q"])


def listed(path: Path) -> list[list[str]]:
    return [line.split(maxsplit=1) for line in path.read_text().splitlines() if not line.startswith("#")]


def test_one_scale_at_the_size_of_the_pictures(photographs, tmp_path) -> None:
    photos = photographs(3)
    photograph(photos / "b.jpg", 70, 98, seed=9)
    assert run(photos, "-o", tmp_path / "out/", "--depth-unit", "mm", "--depth-at-picture-size", "--save-npy") == 0
    document = json.loads((tmp_path / "out/cameras.json").read_text())["images"]
    for name, entry in document.items():
        values = cv2.imread(str(tmp_path / "out" / entry["depth"]), cv2.IMREAD_UNCHANGED)
        assert entry["depth_scale"] == 1000 and "depth_width" not in entry
        assert values.shape == (entry["height"], entry["width"]) == ((98, 70) if name == "b.jpg" else (70, 98))
        assert np.abs(values - 1000 * PLANE_DEPTH).max() <= 1
    views = read_cameras_json(tmp_path / "out")
    assert all(np.allclose(view.depth, PLANE_DEPTH, atol=1e-3) for view in views)


def test_an_rgbd_set(photographs, tmp_path) -> None:
    photos = photographs(3)
    for i, path in enumerate(sorted(photos.iterdir())):
        exif = Image.Exif()
        exif[0x0132] = f"2026:11:27 10:00:{7 * i:02d}"
        Image.open(path).save(path, exif=exif)
    assert run(photos, "-o", tmp_path / "out/", "-f", "tum-rgbd", "-f", "tum") == 0
    folder = tmp_path / "out"
    colour, depth = listed(folder / "rgb.txt"), listed(folder / "depth.txt")
    assert [float(time) for time, _ in colour] == pytest.approx([1795773600 + 7 * i for i in range(3)])
    assert [time for time, _ in colour] == [time for time, _ in depth]
    for (_, picture), (_, file) in zip(colour, depth):
        assert cv2.imread(str(folder / picture)).shape[:2] == cv2.imread(str(folder / file), -1).shape == (70, 98)
        assert np.median(cv2.imread(str(folder / file), -1)) == 5000 * PLANE_DEPTH
    poses = np.loadtxt(folder / "groundtruth.txt")
    for row, view in zip(poses, read_cameras_json(folder, load_depth=False)):
        assert np.allclose(row[1:4], invert_pose(view.cam_from_world)[:, 3], atol=1e-8)
    assert [name for name, _ in read_tum(folder / "trajectory.txt")] == ["a0.jpg", "a1.jpg", "a2.jpg"]


def test_frames_of_a_video_have_their_times(tmp_path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "clip.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 20, (96, 64))
    for level in range(20, 240, 20):
        writer.write(np.full((64, 96, 3), level, np.uint8))
    writer.release()
    assert run(tmp_path / "clip.mp4", "-o", tmp_path / "out/", "--max-views", "3", "--frames", "even", "-f", "tum") == 0
    assert np.loadtxt(tmp_path / "out/trajectory.txt")[:, 0] == pytest.approx([0, 0.25, 0.5])
    assert read_tum(tmp_path / "out/trajectory.txt")[1][0] == "frame_000005.png"


def test_equal_times_are_no_times(photographs, tmp_path) -> None:
    assert run(photographs(3), "-o", tmp_path / "out/", "-f", "tum") == 0
    assert np.loadtxt(tmp_path / "out/trajectory.txt")[:, 0].tolist() == [0, 1, 2]


def test_depth_that_does_not_fit_is_told(photographs, tmp_path, capsys) -> None:
    assert run(photographs(2), "-o", tmp_path / "out/", "--depth-unit", "60000") == 0
    assert "100.0 % of the depth" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("text", ["", "inch", "0", "-1", "nan", "inf"])
def test_units_that_are_none(text: str) -> None:
    option = ("--depth-unit", "a scene unit")
    with pytest.raises(UsageError, match="--depth-unit"):
        parse_depth_unit(*option, text)
    assert [parse_depth_unit(*option, text) for text in ("mm", "5000", None)] == [1000, 5000, None]
