"""Which way is up: vertical edges of a drawn hall, gimbals, cameras; and the frame that stands on its ground."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from lite3r_cli.io.exif import Attitude
from lite3r_cli.scene import geometry
from lite3r_cli.scene.frame import move_views
from lite3r_cli.scene.posed_view import PointCloud, View
from lite3r_cli.world.gravity import find_up, gravity_of, up_of_cameras
from lite3r_cli.world.level import level_scene

WIDTH, HEIGHT, FOCAL = 480, 360, 400.0


def pose_of(centre, ahead, roll: float, world: np.ndarray) -> np.ndarray:
    """A camera (z up world, turned by `world`) that looks along `ahead`, rolled by degrees."""
    z = np.array(ahead, float) / np.linalg.norm(ahead)
    x = np.cross(z, [0, 0, 1.0])
    x /= np.linalg.norm(x)
    turn = cv2.Rodrigues(np.array([0, 0, np.radians(roll)]))[0] @ np.stack([x, np.cross(z, x), z])
    return np.c_[turn @ world.T, -turn @ np.array(centre, float)]


def hall(verticals: bool, world=np.eye(3)) -> tuple[list[View], list[np.ndarray]]:
    """Views of a hall of posts (or of random sticks), cameras tilted down and rolled, as line drawings."""
    rng = np.random.default_rng(4)
    feet = np.c_[rng.uniform(-4, 4, 60), rng.uniform(4, 9, 60), np.zeros(60)]
    rise = np.array([0, 0, 2.5]) if verticals else rng.normal(size=(60, 3)) * 1.5
    bars = [(foot, foot + up) for foot, up in zip(feet, np.broadcast_to(rise, (60, 3)))]
    beams = [(np.array([-4, y, h]), np.array([4, y, h])) for y in (5, 7, 9) for h in (0.0, 2.5)] if verticals else []
    return drawn([*bars, *beams], world, 7)


def drawn(bars, world=np.eye(3), rolled: float = 0.0) -> tuple[list[View], list[np.ndarray]]:
    """Line drawings of bars, given by their ends."""
    views, greys = [], []
    for k in range(4):
        pose = pose_of([k - 1.5, 0, 1.6], [0.1 * (1.5 - k), 1, -0.25 - 0.05 * k], rolled + 4 * k, world)
        K = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
        grey = np.full((HEIGHT, WIDTH), 230, np.uint8)
        for a, b in bars:
            pixel, z = geometry.project(np.stack([a, b]) @ world.T, K, pose)
            if (z > 0.1).all():
                ends = [tuple(int(v) for v in np.clip(np.round(16 * (p - 0.5)), -1e6, 1e6)) for p in pixel]
                cv2.line(grey, *ends, 30, 2, cv2.LINE_AA, shift=4)
        views.append(View(f"{k}.jpg", WIDTH, HEIGHT, K, pose, np.full((12, 16), 5, np.float32)))
        greys.append(grey)
    return views, greys


@pytest.mark.parametrize("turn", [(0, 0, 0), (1.2, -0.4, 0.8)])
def test_posts_tell_up_whatever_the_frame_and_the_roll(turn):
    world = cv2.Rodrigues(np.array(turn, float))[0]
    views, greys = hall(True, world)
    up = find_up(views, greys)
    true = world @ [0, 0, 1]
    assert up.found and up.source == "edges"
    assert np.degrees(geometry.vector_angle(up.direction, true)) < 0.7
    assert np.degrees(geometry.vector_angle(up_of_cameras(views), true)) > 10
    small = [cv2.resize(grey, (WIDTH // 2 + 1, HEIGHT // 2), interpolation=cv2.INTER_AREA) for grey in greys]
    assert np.degrees(geometry.vector_angle(find_up(views, small).direction, true)) < 2


def test_sticks_at_random_and_plain_walls_tell_nothing():
    for views, greys in (hall(False), (hall(True)[0], [np.full((60, 80), 120, np.uint8)] * 4)):
        up = find_up(views, greys)
        assert not up.found and up.source == "cameras"
        assert np.linalg.norm(up.direction) == pytest.approx(1)


def test_a_tilted_board_is_not_taken_for_a_wall():
    """Its edges have two directions, both far from the cameras' up axes, so neither may be taken for vertical."""
    tilt = np.radians(30)
    across = np.array([[np.cos(tilt), 0, -np.sin(tilt)], [np.sin(tilt), 0, np.cos(tilt)]])
    grid = [
        (np.array([0, 6, 1.2]) + k * b - 2 * a, np.array([0, 6, 1.2]) + k * b + 2 * a)
        for a, b in (across, across[::-1])
        for k in np.linspace(-2, 2, 9)
    ]
    assert not find_up(*drawn(grid)).found
    assert find_up(*drawn(grid[9:])).found  # posts alone that lean, or cameras that are rolled: one answer


