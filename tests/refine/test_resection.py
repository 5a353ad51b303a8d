"""The camera of a photo from matches with photographs of a scene."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from lite3r_cli.refine.resection import Link, resected
from lite3r_cli.scene import geometry
from lite3r_cli.scene.posed_view import View

K = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])


def pose(turn: tuple[float, float, float], centre: tuple[float, float, float]) -> np.ndarray:
    """Camera from world; the turn in degrees."""
    rotation = cv2.Rodrigues(np.radians(turn))[0]
    return np.column_stack([rotation, -rotation @ np.array(centre)])


def off(found: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Degrees, and the distance of the centres."""
    apart = geometry.camera_centres(found) - geometry.camera_centres(truth)
    turn = geometry.rotation_angle(found[:, :3] @ truth[:, :3].T)
    return float(np.degrees(turn)), float(np.linalg.norm(apart))


def matched(view: View, truth: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> Link:
    """The points (N, 3) as the photo and a photograph see them, to half a pixel; a tenth of the matches is wrong."""
    seen = []
    for camera in (truth, view.cam_from_world):
        local = points @ camera[:, :3].T + camera[:, 3]
        seen.append((local @ K.T)[:, :2] / local[:, 2:] + rng.normal(0, 0.5, (len(points), 2)))
    seen[0][::10] += rng.uniform(-80, 80, seen[0][::10].shape)
    return Link(view, *seen)


@pytest.fixture
def links() -> tuple[np.ndarray, list[Link]]:
    """The true camera of a photo, and its matches with three photographs of a wall 4 to 6 away. Their cameras are off
    by half a degree, their depth by a twentieth.
    """
    rng = np.random.default_rng(0)
    truth = pose((2, -5, 1), (0.3, -0.1, 0.2))
    made = []
    for k, x in enumerate((-1.0, 0.0, 1.2)):
        exact = View(f"{k}", 640, 480, K, pose((0, 10 * x, 0), (x, 0.1 * k, 0)))
        points = np.column_stack([rng.uniform(-1.5, 1.5, 150), rng.uniform(-1.2, 1.2, 150), rng.uniform(4, 6, 150)])
        link = matched(exact, truth, points, rng)
        local = points @ exact.cam_from_world[:, :3].T + exact.cam_from_world[:, 3]
        depth = np.zeros((120, 160), np.float32)
        at = np.clip(link.there / 4, 0, [159, 119]).astype(int)
        depth[at[:, 1], at[:, 0]] = local[:, 2] * rng.normal(1, 0.05, 150)
        wrong = cv2.Rodrigues(np.radians(rng.normal(0, 0.3, 3)))[0]
        rotation = wrong @ exact.cam_from_world[:, :3]
        centre = geometry.camera_centres(exact.cam_from_world)
        stated = View(exact.name, 640, 480, K, np.column_stack([rotation, -rotation @ centre]), depth)
        made.append(Link(stated, link.here, link.there))
    return truth, made


def test_matches_make_the_networks_camera_exact(links: tuple[np.ndarray, list[Link]]) -> None:
    truth, made = links
    start = View("new", 640, 480, K, pose((3, -6, 1.5), (0.5, -0.2, 0.3)))
    assert off(start.cam_from_world, truth)[1] > 0.2
    turn, shift = off(resected(start, made).cam_from_world, truth)
    assert turn < 0.6 and shift < 0.06
    one = off(resected(start, made[1:2]).cam_from_world, truth)  # a single photograph 0.36 away
    assert one[0] < 1.2 and one[1] < 0.12


def with_focal(view: View, factor: float) -> View:
    wrong = view.K.copy()
    wrong[[0, 1], [0, 1]] *= factor
    return replace(view, K=wrong)


@pytest.mark.parametrize("factor", [0.86, 1.15])
def test_a_focal_length_that_is_wrong_in_the_whole_scene_does_not_move_the_photo(
    links: tuple[np.ndarray, list[Link]], factor: float
) -> None:
    truth, made = links
    scene = [replace(link, view=with_focal(link.view, factor)) for link in made]
    start = with_focal(View("new", 640, 480, K, pose((3, -6, 1.5), (0.5, -0.2, 0.3))), factor)
    found = resected(start, scene)
    turn, shift = off(found.cam_from_world, truth)
    assert turn < 0.6 and shift < 0.025
    assert found.K[0, 0] == pytest.approx(start.K[0, 0], rel=0.01)  # the photographs keep theirs, so does the photo


def test_what_tells_nothing_leaves_the_camera(links: tuple[np.ndarray, list[Link]]) -> None:
    truth, made = links
    start = View("new", 640, 480, K, truth)
    nothing = np.zeros((0, 2))
    blind = View("blind", 640, 480, K, truth, np.zeros((4, 4), np.float32))
    for useless in ([], [Link(made[0].view, nothing, nothing)], [Link(blind, made[0].here, made[0].there)]):
        assert resected(start, useless) is start
    rng = np.random.default_rng(1)
    random = [Link(made[0].view, rng.uniform(0, 480, (30, 2)), rng.uniform(0, 480, (30, 2)))]
    found = resected(start, random)
    assert np.isfinite(found.cam_from_world).all() and off(found.cam_from_world, truth)[0] < 5
