from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from odd_scene import odd_cloud  # noqa: F401
from plyfile import PlyData, PlyElement

from lite3r_cli.errors import InputError
from lite3r_cli.io.ply import VERTEX, read_ply, write_ply
from lite3r_cli.scene.posed_view import PointCloud


@pytest.mark.parametrize("count", [0, 1, 37])
def test_what_is_written_is_read_back(tmp_path: Path, odd_cloud: PointCloud, count: int) -> None:
    cloud = PointCloud(odd_cloud.points[:count], odd_cloud.colors[:count], odd_cloud.confidence[:count])
    write_ply(tmp_path / "a.ply", cloud)
    back = read_ply(tmp_path / "a.ply")
    for name in ("points", "colors", "confidence"):
        expected, found = getattr(cloud, name), getattr(back, name)
        assert found.dtype == expected.dtype and found.shape == expected.shape and np.array_equal(found, expected)
    write_ply(tmp_path / "b.ply", cloud)
    assert (tmp_path / "a.ply").read_bytes() == (tmp_path / "b.ply").read_bytes()


def test_header(tmp_path: Path, odd_cloud: PointCloud) -> None:
    write_ply(tmp_path / "a.ply", odd_cloud, comments=["frame: first\ncamera", "units: µm"])
    ply = PlyData.read(str(tmp_path / "a.ply"))
    properties = [(p.name, np.dtype(p.dtype("<"))) for p in ply["vertex"].properties]
    names = ["x", "y", "z", "red", "green", "blue", "confidence"]
    assert properties == list(zip(names, map(np.dtype, ["<f4", "<f4", "<f4", "u1", "u1", "u1", "<f4"])))
    assert (ply.byte_order, ply.text) == ("<", False)
    assert ply.comments == ["frame: first camera", "units: \\xb5m"]
    write_ply(tmp_path / "b.ply", odd_cloud)
    comments = PlyData.read(str(tmp_path / "b.ply")).comments
    assert any(c.startswith("frame: ") for c in comments) and any(c.startswith("units: ") for c in comments)


def test_damaged_files_are_named(tmp_path: Path, odd_cloud: PointCloud) -> None:
    path = tmp_path / "a.ply"
    with pytest.raises(InputError, match="a.ply"):
        read_ply(path)
    write_ply(path, odd_cloud)
    whole = path.read_bytes()
    plain = b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n0\n"
    lists = [whole.replace(b"float " + name, b"list uchar float " + name) for name in (b"x", b"confidence")]
    lists += [whole.replace(b"uchar red", b"list uchar uchar red"), whole.replace(b"uchar red", b"float red")]
    faces = whole.replace(b"end_header", b"element face 200000\nproperty list uchar int of\nend_header")
    faces += bytes(200_000)
    for data in (b"", b"not a ply", whole[:-1], plain, whole.replace(b"vertex", b"vortex"), *lists, faces):
        path.write_bytes(data)
        with pytest.raises(InputError, match="a.ply") as caught:
            read_ply(path)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize(("kind", "value", "is_sound"), [("u2", 255, True), ("u2", 256, False), ("i2", -1, False),
                                                        ("f4", 0.5, False), ("f8", np.nan, False)])  # fmt: skip
def test_colours_are_not_silently_made_fit(tmp_path: Path, kind: str, value: float, is_sound: bool) -> None:
    fields = [(name, kind if name in ("red", "green", "blue") else kind_of) for name, kind_of in VERTEX.descr]
    vertices = np.full(3, 0, dtype=fields)
    vertices["green"] = value
    PlyData([PlyElement.describe(vertices, "vertex")], byte_order="<").write(str(tmp_path / "a.ply"))
    if is_sound:
        assert read_ply(tmp_path / "a.ply").colors.tolist() == [[0, 255, 0]] * 3
    else:
        with pytest.raises(InputError, match=r"a\.ply: its colours are no whole numbers from 0 to 255"):
            read_ply(tmp_path / "a.ply")
