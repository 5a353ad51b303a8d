"""Malformed, left-handed or non-pinhole camera files end in one line that names the entry."""

from __future__ import annotations

import json
import os
import struct
import tracemalloc

import numpy as np
import pytest

from lite3r_cli.errors import InputError
from lite3r_cli.io.colmap import write_colmap
from lite3r_cli.io.foreign_cameras import read_known_cameras
from lite3r_cli.io.intrinsics import read_intrinsics
from lite3r_cli.io.scene_export import SceneExport
from lite3r_cli.io.tum import read_tum
from lite3r_cli.pipelines.beforehand import match_trajectory
from lite3r_cli.scene.posed_view import PointCloud, View

CLOUD = PointCloud(np.zeros((4, 3), np.float32), np.zeros((4, 3), np.uint8), np.zeros(4, np.float32))
EYE = np.eye(4).tolist()
MIRRORED = [[-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def frame(**change):
    entry = {"file_path": "images/0.jpg", "fl_x": 50, "cx": 24, "cy": 18, "w": 48, "h": 36, "transform_matrix": EYE}
    return {key: value for key, value in (entry | change).items() if value is not ...}


def read(folder, document, name="transforms.json"):
    (folder / name).write_text(document if isinstance(document, str) else json.dumps(document))
    return read_known_cameras(folder)


@pytest.mark.parametrize(
    "change, word",
    [
        ({"w": float("nan")}, "w has to be"),
        ({"h": float("inf")}, "h has to be"),
        ({"w": 10**400}, "w has to be"),
        ({"w": 48.5}, "w has to be"),
        ({"h": 0}, "h has to be"),
        ({"w": "48"}, "w has to be"),
        ({"w": True}, "w has to be"),
        ({"fl_x": -50}, "focal length"),
        ({"fl_x": None}, "fl_x has to be"),
        ({"fl_x": ...}, "fl_x has to be"),
        ({"fl_x": ..., "camera_angle_x": 4}, "camera_angle_x"),
        ({"cx": [1]}, "cx has to be"),
        ({"k1": "x"}, "k1 has to be"),
        ({"transform_matrix": 3}, "transform_matrix has to be"),
        ({"transform_matrix": [[1, 0, 0, 0]] * 2}, "transform_matrix has to be"),
        ({"transform_matrix": [[1e400] * 4] * 4}, "transform_matrix has to be"),
        ({"transform_matrix": MIRRORED}, "left-handed"),
        ({"transform_matrix": (2 * np.eye(4)).tolist()}, "rotation|0 0 0 1"),
        ({"transform_matrix": [*EYE[:3], [0, 0, 1, 1]]}, "0 0 0 1"),
        ({"file_path": 7}, "file_path"),
        ({"file_path": "a\0b"}, "file_path"),
        ({"camera_model": "THIN_PRISM"}, "THIN_PRISM camera is not known"),
        ({"camera_model": "EQUIRECTANGULAR"}, "EQUIRECTANGULAR"),
        ({"camera_model": ["PINHOLE"]}, "camera_model"),
        ({"is_fisheye": "false"}, "is_fisheye has to be true or false"),
        ({"is_fisheye": None}, "is_fisheye has to be true or false"),
        ({"is_fisheye": True, "p1": 0.1}, "OPENCV_FISHEYE camera has no p1"),
        ({"camera_model": "PINHOLE", "k1": 0.01}, "PINHOLE camera has no k1"),
        ({"k4": 0.01}, "OPENCV camera has no k4"),
        ({"camera_model": "\x1b[2J"}, "camera"),
    ],
)
def test_one_frame_is_wrong(tmp_path, change, word):
    with pytest.raises(InputError, match=word) as caught:
        read(tmp_path, {"frames": [frame(), frame(**{"file_path": "images/1.jpg"} | change)]})
    text = str(caught.value)
    assert "frames[1]" in text and len(text) < 400 and text.isprintable()


@pytest.mark.parametrize("frames", [3, "abc", {"a": 1}, None, ["text"], [[1, 2]], [None], [], [{}]])
def test_frames_of_other_types(tmp_path, frames):
    with pytest.raises(InputError, match=r"transforms\.json"):
        read(tmp_path, {"frames": frames})


def test_what_is_sound_is_taken(tmp_path):
    frames = [
        frame(camera_model="OPENCV", k1=0.0, p2=0),
        frame(file_path="images/1.jpg", w=48.0, transform_matrix=EYE[:3]),
        frame(file_path="images/2.jpg", fl_x=..., camera_angle_x=2 * np.arctan(0.5), cx=...),
    ]
    views = read(tmp_path, "\ufeff" + json.dumps({"frames": frames}))
    assert [view.name for view in views] == ["0.jpg", "1.jpg", "2.jpg"]
    assert views[2].K[0, 0] == pytest.approx(48) and views[2].K[0, 2] == 24


def test_names_keep_the_folders_that_tell_them_apart(tmp_path):
    paths = ["../data/left/0.jpg", "../data/left/1.jpg", "../data/right/0.jpg"]
    views = read(tmp_path, {"frames": [frame(file_path=path) for path in paths]})
    assert [view.name for view in views] == ["left/0.jpg", "left/1.jpg", "right/0.jpg"]
    with pytest.raises(InputError, match="two cameras for"):
        read(tmp_path, {"frames": [frame(), frame()]})


# --- COLMAP -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path):
    """A model of three images, written by us, in both forms."""
    K = np.array([[50.0, 0, 24], [0, 51, 18], [0, 0, 1]])
    views = [View(f"{i}.jpg", 48, 36 + i, K, np.eye(4)[:3] + [[0, 0, 0, i]] * np.ones((3, 1))) for i in range(3)]
    write_colmap(SceneExport(tmp_path, views, CLOUD))
    return tmp_path / "sparse/0"


def only(model, suffix):
    for path in model.iterdir():
        if path.suffix != suffix:
            path.unlink()


@pytest.mark.parametrize("suffix", [".bin", ".txt"])
def test_both_forms_are_read_and_damaged_points_do_not_matter(model, suffix):
    only(model, suffix)
    for path in model.glob("points3D*"):
        path.write_bytes(b"\xff" * 100)
    views = read_known_cameras(model)
    assert [v.name for v in views] == ["0.jpg", "1.jpg", "2.jpg"] and views[2].height == 38
    assert np.allclose(views[1].cam_from_world[:, 3], 1) and views[0].K[1, 1] == 51


def test_every_byte_of_a_binary_model_changed_and_every_cut(model):
    """A view or an InputError, never another error, and never a long wait or gigabytes."""
    only(model, ".bin")
    refused = 0
    for name in ("cameras.bin", "images.bin"):
        whole = (model / name).read_bytes()
        changes = [whole[:i] + b"\xff" + whole[i + 1 :] for i in range(len(whole))]
        for data in changes + [whole[:i] for i in range(1, len(whole))]:
            (model / name).write_bytes(data)
            try:
                for view in read_known_cameras(model):
                    assert np.isfinite(view.K).all() and view.K[0, 0] > 0 and view.width >= 1
            except InputError:
                refused += 1
        (model / name).write_bytes(whole)
    assert refused > 300


def patched(model, name, at, layout, *values):
    data = bytearray((model / name).read_bytes())
    struct.pack_into(layout, data, at, *values)
    (model / name).write_bytes(data)


@pytest.mark.parametrize(
    "name, at, layout, value, word",
    [
        ("cameras.bin", 8 + 4, "<i", 5, "which COLMAP does not have"),
        ("cameras.bin", 8 + 4, "<i", 99, "model 99"),
        ("cameras.bin", 8 + 8, "<Q", 0, "does not exist"),
        ("cameras.bin", 8 + 24, "<d", -1.0, "focal length"),
        ("cameras.bin", 8 + 24, "<d", float("nan"), "not finite"),
        ("cameras.bin", 0, "<Q", 2**60, "promises"),
        ("images.bin", 8 + 4, "<d", 7.0, "unit quaternion"),
        ("images.bin", 8 + 36, "<d", float("inf"), "finite|quaternion"),
        ("images.bin", 8 + 60, "<I", 77, "its camera 77"),
        ("images.bin", 0, "<Q", 2**50, "promises"),
        ("images.bin", 8 + 64 + 6, "<Q", 2**61, "promises"),
    ],
)
def test_values_of_a_binary_model(model, name, at, layout, value, word):
    only(model, ".bin")
    patched(model, name, at, layout, value)
    with pytest.raises(InputError, match=word):
        read_known_cameras(model)


@pytest.mark.parametrize(
    "line, word",
    [
        ("1 OPENCV_FISHEYE 48 36 50 50 24 18 0 0 0", "8 parameters, not 7"),
        ("1 OPENCV_FISHEYE 48 36 50 50 24 18 nan 0 0 0", "not finite"),
        ("1 SIMPLE_RADIAL 99999999 36 50 24 18 0.1", "does not exist"),
        ("1 PINHOLE 48 36 50 50 24", "4 parameters, not 3"),
        ("1 PINHOLE 48 36 50 nan 24 18", "not finite"),
        ("1 PINHOLE -48 36 50 50 24 18", "its width has to be a whole number from 0 to 4294967295, not -48"),
        ("-1 PINHOLE 48 36 50 50 24 18", "a camera's id has to be a whole number from 0 to .*, not -1"),
        (f"{10**20} PINHOLE 48 36 50 50 24 18", "a camera's id has to be"),
        ("1 PINHOLE 48 5000000000 50 50 24 18", "its height has to be"),
        ("1 FOO 48 36 1", "FOO"),
        ("1 PINHOLE", "2 words"),
        ("1 EQUIRECTANGULAR 48 36 48 36", "EQUIRECTANGULAR"),
    ],
)
def test_values_of_a_text_model(model, line, word):
    only(model, ".txt")
    (model / "cameras.txt").write_text(line + "\n")
    with pytest.raises(InputError, match=word):
        read_known_cameras(model)


@pytest.mark.parametrize("name", ["b.jpg", "7", "b 2 3.png"])
def test_an_images_text_without_its_empty_lines_is_refused(model, name):
    """Every second camera would be taken for the points of the one above."""
    only(model, ".txt")
    pose = "1 0 0 0 0 0 0 1"
    lines = ["# comment", f"1 {pose} a.jpg", "", f"2 {pose} a2.jpg", "1.5 2 -1 3 4 7", f"3 {pose} {name}"]
    (model / "images.txt").write_text("\n".join(lines))
    assert len(read_known_cameras(model)) == 3
    (model / "images.txt").write_text("\n".join([*lines, f"4 {pose} {name}4", ""]))
    with pytest.raises(InputError, match=r"images\.txt: line 7: .*two lines.*empty"):
        read_known_cameras(model)
    (model / "images.txt").write_text("\n".join(line for line in lines if line))
    with pytest.raises(InputError, match=r"images\.txt: line 3: "):
        read_known_cameras(model)


def test_a_lens_whose_parameters_are_zero_is_a_pinhole(model):
    only(model, ".txt")
    lines = [f"{i} OPENCV 48 {35 + i} 50 51 24 18 0 0 0 0" for i in (1, 2, 3)]
    (model / "cameras.txt").write_text("\n".join(lines))
    assert len(read_known_cameras(model)) == 3


@pytest.mark.parametrize("suffix", [".bin", ".txt"])
def test_names_that_are_not_utf8(model, suffix):
    only(model, suffix)
    path = model / f"images{suffix}"
    path.write_bytes(path.read_bytes().replace(b"1.jpg", b"\xe9.jpg"))
    assert [view.name for view in read_known_cameras(model)] == ["0.jpg", "_.jpg", "2.jpg"]


# --- special files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("special", ["pipe", "zero"])
def test_special_files_never_hang(tmp_path, model, special):
    def put(path):
        path.parent.mkdir(exist_ok=True)
        os.mkfifo(path) if special == "pipe" else os.symlink("/dev/zero", path)
        return path

    (model / "images.bin").unlink()
    put(model / "images.bin")
    depth = {"depth": "depth.png", "depth_scale": 1, "K": np.eye(3).tolist(), "width": 4, "height": 4}
    camera = {"images": {"a.jpg": depth | {"cam_from_world": np.eye(4)[:3].tolist()}}}
    (tmp_path / "cameras.json").write_text(json.dumps(camera))
    put(tmp_path / "depth.png")
    from lite3r_cli.io.cameras_json import read_cameras_json
    from lite3r_cli.io.ply import read_ply

    for reader in (
        lambda: read_cameras_json(tmp_path),
        lambda: read_cameras_json(put(tmp_path / "b.json")),
        lambda: read_tum(put(tmp_path / "c.txt")),
        lambda: read_ply(put(tmp_path / "d.ply")),
        lambda: read_intrinsics(put(tmp_path / "e.json")),
    ):
        with pytest.raises(Exception) as caught:
            reader()
        assert isinstance(caught.value, InputError) or "no such file" in str(caught.value)
    (model / "images.txt").unlink()
    with pytest.raises(Exception, match="no COLMAP model|pipe|device"):
        read_known_cameras(model)


def test_a_depth_map_that_promises_gigabytes(tmp_path):
    import zlib

    from lite3r_cli.io.depth_files import read_depth_png

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    for colour, depth in ((0, 16), (3, 8)):
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", 1000, 1 << 20, depth, colour, 0, 0, 0))
        data = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(100_000))) + chunk(b"IEND", b"")
        (tmp_path / "d.png").write_bytes(data)
        with pytest.raises(InputError, match=r"d\.png"):
            read_depth_png(tmp_path / "d.png", 1.0)


