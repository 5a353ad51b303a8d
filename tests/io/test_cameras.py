from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from odd_scene import odd_views  # noqa: F401

from lite3r_cli.errors import InputError
from lite3r_cli.io.cameras_json import read_cameras_json, write_cameras_json
from lite3r_cli.io.depth_files import write_depth_png
from lite3r_cli.io.natural import natural_key
from lite3r_cli.scene.posed_view import View


def write_scene(folder: Path, views: list[View]) -> Path:
    files = [f"depth/{index}.png" for index in range(len(views))]
    scales = [write_depth_png(folder / file, view.depth) for file, view in zip(files, views)]
    write_cameras_json(folder / "cameras.json", views, files, scales)
    return folder / "cameras.json"


def test_what_is_written_is_read_back(tmp_path: Path, odd_views: list[View]) -> None:
    path = write_scene(tmp_path, odd_views)
    back = read_cameras_json(tmp_path)
    assert [view.name for view in back] == ["a b.jpg", "img10.jpg", "ü.png"]
    for view in back:
        expected = next(v for v in odd_views if v.name == view.name)
        assert (view.width, view.height) == (expected.width, expected.height)
        assert np.array_equal(view.K, expected.K) and np.array_equal(view.cam_from_world, expected.cam_from_world)
        assert view.depth.shape == expected.depth.shape and np.allclose(view.depth, expected.depth, atol=1e-4)
    assert all(view.depth is None for view in read_cameras_json(path, load_depth=False))
    first = path.read_bytes()
    write_scene(tmp_path, odd_views)
    assert path.read_bytes() == first


def test_natural_order() -> None:
    names = ["img10.jpg", "IMG2.jpg", "img02.jpg", "img1.jpg", "10.jpg", "9.jpg", "a.jpg", "img2b.jpg"]
    names.append(f"{'9' * 5000}.jpg")
    ordered = sorted(names, key=natural_key)
    assert ordered[:2] == ["9.jpg", "10.jpg"] and ordered[2].startswith("999")
    assert ordered[3:] == ["a.jpg", "img1.jpg", "IMG2.jpg", "img02.jpg", "img2b.jpg", "img10.jpg"]


def test_one_scale_at_the_top(tmp_path: Path, odd_views: list[View]) -> None:
    path = write_scene(tmp_path, odd_views[:1])
    document = json.loads(path.read_text())
    document["depth_scale"] = document["images"]["a b.jpg"].pop("depth_scale")
    path.write_text(json.dumps(document))
    assert np.allclose(read_cameras_json(path)[0].depth, odd_views[0].depth, atol=1e-4)


BAD = {
    "images": [{}, [], None],
    "K": [None, [[1, 0, 0], [0, 1, 0]], [[1, 0, 0], [0, 1, 0], [0, 0, 2]], [[9, 1, 0], [0, 9, 0], [0, 0, 1]],
          *([[fx, 0, 0], [0, 1, 0], [0, 0, 1]] for fx in (-1, float("nan"), "1", 10**400, True))],
    "cam_from_world": [None, np.eye(4).tolist(), (2 * np.eye(3, 4)).tolist(), np.diag([1.0, 1, -1, 1])[:3].tolist()],
    "width": [None, 0, 7.5, True, "64"],
    "height": [-3],
    "depth": [7, "", "missing.png", "\0", "eight-bit.png", ["depth/0.png"]],
    "depth_scale": [0, "1000", float("inf"), None, 10**400],
    "depth_width": [5, "x"],
}  # fmt: skip


@pytest.mark.parametrize("key,value", [(key, value) for key, values in BAD.items() for value in values])
def test_a_malformed_value_is_named(tmp_path: Path, odd_views: list[View], key: str, value: object) -> None:
    path = write_scene(tmp_path, odd_views[:1])
    (tmp_path / "eight-bit.png").write_bytes(b"")
    document = json.loads(path.read_text())
    (document if key == "images" else document["images"]["a b.jpg"])[key] = value
    path.write_text(json.dumps(document))
    with pytest.raises(InputError) as caught:
        read_cameras_json(path)
    message = str(caught.value)
    assert "\n" not in message and str(tmp_path) in message and (key in message or str(value) in message)
    assert len(message) < 300 + len(str(path))


@pytest.mark.parametrize(
    "data", [b"", b"[1]", b"{", b"\xff\xfe", b'{"images": {"a.jpg": 1}}', b'{"images": {"a.jpg": {}}}', b"[" * 100_000]
)
def test_a_damaged_file_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "cameras.json").write_bytes(data)
    with pytest.raises(InputError, match="cameras.json"):
        read_cameras_json(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match="cannot be read"):
            read_cameras_json(path)
