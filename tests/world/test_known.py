"""Known cameras replace predicted ones: their frame and scale are used, and everything else is adapted."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from lite3r_cli.scene import geometry
from lite3r_cli.scene.frame import local_origin, move_cloud, move_views, translation
from lite3r_cli.scene.geometry import Similarity
from lite3r_cli.scene.posed_view import PointCloud, View
from lite3r_cli.scene.priors import CameraPriors, FocalPrior
from lite3r_cli.world.given_cameras import back_into_given, depth_factor, place, with_known_focal
from lite3r_cli.world.registration import similarity_from_cameras, tells_scale

FOCAL, WIDTH, HEIGHT = 60.0, 61, 47
MAP = np.array([432100.0, 5412300.0, 210.0])  # an origin of a map


def scene(count: int = 5, at=np.zeros(3)) -> list[View]:
    """Views, with their exact depth, of a bent wall; the cameras go round it, at the place `at` of the world."""
    views = []
    K = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL * 1.01, HEIGHT / 2], [0, 0, 1]])
    for i in range(count):
        turn = cv2.Rodrigues(np.array([0.03 * i, 0.12 * (i - 2), 0.02 * i]))[0]
        centre = np.array([1.0 * (i - 2), 0.1 * i, 0.15 * i * i])
        rays = np.linalg.inv(K) @ np.moveaxis(
            np.concatenate([geometry.pixel_grid(HEIGHT, WIDTH), np.ones((HEIGHT, WIDTH, 1))], -1), -1, 0
        ).reshape(3, -1)
        directions = turn.T @ rays
        depth = np.full(rays.shape[1], 6.0)
        for _ in range(60):  # the wall z = 6 + sin(x) / 2
            point = centre[:, None] + directions * depth
            depth += 0.5 * (6 + 0.5 * np.sin(point[0]) - point[2]) / directions[2]
        pose = np.c_[turn, -turn @ (centre + at)]
        views.append(View(f"{i}.jpg", WIDTH, HEIGHT, K, pose, depth.reshape(HEIGHT, WIDTH).astype(np.float32)))
    return views


def predicted(truth, scale=0.37, noise=0.0, wrong_baseline=1.0):
    """What a network predicts: the frame of the first camera, another scale, and inaccurate cameras."""
    rng = np.random.default_rng(1)
    result = []
    for view, pose in zip(truth, geometry.rebase(np.stack([v.cam_from_world for v in truth]))):
        pose = pose * [1, 1, 1, scale * wrong_baseline]
        turn = cv2.Rodrigues(noise * rng.normal(size=3))[0]
        pose = np.c_[turn @ pose[:, :3], turn @ pose[:, 3] + noise * rng.normal(size=3)]
        result.append(replace(view, cam_from_world=pose, depth=view.depth * np.float32(scale)))
    return result


@pytest.mark.parametrize("known", [[0, 1, 2, 3, 4], [1, 3]])
@pytest.mark.parametrize("at", [np.zeros(3), MAP], ids=["near", "in a map"])
def test_cameras_at_one_place_keep_the_scale_of_the_network(known, at):
    truth = scene(at=at)
    rounded = np.random.default_rng(3).uniform(-5e-7, 5e-7, (len(truth), 3))
    turns = [view.cam_from_world[:, :3] for view in truth]
    tripod = [
        replace(view, cam_from_world=np.c_[turn, -turn @ (at + off)]) for view, turn, off in zip(truth, turns, rounded)
    ]
    network = predicted(truth)
    told = priors(tripod, known)
    found = place(network, told)
    assert not tells_scale(told) and tells_scale(priors(truth, known)) and found.scale == 1
    assert all(np.array_equal(a.depth, b.depth) for a, b in zip(found.views, network))


def priors(truth, known) -> CameraPriors:
    focal = [FocalPrior(FOCAL, 1.01 * FOCAL, 0.0, "--cameras", True)] * len(truth)
    poses = tuple(v.cam_from_world if i in known else None for i, v in enumerate(truth))
    return CameraPriors(tuple(f if i in known else None for i, f in enumerate(focal)), poses)


@pytest.mark.parametrize("at", [np.zeros(3), MAP])
def test_depth_comes_in_the_scale_of_the_given_cameras(at):
    truth = scene(at=at)
    # the network's baselines are 15 % short of its depth: what views see of each other tells the scale better
    placed = place(predicted(truth, noise=0.01, wrong_baseline=0.87), priors(truth, range(5)))
    for view, true in zip(placed.views, truth):
        np.testing.assert_array_equal(view.cam_from_world, true.cam_from_world)
        np.testing.assert_allclose(view.depth, true.depth, rtol=0.02)


def test_cameras_that_are_not_known_stand_beside_those_that_are():
    truth = scene()
    placed = place(predicted(truth, noise=0.003), priors(truth, [0, 2, 4]))
    assert placed.known == [0, 2, 4]
    for i in (1, 3):
        true = truth[i].cam_from_world
        off = placed.views[i].cam_from_world[:, :3] @ true[:, :3].T
        assert np.degrees(geometry.rotation_angle(off)) < 1
        centre = geometry.camera_centres(placed.views[i].cam_from_world) - geometry.camera_centres(true)
        assert np.linalg.norm(centre) < 0.06
    np.testing.assert_array_equal(placed.views[2].cam_from_world, truth[2].cam_from_world)


def test_focal_lengths_alone_move_nothing_else():
    views = predicted(scene())
    prior = FocalPrior(55.0, 56.0, 0.02, "EXIF", centre=(30.0, 20.0))
    result = with_known_focal(views, CameraPriors((None, prior, None, None, None), (None,) * 5))
    np.testing.assert_array_equal(result[1].K, [[55, 0, 30], [0, 56, 20], [0, 0, 1]])
    assert result[0] is views[0] and result[1].depth is views[1].depth


def test_cameras_on_a_line_leave_no_turn_open():
    truth = np.stack([np.c_[np.eye(3), [-i, 0, 0]] for i in range(4)]).astype(float)
    turn = Similarity(2.0, cv2.Rodrigues(np.array([0.4, 0.8, -0.2]))[0], np.array([1.0, 2, 3]))
    found = similarity_from_cameras(truth, turn.apply_to_poses(truth))
    np.testing.assert_allclose(found.rotation, turn.rotation, atol=1e-9)
    assert found.scale == pytest.approx(2) and np.allclose(found.translation, turn.translation)


def test_refined_views_go_back_into_the_given_frame():
    truth = scene(at=MAP)
    known = [0, 2, 3]
    moved = Similarity(0.4, cv2.Rodrigues(np.array([0.3, 0.1, -0.5]))[0], np.array([4.0, 5, 6]))
    refined = move_views(move_views(truth, translation(-MAP)), moved)
    result, _ = back_into_given(refined, None, priors(truth, known), MAP)
    for view, true in zip(result, truth):
        np.testing.assert_allclose(geometry.camera_centres(view.cam_from_world),
                                   geometry.camera_centres(true.cam_from_world), atol=1e-4)  # fmt: skip
        np.testing.assert_allclose(view.depth, true.depth, rtol=1e-5)


def test_a_scene_that_nothing_ties_together_keeps_its_scale():
    truth = scene(2)
    apart = replace(truth[1], cam_from_world=np.c_[np.diag([-1.0, 1, -1]), [0, 0, 0]])
    assert depth_factor([truth[0], apart]) == 1.0


def test_the_frame_of_a_map_keeps_its_digits():
    centres = np.array([[0.0, 0, 0], [1, 0, 0]])
    assert local_origin(centres) is None
    np.testing.assert_array_equal(local_origin(centres + MAP), np.round(MAP))
    point = np.array([[0.001, 0.002, 0.003]], np.float32)
    cloud = PointCloud(point, np.zeros((1, 3), np.uint8), np.ones(1, np.float32))
    far = move_cloud(cloud, translation(MAP))
    np.testing.assert_allclose(far.points - MAP, point, atol=1e-8)
    assert move_cloud(cloud, translation(None)).points.dtype == np.float32