def test_a_cloud_that_promises_gigabytes(tmp_path):
    from lite3r_cli.io.ply import read_ply

    for count in (10**11, 10**30):
        (tmp_path / "a.ply").write_text(
            f"ply\nformat binary_little_endian 1.0\nelement vertex {count}\nproperty float x\nend_header\n"
        )
        with pytest.raises(InputError, match="promises"):
            read_ply(tmp_path / "a.ply")


# --- trajectories -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keys, said",
    [
        (("1", "nan"), "line 2: the time nan is no time"),
        (("inf", "2"), "line 1: the time inf is no time"),
        (("1e400", "2"), "is no time"),
        (("1", "b.png"), "line 2: b.png is no time, unlike other lines"),
        (("a.png", "2"), "line 1: a.png is no time"),
        (("1", "1.0"), "line 2: the time 1.0 comes twice"),
        (("3", "2"), "line 2: the time 2 is before"),
        (("a.png", "a.png"), "line 2: a.png has a pose already"),
        (("-", "-"), "line 2: - has a pose already"),
    ],
)
def test_times_of_a_trajectory_are_checked(tmp_path, keys, said):
    (tmp_path / "t.txt").write_text("".join(f"{key} 0 0 0 0 0 0 1\n" for key in keys))
    with pytest.raises(InputError, match=said):
        read_tum(tmp_path / "t.txt")