def test_cameras_that_are_all_rolled_alike_need_a_third_direction():
    """A board that is turned by 16° looks like a wall to cameras that are rolled by 16°; a space does not."""
    turn = np.radians(16)
    u, v = np.array([np.cos(turn), 0, -np.sin(turn)]), np.array([np.sin(turn), 0, np.cos(turn)])
    middle = np.array([0, 6, 1.2])
    board = [
        (middle + k * b - 2 * a, middle + k * b + 2 * a) for a, b in ((u, v), (v, u)) for k in np.linspace(-2, 2, 9)
    ]
    beams = [(middle + k * u + h * v - [0, 1.5, 0], middle + k * u + h * v) for k in (-2, -1, 0, 1, 2) for h in (-2, 2)]
    assert not find_up(*drawn(board, rolled=-6)).found
    up = find_up(*drawn([*board, *beams], rolled=-6))
    assert up.found and np.degrees(geometry.vector_angle(up.direction, v)) < 1.5


def test_gimbals_are_believed():
    np.testing.assert_allclose(gravity_of(Attitude(-90, 0)), [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(gravity_of(Attitude(0, 90)), [1, 0, 0], atol=1e-12)
    views = [View("a", 8, 6, np.eye(3), pose_of([i, 0, 9], [0, 1, -1], 0, np.eye(3))) for i in range(3)]
    plain = [np.full((6, 8), 9, np.uint8)] * 3
    up = find_up(views, plain, [Attitude(-45, 0), None, Attitude(-45.5, 0.3)])
    assert up.found and up.source == "gimbal" and np.degrees(geometry.vector_angle(up.direction, [0, 0, 1])) < 0.5
    assert not find_up(views, plain, [Attitude(-45, 0), None, None]).found


def test_the_levelled_frame_stands_on_the_ground():
    world = cv2.Rodrigues(np.array([0.7, 0.2, -0.5]))[0]
    views, greys = hall(True, world)
    rng = np.random.default_rng(0)
    ground = np.c_[rng.uniform(-4, 4, 4000), rng.uniform(2, 9, 4000), np.zeros(4000)]
    points = (np.vstack([ground, ground + [0, 0, 2]]) @ world.T).astype(np.float32)
    cloud = PointCloud(points, np.zeros((8000, 3), np.uint8), np.ones(8000, np.float32))
    level = level_scene(views, cloud, find_up(views, greys))
    centres = geometry.camera_centres(np.stack([v.cam_from_world for v in move_views(views, level.map)]))
    np.testing.assert_allclose(centres[:, 2], 1.6, atol=0.1)  # the height of the eyes
    np.testing.assert_allclose(np.median(centres[:, :2], axis=0), 0, atol=0.1)
    ahead = move_views(views, level.map)[0].cam_from_world[2, :3]
    assert ahead[1] > 0.9 and abs(ahead[0]) < 0.02
    look = geometry.camera_centres(np.stack([v.cam_from_world for v in move_views(views, level.look)]))
    np.testing.assert_allclose(look[:, 1], -1.6, atol=0.1)
    matrix = np.array(level.as_dict()["level_from_world"])
    np.testing.assert_allclose(matrix[:3, :3] @ world @ [0, 0, 1], [0, 0, 1], atol=0.02)
