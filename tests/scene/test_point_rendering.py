"""Clouds seen from anywhere: surfaces close up, hide what is behind them, and nothing is invented."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lite3r_cli.scene.camera_path import along, orbit, through, tour
from lite3r_cli.scene.geometry import camera_centres
from lite3r_cli.scene.point_rendering import PointRenderer, visible_shares
from lite3r_cli.scene.posed_view import PointCloud, View


def wall(z: float, color: tuple[int, int, int], half: float = 1.0, gap: float = 0.02) -> tuple[np.ndarray, np.ndarray]:
    """Points of a square at depth z, `gap` apart."""
    side = np.arange(-half, half, gap)
    xy = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    return np.column_stack([xy, np.full(len(xy), z)]).astype(np.float32), np.tile(np.uint8(color), (len(xy), 1))


def camera(x: float = 0.0, z: float = 0.0, size: tuple[int, int] = (97, 63), depth: np.ndarray | None = None) -> View:
    width, height = size
    K = np.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1]])
    return View(f"{x}.png", width, height, K, np.column_stack([np.eye(3), [-x, 0, -z]]), depth)


@pytest.fixture
def scene() -> PointCloud:
    """A small red wall before a large green one."""
    red, green = wall(2.0, (250, 0, 0), 0.5), wall(4.0, (0, 250, 0), 1.5, 0.03)
    points = np.concatenate([red[0], green[0]])
    return PointCloud(points, np.concatenate([red[1], green[1]]), np.ones(len(points), np.float32))


@pytest.mark.parametrize("near", [0.0, 1.5, 1.85])
@pytest.mark.parametrize("origin", [0.0, 500_000.0])
def test_surfaces_close_up_and_hide_what_is_behind(scene: PointCloud, near: float, origin: float) -> None:
    far = np.array([origin, 0, 0])
    cloud = PointCloud(scene.points.astype(np.float64) + far, scene.colors, scene.confidence)
    spacing = np.where(scene.points[:, 2] < 3, 0.02, 0.03).astype(np.float32)
    eye = camera(z=near)
    eye = View(eye.name, eye.width, eye.height, eye.K, np.column_stack([np.eye(3), [-origin, 0, -near]]))
    frame = PointRenderer(cloud, spacing, torch.device("cpu")).render(eye, background=(0, 0, 9))
    rgb, depth = frame.rgb.numpy(), frame.depth.numpy()
    half = min(0.45 * 97 / (2 - near), 60)  # of the red wall in pixels, less a margin
    rows, columns = np.abs(np.arange(63) + 0.5 - 31.5) < half, np.abs(np.arange(97) + 0.5 - 48.5) < half
    inner = np.ix_(rows, columns)
    assert (rgb[inner] == (250, 0, 0)).all() and np.allclose(depth[inner], 2 - near, atol=1e-3)
    assert (rgb[~frame.seen.numpy()] == (0, 0, 9)).all() and (depth[~frame.seen.numpy()] == 0).all()
    if not near:
        assert (rgb[31, 16] == (0, 250, 0)).all() and depth[31, 16] == pytest.approx(4)


def test_what_no_point_shows_is_not_seen(scene: PointCloud) -> None:
    renderer = PointRenderer(scene, np.full(len(scene), 0.02, np.float32), torch.device("cpu"))
    away = View("away", 40, 30, camera().K, np.column_stack([np.diag([-1.0, 1, -1]), np.zeros(3)]))
    assert not renderer.render(away).seen.any()
    assert renderer.render(camera(x=-1.8)).seen.float().mean() < 0.7


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_draws_what_the_processor_draws(scene: PointCloud) -> None:
    spacing = np.where(scene.points[:, 2] < 3, 0.02, 0.03).astype(np.float32)
    own, other = (PointRenderer(scene, spacing, torch.device(name)).render(camera(x=0.3)) for name in ("cpu", "cuda"))
    differs = (own.depth - other.depth.cpu()).abs() > 1e-3 * own.depth
    differs |= (own.rgb.int() - other.rgb.cpu().int()).abs().amax(dim=-1) > 2
    assert differs.float().mean() < 0.005  # points on the edge of a pixel may be rounded to either side


def test_captured_views_rank_by_what_they_see_of_a_frame(scene: PointCloud) -> None:
    renderer = PointRenderer(scene, np.full(len(scene), 0.03, np.float32), torch.device("cpu"))
    eye = camera(x=0.1)
    frame = renderer.render(eye)
    views = [camera(x=x) for x in (0.1, 0.6, 9.0)]
    views = [View(v.name, v.width, v.height, v.K, v.cam_from_world, renderer.render(v).depth.numpy()) for v in views]
    same, near, none = visible_shares(frame, eye, views)
    assert same > 0.95 and 0.4 < near < same and none == 0


def turned(angle: float, radius: float = 3.0) -> View:
    """A camera on a circle that looks at its middle, upright with y down."""
    centre = radius * np.array([np.sin(angle), 0, -np.cos(angle)])
    forward = -centre / radius
    rotation = np.stack([np.cross([0, 1, 0], forward), [0, 1, 0], forward])
    return View(f"{angle}", 80, 60, np.diag([80.0, 80, 1]) + [[0, 0, 40], [0, 0, 30], [0, 0, 0]],
                np.column_stack([rotation, -rotation @ centre]))  # fmt: skip


def test_a_flight_is_smooth_and_passes_the_cameras_in_a_short_tour() -> None:
    angles = [0.1, 0.9, 0.5, 0.3, 0.7]
    views = [turned(angle) for angle in angles]
    assert [angles[i] for i in tour(views)] in ([0.1, 0.3, 0.5, 0.7, 0.9], [0.9, 0.7, 0.5, 0.3, 0.1])
    path = through(views, 101, (120, 60))
    centres = camera_centres(np.stack([view.cam_from_world for view in path]))
    assert np.allclose(np.linalg.norm(centres, axis=1), 3, atol=0.01)
    steps = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    assert steps[20:80].max() < 1.1 * steps[20:80].min() and steps[0] < 0.5 * steps[50]
    for view in views:
        assert np.linalg.norm(centres - camera_centres(view.cam_from_world[None]), axis=1).min() < 0.03
    for view in path:
        assert np.allclose(view.cam_from_world[:, :3] @ view.cam_from_world[:, :3].T, np.eye(3), atol=1e-9)
        assert view.K[0, 0] / view.width >= 1 - 1e-9  # shows no more than the photographs did
    assert len(along(views[:1], 7, (80, 60))) == 7


@pytest.mark.parametrize(("span", "circle"), [(1.0, False), (5.9, True)])
def test_an_orbit_looks_at_the_middle_from_where_photographs_were_taken(span: float, circle: bool) -> None:
    views = [turned(angle) for angle in np.linspace(0, span, 12)]
    cloud = PointCloud(np.zeros((3, 3), np.float32), np.zeros((3, 3), np.uint8), np.ones(3, np.float32))
    path = orbit(views, cloud, None, 60, (80, 60))
    poses = np.stack([view.cam_from_world for view in path])
    centres = camera_centres(poses)
    assert np.allclose(np.linalg.norm(centres, axis=1), 3, atol=0.05)
    assert np.allclose(poses[:, 2, :3], -centres / 3, atol=0.02) and np.allclose(poses[:, 1, 1], 1, atol=0.01)
    angle = np.unwrap(np.arctan2(centres[:, 0], -centres[:, 2]))
    margin = np.radians(10)
    if circle:
        assert np.ptp(angle) > 2 * np.pi * 0.95
    else:
        assert angle.min() == pytest.approx(-margin, abs=0.02) and angle.max() == pytest.approx(span + margin, abs=0.02)
