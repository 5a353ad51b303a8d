"""Known cameras from COLMAP and nerfstudio files: what we write is read back, with lens distortion."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from lite3r_cli.errors import InputError, UsageError
from lite3r_cli.io.cameras_json import write_cameras_json
from lite3r_cli.io.colmap import write_colmap
from lite3r_cli.io.foreign_cameras import read_known_cameras
from lite3r_cli.io.nerfstudio import write_nerfstudio
from lite3r_cli.io.scene_export import SceneExport
from lite3r_cli.scene import geometry
from lite3r_cli.scene.distortion import DistortedCamera
from lite3r_cli.scene.posed_view import PointCloud, View
from lite3r_cli.world.undistort import Undistortion, undistorted_view

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


LENSES = {
    "OPENCV": (90.0, 91.0, 50.0, 38.0, -0.1, 0.02, 0.001, -0.002), "SIMPLE_RADIAL": (90.0, 50.0, 38.0, -0.1),
    "OPENCV_FISHEYE": (60.0, 60.0, 50.0, 38.0, 0.02, -0.01, 0.003, 0.001),
    "RADIAL_FISHEYE": (60.0, 50.0, 38.0, 0.02, 0.01),
}  # fmt: skip


@pytest.mark.parametrize("model", LENSES)
def test_lenses_that_bend_lines_are_read_back(views, tmp_path, model):
    """K is the undistorted picture's, whichever file says so."""
    bent = []
    for view in views:
        lens = DistortedCamera(model, LENSES[model], view.width, view.height)
        bent.append(undistorted_view(view, Undistortion(lens)))
    write_cameras_json(tmp_path / "own" / "cameras.json", bent)
    write_nerfstudio(SceneExport(tmp_path / "nerf", bent, EMPTY, distorted=True))
    write_colmap(SceneExport(tmp_path / "colmap", bent, EMPTY, distorted=True))
    for path in ("own", "nerf", "colmap"):
        read = [undistorted_view(view, Undistortion(view.lens)) for view in read_known_cameras(tmp_path / path)]
        assert same(read, bent), path
        rays = np.c_[np.random.default_rng(0).uniform(-0.4, 0.4, (20, 2)), np.ones(20)]
        for found, view in zip(read, bent):
            np.testing.assert_allclose(found.lens.pixels(rays), view.lens.pixels(rays), atol=1e-9)
    write_nerfstudio(SceneExport(tmp_path / "plain", bent, EMPTY))
    assert same(read_known_cameras(tmp_path / "plain"), bent) and read_known_cameras(tmp_path / "plain")[0].lens is None


def test_a_third_radial_term_and_a_lens_that_transforms_json_cannot_say(views, tmp_path):
    write_nerfstudio(SceneExport(tmp_path, views, EMPTY))
    document = json.loads((tmp_path / "transforms.json").read_text()) | {
        "camera_model": "OPENCV",
        "k1": -0.1,
        "k3": 0.01,
    }
    (tmp_path / "transforms.json").write_text(json.dumps(document))
    lens = read_known_cameras(tmp_path)[0].lens
    assert lens.model == "FULL_OPENCV" and lens.params[4:] == (-0.1, 0, 0, 0, 0.01, 0, 0, 0)
    view = replace(views[0], lens=lens)
    with pytest.raises(UsageError, match="FULL_OPENCV"):
        write_nerfstudio(SceneExport(tmp_path, [view], EMPTY, distorted=True))


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
