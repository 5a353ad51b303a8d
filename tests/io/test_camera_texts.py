"""Texts of cameras: encodings of Windows, what is no text, and messages in words of our own."""

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
