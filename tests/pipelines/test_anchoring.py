"""Metres and a place on the Earth, from the command line to the files: known lengths, GPS in EXIF, control points."""

from __future__ import annotations

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from lite3r_cli import cli
from lite3r_cli.io.cameras_json import read_cameras_json
from lite3r_cli.io.ply import read_ply
from lite3r_cli.world.geodesy import LocalFrame

pytestmark = pytest.mark.usefixtures("plane_backbone")  # cameras 0.1 apart along x before the plane z = 2
WIDTH, HEIGHT, COUNT = 280, 210, 8
HOME = LocalFrame(48.1, 11.5, 500.0)


def degrees(value: float):
    whole = int(value)
    minutes = int((value - whole) * 60)
    return (whole, minutes, ((value - whole) * 60 - minutes) * 60)


def exif_of(place: np.ndarray | None) -> Image.Exif:
    exif = Image.Exif()
    if place is not None:
        latitude, longitude, height = map(float, place)
        exif.get_ifd(0x8825).update({1: "N", 2: degrees(latitude), 3: "E", 4: degrees(longitude), 5: b"\0", 6: height})
    return exif


@pytest.fixture
def photos(tmp_path):
    """Overlapping pieces of one picture; EXIF says 10 m to the east from each to the next, but for one."""
    noise = np.random.default_rng(3).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    picture = cv2.resize(noise, (480, 300), interpolation=cv2.INTER_CUBIC)
    local = np.c_[10.0 * np.arange(COUNT), np.zeros(COUNT), np.full(COUNT, 30.0)]
    local[5] += [0, 200, 0]
    (tmp_path / "photos").mkdir()
    for i, place in enumerate(HOME.places(local)):
        piece = np.ascontiguousarray(picture[40 : 40 + HEIGHT, 20 * i : 20 * i + WIDTH])
        Image.fromarray(piece).save(tmp_path / "photos" / f"{i}.jpg", exif=exif_of(place), quality=95)
    return tmp_path


def run(folder, *more: str) -> tuple[int, object]:
    output = folder / "scene.ply"
    options = ["--device", "cpu", "-r", "280", "--overwrite", *map(str, more)]
    return cli.main(["reconstruct", str(folder / "photos"), "-o", str(output), *options]), folder / "scene"


def test_a_known_distance_makes_metres(photos):
    code, out = run(photos, "--scale-from", "1.jpg", "3.jpg", "5")
    assert code == 0
    document = json.loads((out / "run.json").read_text())
    assert document["world"]["metric"] and document["world"]["units"] == "metres"
    assert document["anchor"]["metres_per_unit"] == pytest.approx(25)
    np.testing.assert_allclose(read_ply(photos / "scene.ply").points[:, 2], 50, rtol=1e-4)
    assert read_cameras_json(out)[0].depth.max() == pytest.approx(50, rel=1e-3)
    assert b"units: metres" in (photos / "scene.ply").read_bytes()[:400] and not (out / "geo.json").exists()
    code, out = run(photos, "--scale-points", "100,100", "140,100", "2.jpg", "4")  # 40 pixels at f = 280 and z = 2
    assert json.loads((out / "run.json").read_text())["anchor"]["metres_per_unit"] == pytest.approx(14)


def test_gps_gives_the_frame_of_the_map_and_names_the_wild_fix(photos, capsys):
    code, out = run(photos, "--world", "enu", "--up", "camera")
    assert code == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "5.jpg by 200 m" in said
    geo = json.loads((out / "geo.json").read_text())
    assert geo["metres_per_unit"] == pytest.approx(100, rel=1e-3) and geo["accuracy"]["used"] == COUNT - 1
    assert [name for name, entry in geo["residuals"].items() if not entry["used"]] == ["5.jpg"]
    frame = LocalFrame(*(geo["origin"][key] for key in ("latitude", "longitude", "height")))
    views = read_cameras_json(out)
    for i, view in enumerate(views):
        centre = -view.cam_from_world[:, :3].T @ view.cam_from_world[:, 3]
        np.testing.assert_allclose(HOME.local(frame.places(centre)), [10 * i, 0, 30], atol=0.05)
    np.testing.assert_allclose(views[0].cam_from_world[:, :3] @ [0, 0, 1], [0, -1, 0], atol=1e-3)  # up is up
    assert "geo.json" in " ".join(json.loads((out / "run.json").read_text())["files"])


