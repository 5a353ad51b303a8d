from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from lite3r_cli.io.frusta import ACCENT
from lite3r_cli.io.preview import render_preview
from lite3r_cli.scene.geometry import matrix_from_quaternion
from lite3r_cli.scene.posed_view import PointCloud, View

SIZE = (321, 243)
RED, BLUE = (250, 10, 10), (10, 10, 250)


def wall(z: float, half: float, colour: tuple[int, int, int], count: int = 4000) -> PointCloud:
    """A square facing the first camera."""
    xy = np.random.default_rng(0).uniform(-half, half, (count, 2))
    points = np.column_stack([xy, np.full(count, z)]).astype(np.float32)
    return PointCloud(points, np.tile(np.uint8(colour), (count, 1)), np.ones(count, np.float32))


def join(*clouds: PointCloud) -> PointCloud:
    return PointCloud(*(np.concatenate([getattr(c, f) for c in clouds]) for f in ("points", "colors", "confidence")))


def line_of_cameras(count: int) -> list[View]:
    K = np.array([[50.0, 0, 31.5], [0, 50, 20.5], [0, 0, 1]])
    poses = [np.hstack([np.eye(3), [[-0.3 * i], [0], [0]]]) for i in range(count)]
    return [View(f"{i}.jpg", 63, 41, K, pose) for i, pose in enumerate(poses)]


def draw(path: Path, cloud: PointCloud, views: list[View]) -> np.ndarray:
    render_preview(path, cloud, views, SIZE)
    picture = cv2.imread(str(path))
    assert picture.shape == (SIZE[1], SIZE[0], 3)
    return picture[..., ::-1].astype(int)


def near_colour(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """(H, W) bool, whatever the shading."""
    bright = picture / np.maximum(np.linalg.norm(picture, axis=-1, keepdims=True), 1)
    return (bright @ (np.array(colour) / np.linalg.norm(colour)) > 0.97) & (picture.max(axis=-1) > 90)


@pytest.mark.parametrize("views", [1, 3])
def test_the_cloud_fills_the_picture_and_every_camera_is_there(tmp_path: Path, views: int) -> None:
    picture = draw(tmp_path / "a.png", wall(4, 2, BLUE), line_of_cameras(views))
    seen = near_colour(picture, BLUE)
    assert seen.mean() > 0.25
    closed = cv2.morphologyEx(seen.astype(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    assert closed.sum() > 0.8 * seen.sum()  # a surface, not a spray of dots
    assert near_colour(picture, ACCENT).sum() > 20 * views
    render_preview(tmp_path / "b.png", wall(4, 2, BLUE), line_of_cameras(views), SIZE)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_what_is_in_front_hides_what_is_behind(tmp_path: Path) -> None:
    front, back = wall(4, 2, BLUE), wall(6, 1, RED)
    for cloud in (join(front, back), join(back, front)):
        picture = draw(tmp_path / "a.png", cloud, line_of_cameras(3))
        assert near_colour(picture, RED).sum() < 0.05 * near_colour(picture, BLUE).sum()
    swapped = draw(tmp_path / "a.png", join(wall(6, 2, BLUE), wall(4, 1, RED)), line_of_cameras(3))
    assert near_colour(swapped, RED).sum() > 0.2 * near_colour(swapped, BLUE).sum()


def test_outliers_do_not_shrink_the_scene(tmp_path: Path) -> None:
    clean = near_colour(draw(tmp_path / "a.png", wall(4, 2, BLUE), line_of_cameras(3)), BLUE).sum()
    cloud = join(wall(4, 2, BLUE), wall(1e4, 1e4, BLUE, count=60))
    assert near_colour(draw(tmp_path / "b.png", cloud, line_of_cameras(3)), BLUE).sum() > 0.9 * clean


@pytest.mark.parametrize("count", [0, 1])
def test_next_to_no_points(tmp_path: Path, count: int) -> None:
    cloud = wall(4, 0.0, BLUE, count)
    assert near_colour(draw(tmp_path / "a.png", cloud, line_of_cameras(1)), ACCENT).sum() > 100


def test_cameras_round_an_object(tmp_path: Path) -> None:
    views = []
    for i, angle in enumerate(np.radians(np.arange(0, 360, 45))):
        rotation = matrix_from_quaternion([0, np.sin(angle / 2), 0, np.cos(angle / 2)])
        views.append(replace(line_of_cameras(1)[0], name=str(i), cam_from_world=np.hstack([rotation, [[0], [0], [4]]])))
    ball = np.random.default_rng(1).normal(size=(4000, 3))
    ball = (ball / np.linalg.norm(ball, axis=1, keepdims=True)).astype(np.float32)
    picture = draw(tmp_path / "a.png", PointCloud(ball, np.tile(np.uint8(BLUE), (4000, 1)), np.ones(4000, "f4")), views)
    rows, columns = np.nonzero(near_colour(picture, BLUE))
    assert 0.7 < np.ptp(rows) / np.ptp(columns) < 1.4 and len(rows) > 300
    assert near_colour(picture, ACCENT).sum() > 8 * 20
