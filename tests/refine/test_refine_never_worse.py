"""Where there is little to gain, nothing is lost: two photographs, a camera that only turns, a repeated facade."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from test_refine_cameras import SCENE, rough

from lite3r_cli.io.cameras_json import read_cameras_json
from lite3r_cli.refine.pipeline import refine
from lite3r_cli.refine.refine_config import RefineConfig
from lite3r_cli.scene import geometry, metrics
from lite3r_cli.scene.metrics import resample_depth
from lite3r_cli.scene.posed_view import View

SIZE = (191, 255)  # odd on purpose
FOCAL = 210.0
NEVER = 1e-6  # a baseline that always has a direction

pytest.importorskip("pycolmap")


def pose_error(views, truth) -> float:
    poses, true_poses = (np.stack([view.cam_from_world for view in some]) for some in (views, truth))
    return float(np.median(metrics.pair_errors(poses, true_poses, NEVER).larger))


def depth_error(views, truth) -> float:
    known = [view.depth > 0 for view in truth]
    p = np.concatenate([resample_depth(v.depth, k.shape)[k] for v, k in zip(views, known)])
    t = np.concatenate([v.depth[k] for v, k in zip(truth, known)])
    return metrics.depth_errors(metrics.depth_scale(p, t) * p, t)[0]


def plane_scene(texture: np.ndarray, centres, turns_deg) -> tuple[list[View], list[np.ndarray]]:
    """A textured plane at z = 4 as cameras at `centres` see it, each turned about its y axis."""
    height, width = SIZE
    K = np.array([[FOCAL, 0, width / 2], [0, FOCAL, height / 2], [0, 0, 1]])
    side = texture.shape[0]
    plane = np.array([[8 / side, 0, -4.0], [0, 8 / side, -4.0], [0, 0, 4.0]])  # texture pixel -> point on the plane
    views, pictures = [], []
    for i, (centre, turn) in enumerate(zip(centres, turns_deg)):
        R = cv2.Rodrigues(np.array([0, np.radians(turn), 0]))[0]
        pose = np.column_stack([R, -R @ np.asarray(centre, float)])
        world = plane - np.outer(centre, [0, 0, 1])
        # both ends of the mapping count pixel centres from 0, K from 0.5
        half = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]])
        mapping = half @ K @ R @ world @ np.linalg.inv(half)
        pictures.append(cv2.warpPerspective(texture, mapping, (width, height), flags=cv2.INTER_AREA))
        v, u = np.indices(SIZE) + 0.5
        rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones(SIZE)], axis=-1) @ R
        depth = ((4 - centre[2]) / rays[..., 2]).astype(np.float32)
        views.append(View(f"{i}.png", width, height, K, pose, depth, np.ones(SIZE, np.float32)))
    poses = geometry.rebase(np.stack([view.cam_from_world for view in views]))
    return [replace(view, cam_from_world=pose) for view, pose in zip(views, poses)], pictures


def texture(seed: int) -> np.ndarray:
    """A texture (1200, 1200, 3) without repetition."""
    rng = np.random.default_rng(seed)
    noise = sum(
        cv2.resize(rng.random((n, n, 3)), (1200, 1200), interpolation=cv2.INTER_CUBIC) for n in (20, 60, 130, 270)
    )
    return (255 * (noise - noise.min()) / np.ptp(noise)).astype(np.uint8)


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    return texture(0)


def test_two_photographs():
    truth = read_cameras_json(SCENE)[:2]
    pictures = [cv2.imread(str(SCENE / "images" / view.name))[..., ::-1] for view in truth]
    start = rough([replace(view, depth=resample_depth(view.depth, SIZE)) for view in truth], noise=0.1)
    result = refine(start, pictures.__getitem__)
    assert [verdict["cameras"] for verdict in result.verdicts] == ["refined"] * 2
    assert pose_error(result.views, truth) <= pose_error(start, truth)
    assert depth_error(result.views, truth) <= depth_error(start, truth)


def test_camera_that_only_turns(photograph):
    truth, pictures = plane_scene(photograph, [(0, 0, 0)] * 3, (-9, 0, 7))
    start = rough(truth, degrees=1, focal=1.02, noise=0.02)
    result = refine(start, pictures.__getitem__)
    before, after = depth_error(start, truth), depth_error(result.views, truth)
    assert after <= before + 1e-3
    assert all(np.isfinite(view.cam_from_world).all() for view in result.views)


def test_repeated_facade(photograph):
    """Every window looks the same: matches may be off by a whole period."""
    tile = cv2.resize(photograph[:300, :300], (100, 100), interpolation=cv2.INTER_AREA)
    truth, pictures = plane_scene(np.tile(tile, (12, 12, 1)), [(0.4 * i, 0, 0) for i in range(4)], (0, 2, -2, 3))
    start = rough(truth, degrees=2, focal=1.05, noise=0.05)
    result = refine(start, pictures.__getitem__)
    assert pose_error(result.views, truth) <= pose_error(start, truth)
    assert depth_error(result.views, truth) <= depth_error(start, truth) + 1e-3


def test_plane_seen_from_aside(photograph):
    """Without the repetition the same scene is refined; this shows that the tests above can fail."""
    truth, pictures = plane_scene(photograph, [(0.4 * i, 0.1 * i, 0) for i in range(4)], (0, 8, -5, 10))
    start = rough(truth, degrees=2, focal=1.0, noise=0.05)
    result = refine(start, pictures.__getitem__)
    assert [verdict["depth"] for verdict in result.verdicts] == ["stereo"] * 4
    assert depth_error(result.views, truth) < 0.5 * depth_error(start, truth)


def test_two_places_without_a_match():
    """The matches of each place fit, but none says where the smaller one is: its cameras are not refined."""
    places = [
        plane_scene(texture(count), [(0.4 * i, 0.1 * i, 0) for i in range(count)], (0, 8, -5, 10)[:count])
        for count in (4, 3)
    ]
    start = [view for views, _ in places for view in rough(views, degrees=1, focal=1.0, noise=0.05)]
    pictures = [picture for _, some in places for picture in some]
    result = refine(start, pictures.__getitem__, config=RefineConfig(depth=False))
    assert [verdict["cameras"] for verdict in result.verdicts] == ["refined"] * 4 + ["kept"] * 3
    assert "too few points connect" in result.verdicts[5]["reason"]
    assert "kept the predicted cameras" in " ".join(result.warnings)