def test_control_points(photos):
    """Four points of the plane, marked in two pictures each, in a frame 50 times as large and turned."""
    lines = ["LOCAL"]
    for k, (x, y) in enumerate([(0.0, 0.0), (0.5, 0.1), (0.3, -0.4), (0.7, 0.3)]):
        here = 50 * np.array([x, 2.0, -y]) + [5, 6, 7]
        for i in (2, 4):
            u, v = WIDTH * (x - 0.1 * i) / 2 + WIDTH / 2, WIDTH * y / 2 + HEIGHT / 2
            lines.append(" ".join(map(str, [*here, u, v, f"{i}.jpg", f"gcp{k}"])))
    (photos / "gcp_list.txt").write_text("\n".join(lines))
    code, out = run(photos, "--gcp", photos / "gcp_list.txt")
    assert code == 0
    document = json.loads((out / "run.json").read_text())
    assert document["anchor"]["metres_per_unit"] == pytest.approx(50, rel=1e-3)
    np.testing.assert_allclose(read_ply(photos / "scene.ply").points[:, 1], 106, atol=0.05)


@pytest.mark.parametrize(
    "options, code, word",
    [
        (["--scale-from", "1.jpg", "9.jpg", "5"], 3, "no image 9.jpg"),
        (["--scale-from", "1.jpg", "1.jpg", "5"], 3, "cannot be seen"),
        *((["--scale-from", "1.jpg", "2.jpg", far], 2, "metres have to lie") for far in ("-5", "1e39", "1e-46")),
        (["--scale-points", "9,9", "60,20", "1.jpg", "nan"], 2, "metres have to lie between"),
        *((["--up", up], 2, "--up must be") for up in ("1e-200,0,0", "1e200,1e200,0", "0,0,0", "nan,0,1")),
        (["--scale-points", "1,1", "2", "1.jpg", "5"], 2, "a pixel is X,Y"),
        (["--camera-height", "1.6", "--up", "camera"], 3, "cannot be seen"),
        (["--camera-height", "1.6", "--world", "enu"], 2, "give one"),
        (["--world", "enu"], 3, "on a line with no up to see"),
        (["--gcp", "/missing"], 2, "missing"),
    ],
)
def test_what_cannot_be_known_is_said(photos, capsys, options, code, word):
    assert run(photos, *options)[0] == code
    assert word in " ".join(capsys.readouterr().err.split())
    assert not (photos / "scene").exists()


def test_no_gps_and_files_of_control_points_that_are_wrong(photos, capsys):
    for path in (photos / "photos").iterdir():
        Image.open(path).save(path)
    assert run(photos, "--world", "enu")[0] == 3 and "0 of 8 images" in capsys.readouterr().err
    file = photos / "gcp.txt"
    for text, word in (
        ("LOCAL\n1 2 3 4 5\n", "line 2"), ("LOCAL\n1 2 x 4 5 1.jpg\n", "no number"), ("LOCAL\n", "line for each"),
        ("EPSG:4326\n48 200 3 4 5 1.jpg\n", "longitude"), ("LOCAL\n1 2 3 4 5 1.jpg a\n", "show 1 of 1"),
    ):  # fmt: skip
        file.write_text(text)
        assert run(photos, "--gcp", file)[0] == 3
        assert word in " ".join(capsys.readouterr().err.split())


def test_torch_is_not_imported_before_the_pictures_are_found():
    code = "import lite3r_cli.pipelines.reconstruct_scene, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
