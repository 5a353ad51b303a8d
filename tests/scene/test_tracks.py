"""Tracks from depth maps: a point is seen where it lies on the map's surface, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from lite3r_cli.scene.posed_view import PointCloud, View
from lite3r_cli.scene.tracks import joined, tracks_from_depth

K = np.array([[60.0, 0, 40], [0, 60, 30], [0, 0, 1]])


def wall(x: float, distance: float = 4.0, near: float | None = None) -> View:
    """A camera at (x, 0, 0) that looks along z at a wall, the left third of its map at `near`."""
    depth = np.full((30, 40), distance, np.float32)
    if near is not None:
        depth[:, :13] = near
    pose = np.hstack([np.eye(3), [[-x], [0], [0]]])
    return View(f"{x}.jpg", 80, 60, K, pose, depth)


def cloud(count: int = 4000) -> PointCloud:
    rng = np.random.default_rng(0)
    points = np.column_stack([rng.uniform(-2, 2, count), rng.uniform(-1.4, 1.4, count), np.full(count, 4.0)])
    return PointCloud(points.astype(np.float32), np.zeros((count, 3), np.uint8), np.ones(count, np.float32))


def test_every_observation_is_the_points_projection_and_hidden_points_are_not_seen() -> None:
    views = [wall(0.0), wall(0.5), wall(-0.5, near=2.0)]
    model = tracks_from_depth(views, cloud(), most=100_000)
    for i, view in enumerate(views):
        point, pixel = model.of_view(i)
        camera = model.points[point] @ view.cam_from_world[:, :3].T + view.cam_from_world[:, 3]
        assert np.allclose(pixel, (camera @ K.T)[:, :2] / camera[:, 2:])
        assert (pixel >= 0).all() and (pixel < (80, 60)).all()
    assert (model.of_view(2)[1][:, 0] >= 26).all()  # what stands in front hides the wall
    assert np.bincount(model.point).min() >= 2 and model.errors.max() < 1e-3
    assert (np.diff(model.image) >= 0).all()


def test_disagreeing_depth_shows_in_the_error() -> None:
    exact = tracks_from_depth([wall(0.0), wall(0.5)], cloud(), 1000)
    off = tracks_from_depth([wall(0.0, 4.03), wall(0.5, 3.97)], cloud(), 1000)
    # 0.03 off at a distance of 4 with a baseline of 0.5 moves a point by 60 · 0.5 · 0.03 / 4² pixels
    assert exact.errors.max() < 1e-3 and np.median(off.errors) == pytest.approx(60 * 0.5 * 0.03 / 16, rel=0.05)


def test_few_points_are_spread_over_the_scene() -> None:
    crowd = cloud(3000)
    crowd.points[:2500, :2] *= 0.1  # most of them in the middle
    model = tracks_from_depth([wall(0.0), wall(0.2)], crowd, most=200)
    assert 100 < len(model) <= 200
    assert (np.abs(model.points[:, 0]) > 0.5).mean() > 0.35  # an eighth of the cloud


def test_nothing_to_see_and_joined_models() -> None:
    empty = PointCloud(np.zeros((0, 3), "f4"), np.zeros((0, 3), "u1"), np.zeros(0, "f4"))
    nothing = tracks_from_depth([wall(0.0), wall(0.5)], empty, 10)
    assert len(nothing) == 0 and nothing.pixel.shape == (0, 2)
    one = tracks_from_depth([wall(0.0), wall(0.5)], cloud(50), 100)
    both = joined(one, one)
    assert len(both) == 2 * len(one) and len(joined(nothing, one)) == len(one)
    point, _ = both.of_view(1)
    assert np.array_equal(np.sort(point), np.sort(np.concatenate([one.of_view(1)[0], one.of_view(1)[0] + len(one)])))
