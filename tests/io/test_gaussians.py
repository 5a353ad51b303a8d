"""splats.ply: the Gaussians are discs on the surface, and the file is what viewers of splats read."""

from __future__ import annotations

import numpy as np
from odd_scene import odd_cloud, odd_views  # noqa: F401
from plyfile import PlyData

from lite3r_cli.io.gaussians import NAMES, SH0, neighbour_distance, towards, write_gaussians
from lite3r_cli.io.scene_export import SceneExport
from lite3r_cli.scene.geometry import matrix_from_quaternion
from lite3r_cli.scene.posed_view import PointCloud, View
from lite3r_cli.scene.tracks import tracks_from_depth


def wall(slant: float = 0.3) -> tuple[list[View], PointCloud]:
    """Two cameras before the plane z = 4 + slant · x, and points of it one by one, surer to the right."""
    K = np.array([[80.0, 0, 40], [0, 80, 30], [0, 0, 1]])
    views = []
    for shift in (0.0, 0.5):
        ray = (np.tile(np.arange(80) + 0.5, (60, 1)) - 40) / 80
        depth = ((4 + slant * shift) / (1 - slant * ray)).astype("f4")
        pose = np.hstack([np.eye(3), [[-shift], [0], [0]]])
        views.append(View(f"{shift}.png", 80, 60, K, pose, depth, np.ones_like(depth)))
    x, y = np.meshgrid(np.arange(-0.8, 1.2, 0.05), np.arange(-0.8, 0.8, 0.05))
    points = np.stack([x.ravel(), y.ravel(), 4 + slant * x.ravel()], axis=1).astype("f4")
    colors = np.full((len(points), 3), (255, 0, 51), np.uint8)
    return views, PointCloud(points, colors, points[:, 0] + np.float32(2))


def read(path) -> dict[str, np.ndarray]:
    data = PlyData.read(path)["vertex"].data
    assert list(data.dtype.names) == NAMES
    return {name: np.array(data[name], dtype=float) for name in NAMES}


def test_gaussians_lie_on_the_surface(tmp_path) -> None:
    views, cloud = wall()
    scene = SceneExport(tmp_path, views, cloud, tracks_from_depth(views, cloud, 10_000))
    (path,) = write_gaussians(scene)
    rows = read(path)
    normal = np.array([0.3, 0, -1]) / np.hypot(1, 0.3)  # towards the cameras
    inner = np.abs(rows["x"] - 0.2) < 0.7
    for i in np.flatnonzero(inner)[::50]:
        w, x, y, z = (rows[f"rot_{k}"][i] for k in range(4))
        assert np.abs(matrix_from_quaternion([x, y, z, w])[:, 2] @ normal) > 0.995
    across, thin = np.exp(rows["scale_0"][inner]), np.exp(rows["scale_2"][inner])
    assert np.allclose(rows["scale_0"], rows["scale_1"]) and np.allclose(thin / across, 0.2)
    assert 0.5 < np.median(across) / 0.05 < 1.2  # the points are 0.05 apart
    color = np.stack([rows[f"f_dc_{k}"] for k in range(3)], axis=1) * SH0 + 0.5
    assert np.allclose(color, [1, 0, 0.2], atol=1e-5)
    opacity = 1 / (1 + np.exp(-rows["opacity"]))
    assert opacity.min() > 0.55 and opacity.max() < 0.99
    assert (np.diff(opacity[np.argsort(rows["x"], kind="stable")]) >= -1e-6).all()


def test_points_without_a_normal_are_balls(tmp_path, odd_views, odd_cloud) -> None:
    rows = read(write_gaussians(SceneExport(tmp_path, odd_views, odd_cloud))[0])
    assert len(rows["x"]) == len(odd_cloud) and np.array_equal(rows["scale_0"], rows["scale_2"])
    assert np.allclose(rows["rot_0"], 1)


def test_distances_to_neighbours_at_odd_sizes() -> None:
    rng = np.random.default_rng(0)
    for count in (0, 1, 2, 3, 4, 65, 1041):
        points = rng.random((count, 3)).astype("f4")
        distance = neighbour_distance(points)
        assert distance.shape == (count,) and (distance > 0).all()
        if count > 4:
            each = np.linalg.norm(points[:, None] - points, axis=2)
            true = np.sort(each, axis=1)[:, 1:4].mean(axis=1)
            assert np.allclose(distance, np.clip(true, np.median(true) / 20, 3 * np.median(true)), rtol=1e-4)
    assert (neighbour_distance(np.zeros((9, 3))) > 0).all()


def test_far_away_places_keep_their_neighbours() -> None:
    grid = np.stack(np.meshgrid(*[np.arange(5.0)] * 3), axis=-1).reshape(-1, 3) + [4e5, 5e6, 100.0]
    assert np.allclose(neighbour_distance(grid), 1, rtol=1e-3)


def test_towards_turns_z_to_the_normal() -> None:
    rng = np.random.default_rng(1)
    normals = rng.normal(size=(100, 3))
    normals = np.concatenate([normals / np.linalg.norm(normals, axis=1, keepdims=True), [[0, 0, 1], [0, 0, -1]]])
    for normal, (w, x, y, z) in zip(normals, towards(normals)):
        assert np.allclose(matrix_from_quaternion([x, y, z, w])[:, 2], normal, atol=1e-6)
