"""Two passes over the same views: the similarity between them comes out, whatever a part of the pixels says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lite3r_cli.long.sim3_fit import BAD, GOOD, FitConfig, chain, inverse, same_focal, tie
from lite3r_cli.scene import geometry
from lite3r_cli.scene.geometry import Similarity
from lite3r_cli.scene.posed_view import View


def rotation(axis: int, degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.eye(3)
    i, j = [k for k in range(3) if k != axis]
    turn[i, i] = turn[j, j] = c
    turn[i, j], turn[j, i] = -s, s
    return turn


def rough_scene(count: int = 4, seed: int = 0) -> list[View]:
    """Views of hilly depth maps from cameras that move and turn a little."""
    rng = np.random.default_rng(seed)
    views = []
    for k in range(count):
        grid = geometry.pixel_grid(45, 61)
        depth = 3 + np.sin(grid[..., 0] / 9 + k) + 0.5 * np.cos(grid[..., 1] / 7) + 0.01 * rng.standard_normal((45, 61))
        K = np.array([[120.0, 0, 61], [0, 120.0, 45], [0, 0, 1]])
        turn = rotation(1, 3.0 * k)
        pose = np.c_[turn, -turn @ np.array([0.3 * k, 0.02 * k, 0.1 * k])]
        views.append(View(f"{k}.jpg", 122, 90, K, pose, depth.astype(np.float32), np.ones((45, 61), np.float32)))
    return views


def moved(views: list[View], s: Similarity) -> list[View]:
    """The same views in another world, as another pass would have them."""
    poses = [s.apply_to_poses(view.cam_from_world) for view in views]
    return [replace(v, cam_from_world=pose, depth=v.depth * np.float32(s.scale)) for v, pose in zip(views, poses)]


TRUTH = Similarity(1.7, rotation(0, 20) @ rotation(2, -35), np.array([1.0, -2.0, 0.5]))


def test_it_finds_the_similarity_of_exact_passes():
    views = rough_scene()
    found = tie(views, moved(views, inverse(TRUTH)))
    assert found is not None and found.verdict == GOOD
    assert found.similarity.scale == pytest.approx(TRUTH.scale, rel=1e-4)
    assert np.allclose(found.similarity.rotation, TRUTH.rotation, atol=1e-4)
    assert np.allclose(found.similarity.translation, TRUTH.translation, atol=1e-3)


def test_a_third_of_wrong_depth_and_one_wrong_camera_do_not_matter():
    views = rough_scene()
    other = moved(views, inverse(TRUTH))
    for view in other:
        view.depth[:15] *= 1.6
    other[1] = replace(other[1], cam_from_world=np.c_[rotation(1, 50), [2.0, 0, 0]])
    found = tie(views, other)
    assert found is not None
    assert found.similarity.scale == pytest.approx(TRUTH.scale, rel=0.01)
    assert np.degrees(geometry.rotation_angle(found.similarity.rotation @ TRUTH.rotation.T)) < 0.5


def test_passes_that_saw_something_else_are_bad():
    first, second = rough_scene(), rough_scene(seed=1)
    rng = np.random.default_rng(0)
    for view in second:
        view.depth[:] = rng.uniform(0.5, 20, view.depth.shape)
    found = tie(first, second)
    assert found is not None and found.verdict == BAD


def test_without_known_depth_there_is_no_edge():
    views = rough_scene(1)
    empty = [replace(views[0], depth=np.zeros((45, 61), np.float32))]
    assert tie(views, empty) is None


def test_chain_and_inverse_agree_with_points():
    points = np.random.default_rng(0).normal(size=(5, 3))
    other = Similarity(0.4, rotation(1, 70), np.array([0.0, 3.0, 1.0]))
    assert np.allclose(chain(TRUTH, other).apply(points), TRUTH.apply(other.apply(points)))
    assert np.allclose(inverse(TRUTH).apply(TRUTH.apply(points)), points)


def test_a_common_focal_length_keeps_lengths_across():
    view = rough_scene(1)[0]
    changed = same_focal([view], 1.2)[0]
    assert changed.K[0, 0] == pytest.approx(1.2 * 122)
    across = [v.depth[10, 30] / v.K[0, 0] for v in (view, changed)]
    assert across[0] == pytest.approx(across[1], rel=1e-5)


def test_cameras_correct_depth_that_is_scaled_and_tilted():
    """Depth that shrinks towards one side turns and shrinks a fit to points; the cameras are exact."""
    views = rough_scene(8)
    other = moved(views, inverse(TRUTH))
    for view in other:
        view.depth[:] *= np.linspace(0.85, 1.05, view.depth.shape[1], dtype=np.float32)
    found, by_depth = tie(views, other), tie(views, other, FitConfig(cameras=False))
    assert found is not None and by_depth is not None
    off = [np.degrees(geometry.rotation_angle(t.similarity.rotation @ TRUTH.rotation.T)) for t in (found, by_depth)]
    assert off[0] < 0.1 < 1 < off[1]
    scales = [abs(np.log(t.similarity.scale / TRUTH.scale)) for t in (found, by_depth)]
    assert scales[0] == pytest.approx(scales[1] / 2, rel=0.01)
    at_rest = [replace(view, cam_from_world=views[0].cam_from_world) for view in views]  # no distances to compare
    still = tie(at_rest, moved(at_rest, inverse(TRUTH)))
    assert still is not None and still.similarity.scale == pytest.approx(TRUTH.scale, rel=1e-4)
