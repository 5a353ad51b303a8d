"""Camera text files: Windows encodings, non-text contents, and error messages."""

from __future__ import annotations

import json
import os

import pytest
from test_hostile_cameras import frame, model, only  # noqa: F401, a fixture

from lite3r_cli.errors import InputError
from lite3r_cli.io.foreign_cameras import read_known_cameras
from lite3r_cli.io.intrinsics import read_intrinsics
from lite3r_cli.io.tum import read_tum


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_encodings_of_windows(tmp_path, encoding):
    text = json.dumps({"frames": [frame(file_path="images/ä.jpg")]}, ensure_ascii=False)
    data = (b"\xfe\xff" if encoding == "utf-16-be" else b"") + text.encode(encoding)
    (tmp_path / "transforms.json").write_bytes(data)
    assert read_known_cameras(tmp_path)[0].name == "ä.jpg"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be", "latin-1"])
def test_other_encodings_are_named_as_such(tmp_path, encoding):
    text = json.dumps({"frames": [frame(file_path="images/ä.jpg")]}, ensure_ascii=False)
    (tmp_path / "transforms.json").write_bytes(text.encode(encoding))
    with pytest.raises(InputError, match=r"transforms\.json: is no text file in UTF-8.*save it as UTF-8"):
        read_known_cameras(tmp_path)


def test_a_byte_order_mark_in_colmap_text(model):
    only(model, ".txt")
    for name in ("cameras.txt", "images.txt"):
        (model / name).write_bytes(b"\xef\xbb\xbf" + (model / name).read_bytes())
    assert len(read_known_cameras(model)) == 3


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_colmap_text_in_utf16(model, encoding):
    only(model, ".txt")
    for path in model.glob("*.txt"):
        text = path.read_text().replace("1.jpg", "ä.jpg")
        path.write_bytes((b"\xfe\xff" if encoding == "utf-16-be" else b"") + text.encode(encoding))
    assert [view.name for view in read_known_cameras(model)] == ["0.jpg", "ä.jpg", "2.jpg"]


@pytest.mark.parametrize("reader", [read_known_cameras, read_intrinsics, read_tum])
def test_no_words_of_a_library_in_messages(tmp_path, reader):
    for data in (
        b"\xff\xd8\xff\xe0\0\x10JFIF",
        b"\x93NUMPY\x01\0v\0",
        b"\xff\xfe{\xd8",
        b'{"K": ' + b"1" * 5001 + b"}",
    ):
        (tmp_path / "c.json").write_bytes(data)
        with pytest.raises(InputError) as caught:
            reader(tmp_path / "c.json")
        assert not any(word in str(caught.value) for word in ("codec", "decode", "sys.set_int", "exceeds", "0x"))


@pytest.mark.parametrize("name", ["transforms.json", "K.json"])
def test_json_that_is_nested_too_deeply_says_so(tmp_path, name):
    (tmp_path / name).write_text("[" * 200_000)
    with pytest.raises(InputError, match=rf"{name}.*nested too deeply"):
        (read_intrinsics if name == "K.json" else read_known_cameras)(tmp_path / name)


@pytest.mark.parametrize("reader", [read_known_cameras, read_intrinsics])
def test_what_is_no_file_is_called_what_it_is(tmp_path, reader):
    os.mkfifo(tmp_path / "pipe")
    os.symlink(tmp_path / "nothing", tmp_path / "link")
    (tmp_path / "empty.json").write_bytes(b"")
    kinds = {"/dev/zero": "a device", "pipe": "a named pipe", "link": "a link to nothing", "empty.json": "empty"}
    for name, said in kinds.items():
        with pytest.raises(InputError, match=said):
            reader(tmp_path / name)


def test_a_pose_of_kitti_is_called_so(tmp_path):
    (tmp_path / "poses.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0\n" * 2)
    with pytest.raises(InputError, match=r"line 1: has 12 columns \(.*KITTI.*time tx ty tz"):
        read_tum(tmp_path / "poses.txt")


@pytest.mark.parametrize("text", ["<?xml version='1.0'?><a/>", "NVM_V3\n3\n", "name,x,y\na,1,2\n", "null", "[]", "{}"])
def test_a_file_of_another_kind_names_what_is_taken(tmp_path, text):
    (tmp_path / "transforms.json").write_text(text)
    with pytest.raises(InputError, match=r"--cameras takes a cameras\.json, a transforms\.json, a COLMAP folder"):
        read_known_cameras(tmp_path)


@pytest.mark.parametrize(
    "change, word",
    [
        ({"w": ..., "h": ...}, "has no w and no h: .*camera_angle_x"),
        ({"h": ...}, "has no h: "),
        ({"fl_x": ...}, "fl_x has to be .* is missing"),
        ({"transform_matrix": ...}, "transform_matrix has to be .* is missing"),
    ],
)
def test_a_missing_key_is_called_missing(tmp_path, change, word):
    (tmp_path / "transforms.json").write_text(json.dumps({"frames": [frame(**change)]}))
    with pytest.raises(InputError, match=word) as caught:
        read_known_cameras(tmp_path)
    assert "None" not in str(caught.value)


@pytest.mark.parametrize("folder", ["C:\\data\\images\\", "C:\\data/images\\", "images\\", ".\\", "\\\\host\\x\\"])
def test_paths_of_windows(tmp_path, folder):
    frames = [frame(file_path=folder + name) for name in ("a.jpg", "b.jpg")]
    (tmp_path / "transforms.json").write_text(json.dumps({"frames": frames}))
    assert [view.name for view in read_known_cameras(tmp_path)] == ["a.jpg", "b.jpg"]
    frames = [frame(file_path=folder + name) for name in ("l\\a.jpg", "r\\a.jpg")]
    (tmp_path / "transforms.json").write_text(json.dumps({"frames": frames}))
    assert [view.name for view in read_known_cameras(tmp_path)] == ["l/a.jpg", "r/a.jpg"]
