"""Known cameras from COLMAP and nerfstudio files: what we write is read back, what is not a pinhole is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lite3r_cli.errors import InputError, UsageError
from lite3r_cli.io.cameras import write_cameras_json
from lite3r_cli.io.colmap import write_colmap
from lite3r_cli.io.foreign_cameras import read_known_cameras
from lite3r_cli.io.nerfstudio import write_nerfstudio
from lite3r_cli.io.scene_export import SceneExport
from lite3r_cli.scene import geometry
from lite3r_cli.scene.view import PointCloud, View

EMPTY = PointCloud(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8), np.zeros(0, np.float32))


@pytest.fixture
def views():
    result = []
    for i in range(3):
        turn = geometry.matrix_from_quaternion(
            np.array([0.1 * i, -0.2, 0.05, 1.0]) / np.linalg.norm([0.1 * i, -0.2, 0.05, 1])
        )
        pose = np.hstack([turn, [[0.3 * i], [-1.0], [2.0]]])
        result.append(View(f"photo {i}.jpg", 91, 67, np.array([[80.0 + i, 0, 45], [0, 81, 33], [0, 0, 1]]), pose))
    return result


def same(read, views) -> bool:
    read = sorted(read, key=lambda view: view.name)
    names = [view.name for view in read] == [view.name for view in views]
    sizes = all((a.width, a.height) == (b.width, b.height) for a, b in zip(read, views))
    return (
        names
        and sizes
        and all(
            np.allclose(a.K, b.K) and np.allclose(a.cam_from_world, b.cam_from_world, atol=1e-9)
            for a, b in zip(read, views)
        )
    )


def test_every_format_is_read_back(views, tmp_path):
    pytest.importorskip("pycolmap")
    write_cameras_json(tmp_path / "own" / "cameras.json", views)
    write_nerfstudio(SceneExport(tmp_path / "nerf", views, EMPTY))
    write_colmap(SceneExport(tmp_path / "colmap", views, EMPTY))
    for path in ("own", "own/cameras.json", "nerf", "nerf/transforms.json", "colmap", "colmap/sparse/0"):
        assert same(read_known_cameras(tmp_path / path), views), path


def test_distortion_is_refused(views, tmp_path):
    write_nerfstudio(SceneExport(tmp_path, views, EMPTY))
    document = json.loads((tmp_path / "transforms.json").read_text())
    (tmp_path / "transforms.json").write_text(json.dumps({**document, "k1": 0.1}))
    with pytest.raises(InputError, match="undistort"):
        read_known_cameras(tmp_path)


def test_broken_files_are_named(views, tmp_path):
    with pytest.raises(UsageError, match="no cameras.json"):
        read_known_cameras(tmp_path)
    with pytest.raises(UsageError, match="no such file"):
        read_known_cameras(tmp_path / "missing")
    write_nerfstudio(SceneExport(tmp_path, views, EMPTY))
    document = json.loads((tmp_path / "transforms.json").read_text())
    document["frames"][1]["transform_matrix"] = [[1, 2], [3, 4]]
    (tmp_path / "transforms.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"frames\[1\]"):
        read_known_cameras(tmp_path)
    (tmp_path / "transforms.json").write_text("{")
    with pytest.raises(InputError, match="JSON"):
        read_known_cameras(tmp_path)