@pytest.mark.parametrize(
    "line, number",
    [("1 0 0 0 0 0 0 2", 3), ("1 0 0 1e300 0 0 0 1", 3), ("1 0 0 x 0 0 0 1", 3), ("1 0 0 0 0 0 1", 3), ("1", 3)],
)
def test_poses_of_a_trajectory_are_checked(tmp_path, line, number):
    (tmp_path / "t.txt").write_text(f"# a comment\n0 0 0 0 0 0 0 1\n{line}\n2 0 0 0 0 0 0 1\n")
    with pytest.raises(InputError, match=rf"t\.txt: line {number}: .*unit quaternion"):
        read_tum(tmp_path / "t.txt")


def test_a_long_trajectory_costs_no_more_than_its_lines():
    """An hour at 200 Hz and many images: memory must not grow with times × images."""
    times = [f"{1403636579 + i / 200:.3f}" for i in range(50_000)]
    names = [f"{1403636579 + i:.3f}.png" for i in range(240)]
    tracemalloc.start()
    found = match_trajectory(times, [*names, "1403630000.000.png", "b.png"])
    assert tracemalloc.get_traced_memory()[1] < 40e6  # the table takes 97 MB
    tracemalloc.stop()
    assert found == [*range(0, 240 * 200, 200), None, None]


def test_what_follows_the_point_of_a_time_is_no_suffix():
    assert match_trajectory(["0.0", "0.1", "0.9", "1.0"], ["0.png", "1.png"]) == [0, 3]
    assert match_trajectory(["left/a.png", "left/b.png"], ["b.jpg", "a.png"]) == [1, 0]


@pytest.mark.parametrize(
    "keys",
    [
        ("0", "1"),
        ("1305031102.1758", "1305031102.2"),
        ("b.png", "a.png"),
        ("1403636579763555584", "1403636579863555584"),
    ],
)
def test_times_and_names_of_a_trajectory_are_taken(tmp_path, keys):
    (tmp_path / "t.txt").write_text("".join(f"{key} 0 0 0 0 0 0 1\n" for key in keys))
    assert [key for key, _ in read_tum(tmp_path / "t.txt")] == list(keys)
