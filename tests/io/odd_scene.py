"""Fixtures: a scene of odd sizes with three views (landscape, portrait, the first camera again) and 37 points."""

from __future__ import annotations

import numpy as np
import pytest

from lite3r_cli.scene.geometry import matrix_from_quaternion
from lite3r_cli.scene.posed_view import PointCloud, View


def _view(name: str, width: int, height: int, focal: float, quaternion: list[float], centre: list[float]) -> View:
    rotation = matrix_from_quaternion(quaternion)
    K = np.array([[focal, 0, width / 2 + 0.25], [0, 1.01 * focal, height / 2 - 0.75], [0, 0, 1]])
    rng = np.random.default_rng(width)
    depth = rng.uniform(0.7, 9.1, (height // 3, width // 3)).astype(np.float32)
    depth[0, :2] = 0
    pose = np.hstack([rotation, -rotation @ np.array(centre)[:, None]])
    confidence = np.where(depth > 0, rng.uniform(1, 5, depth.shape), 0).astype(np.float32)
    return View(name, width, height, K, pose, depth, confidence)


@pytest.fixture
def odd_views() -> list[View]:
    return [
        _view("a b.jpg", 63, 41, 50.3, [0, 0, 0, 1], [0, 0, 0]),
        _view("ü.png", 37, 65, 71.9, [0.1, -0.4, 0.2, 0.9], [0.5, -0.25, 0.125]),
        _view("img10.jpg", 63, 41, 50.3, [0.9, 0.1, 0.1, -0.2], [-1.5, 0.1, 2.0]),
    ]


@pytest.fixture
def odd_cloud() -> PointCloud:
    rng = np.random.default_rng(5)
    points = rng.normal(scale=0.7, size=(37, 3)).astype(np.float32) + np.float32([0, 0, 4])
    return PointCloud(points, rng.integers(0, 256, (37, 3), dtype=np.uint8), rng.uniform(1, 9, 37).astype(np.float32))
