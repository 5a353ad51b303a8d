"""Implausible cameras in every supported format."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_hostile_cameras import EYE, frame

from lite3r_cli.errors import InputError
from lite3r_cli.io.foreign_cameras import read_known_cameras
from lite3r_cli.io.intrinsics import read_intrinsics

IMPLAUSIBLE = {  # of a picture of 48 × 36: fx, fy, cx, cy → what is said
    "centre far right": ((50, 50, 4800, 18), "principal point"),
    "centre of twice the size": ((100, 100, 48, 36), "principal point"),
    "centre above": ((50, 50, 24, -1), "principal point"),
    "centre at the corner": ((50, 50, 0, 0), "principal point"),
    "in sides, not pixels": ((1.04, 1.04, 0.5, 0.5), "focal length of 1.04"),
    "in metres": ((0.024, 0.024, 24, 18), "focal length"),
    "a telescope": ((50_000, 50_000, 24, 18), "focal length"),
    "oblong": ((50, 500, 24, 18), "focal lengths 50 and 500"),
}
PLAUSIBLE = ((50, 50, 24, 18), (5, 5, 24, 18), (4000, 4000, 24, 18), (50, 90, 1, 35))


def written_by_all(folder, fx, fy, cx, cy):
    """Readers of the same camera in every format that --cameras and --intrinsics take."""
    K = [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]
    own = {"images": {"0.jpg": {"K": K, "cam_from_world": EYE[:3], "width": 48, "height": 36}}}
    (folder / "cameras.json").write_text(json.dumps(own))
    (folder / "transforms.json").write_text(json.dumps({"frames": [frame(fl_x=fx, fl_y=fy, cx=cx, cy=cy)]}))
    for name, camera in (
        ("pinhole", f"PINHOLE 48 36 {fx} {fy} {cx} {cy}"),
        ("bent", f"OPENCV 48 36 {fx} {fy} {cx} {cy} 0.01 0 0 0"),
    ):
        (folder / name).mkdir()
        (folder / name / "cameras.txt").write_text(f"1 {camera}\n")
        (folder / name / "images.txt").write_text("1 1 0 0 0 0 0 0 1 0.jpg\n\n")
    (folder / "K.json").write_text(json.dumps({"images": {"*": {"K": K, "width": 48, "height": 36}}}))
    (folder / "K.txt").write_text(" ".join(str(value) for row in K for value in row))
    cameras = [folder / name for name in ("cameras.json", "transforms.json", "pinhole", "bent")]
    return [
        *(lambda path=path: read_known_cameras(path) for path in cameras),
        lambda: read_intrinsics(folder / "K.json"),
        lambda: read_intrinsics(folder / "K.txt")[0].at("0.jpg", 48, 36, folder / "K.txt"),
    ]


@pytest.mark.parametrize("case", IMPLAUSIBLE)
def test_a_camera_that_cannot_be_is_refused_in_every_format(tmp_path, case):
    values, said = IMPLAUSIBLE[case]
    for reader in written_by_all(tmp_path, *values):
        with pytest.raises(InputError, match=f"{said}.*pixels of the image of 48x36"):
            reader()


@pytest.mark.parametrize("values", PLAUSIBLE)
def test_unusual_cameras_are_taken(tmp_path, values):
    for reader in written_by_all(tmp_path, *values):
        assert reader() is not None


def test_intrinsics_of_another_size_are_scaled_if_the_shape_is_the_same(tmp_path):
    (tmp_path / "K.json").write_text(
        json.dumps({"K": [[50, 0, 24], [0, 50, 18], [0, 0, 1]], "width": 48, "height": 36})
    )
    [camera] = read_intrinsics(tmp_path / "K.json")
    assert camera.at("a", 96, 72, tmp_path)[0].tolist() == [100, 0, 48]
    for size in ((72, 96), (96, 54), (96, 96)):
        with pytest.raises(InputError, match="not the same image resized"):
            camera.at("a", *size, tmp_path)


@pytest.mark.parametrize(
    "K",
    [[["50", "0", "24"], ["0", "50", "18"], ["0", "0", "1"]], [[50, 0, 24], [0, 50, 18], [False, 0, True]], 5, {}, "x"],
)
def test_intrinsics_of_wrong_types(tmp_path, K):
    (tmp_path / "K.json").write_text(json.dumps({"K": K}))
    with pytest.raises(InputError, match="3x3 matrix"):
        read_intrinsics(tmp_path / "K.json")


def test_a_depth_map_of_another_shape_than_its_picture(tmp_path):
    from lite3r_cli.io.cameras_json import read_cameras_json
    from lite3r_cli.io.depth_files import write_depth_png

    def given(width, height):
        write_depth_png(tmp_path / "d.png", np.ones((height, width), np.float32), 1000)
        entry = {"K": [[500, 0, 240], [0, 500, 180], [0, 0, 1]], "cam_from_world": EYE[:3], "width": 480, "height": 360}
        entry |= {"depth": "d.png", "depth_scale": 1000, "depth_width": width, "depth_height": height}
        (tmp_path / "cameras.json").write_text(json.dumps({"images": {"0.jpg": entry}}))
        return read_cameras_json(tmp_path)

    assert given(252, 196) and given(480, 360)  # whole patches
    document = json.loads((tmp_path / "cameras.json").read_text())
    document["images"]["0.jpg"]["depth"] = "x" * 5000
    (tmp_path / "long.json").write_text(json.dumps(document))
    with pytest.raises(InputError) as caught:
        read_cameras_json(tmp_path / "long.json")
    assert len(str(caught.value)) < 400  # one line that can be read
    for size in ((196, 252), (252, 140), (252, 252)):
        with pytest.raises(InputError, match="another shape"):
            given(*size)
