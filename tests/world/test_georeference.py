"""A similarity out of noisy positions, some of them wild; the Earth's coordinates; lengths that the user knows."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from lite3r_cli.scene.geometry import Similarity
from lite3r_cli.scene.posed_view import View
from lite3r_cli.world.geodesy import LocalFrame, earth_centred
from lite3r_cli.world.georeference import NotEnough, fit_similarity
from lite3r_cli.world.lengths import camera_distance, camera_height, pixel_distance

TRUE = Similarity(7.3, cv2.Rodrigues(np.array([0.9, -0.4, 1.7]))[0], np.array([30.0, -12.0, 4.0]))
SIGMA = np.array([2.0, 2.0, 5.0])


def flight(count: int, seed: int = 0, line: bool = False):
    """Points of a scene, and where GPS says they are in a map: 200 m wide, 2 m and 5 m of noise."""
    rng = np.random.default_rng(seed)
    true = np.c_[rng.uniform(-100, 100, count), rng.uniform(-100, 100, count) * (not line), rng.uniform(20, 40, count)]
    points = (true - TRUE.translation) @ TRUE.rotation / TRUE.scale
    return points, true, true + rng.normal(size=(count, 3)) * SIGMA, np.tile(SIGMA, (count, 1))


def test_wild_fixes_are_named_and_do_not_bend():
    points, true, known, sigma = flight(60)
    known[[3, 17, 40]] += [200.0, -30.0, 0.0]
    fit = fit_similarity(points, known, sigma)
    assert np.flatnonzero(~fit.used).tolist() == [3, 17, 40]
    assert fit.similarity.scale == pytest.approx(TRUE.scale, rel=0.01)
    assert np.linalg.norm(fit.similarity.apply(points) - true, axis=1).mean() < 2
    exact = fit_similarity(points, true + 1e-4, sigma)
    np.testing.assert_allclose(exact.similarity.apply(points), true + 1e-4, atol=1e-6)


def test_a_line_needs_gravity():
    points, true, known, sigma = flight(40, line=True)
    known[:, 2], true[:, 2] = 30.0, 30.0
    points = (true - TRUE.translation) @ TRUE.rotation / TRUE.scale
    with pytest.raises(NotEnough):
        fit_similarity(points, known, sigma)
    fit = fit_similarity(points, known, sigma, up=TRUE.rotation.T @ [0, 0, 1.0])
    above = fit.similarity.apply(points + TRUE.rotation.T @ [0, 0, 1.0])
    np.testing.assert_allclose(above - true, np.tile([0, 0, TRUE.scale], (40, 1)), atol=2)


def test_heights_may_be_missing_and_constant_fixes_say_nothing():
    points, true, known, sigma = flight(60, 1)
    sigma[:, 2], known[:, 2] = np.inf, np.nan
    fit = fit_similarity(points, known, sigma, up=TRUE.rotation.T @ [0, 0, 1.0])
    assert np.linalg.norm((fit.similarity.apply(points) - true)[:, :2], axis=1).mean() < 1
    assert fit.similarity.scale == pytest.approx(TRUE.scale, rel=0.02)
    still = np.tile([5.0, 6.0, 7.0], (60, 1)) + np.random.default_rng(0).normal(size=(60, 3))
    for known in (still, still * 0 + 3):
        with pytest.raises(NotEnough, match="do not differ"):
            fit_similarity(points, known, np.tile(SIGMA, (60, 1)))
    with pytest.raises(NotEnough, match="too few"):
        fit_similarity(points[:2], true[:2], sigma[:2])


def test_degrees_and_metres():
    places = np.array([[48.137, 11.575, 519.0], [48.138, 11.577, 530.0], [-33.9, 151.2, 5.0], [0.0, 0.0, 0.0]])
    frame = LocalFrame.around(places[:2])
    np.testing.assert_allclose(frame.places(frame.local(places)), places, atol=1e-7)
    np.testing.assert_allclose(earth_centred(places[3]), [6378137, 0, 0])
    # Munich to a point 0.001° farther north: 111.2 m by the meridian's curvature there
    north = frame.local(places[0] + [0.001, 0, 0]) - frame.local(places[0])
    np.testing.assert_allclose(north, [0, 111.2, 0], atol=0.05)


@pytest.mark.parametrize("longitudes", [[179.9999, -179.9999, -179.9998], [180, 180, -179.9999], [-180, 179.9999, 0.0]])
def test_places_on_both_sides_of_the_180th_meridian_are_near(longitudes):
    places = np.array([[-17.0, longitude, 10] for longitude in longitudes])
    frame = LocalFrame.around(places)
    assert abs(frame.local(places)[:2]).max() < 100 and abs(frame.longitude) <= 180


def ground_view(height: float) -> View:
    """A camera that looks down by 45° on level ground with a step in it."""
    tilt = np.radians(45)
    turn = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    K = np.array([[100.0, 0, 60], [0, 100, 40], [0, 0, 1]])
    x, y = np.meshgrid(np.arange(120) + 0.5, np.arange(80) + 0.5)
    rays = np.stack([(x - 60) / 100, (y - 40) / 100, np.ones_like(x)], -1) @ turn
    floor = np.where(x < 20, height - 0.5, height)  # +y is down
    depth = np.where(rays[..., 1] > 0.05, floor / rays[..., 1], 0).astype(np.float32)
    pose = np.c_[turn, [0.0, 0, 0]]
    return View("a.jpg", 120, 80, K, pose, depth, np.ones_like(depth))


def test_known_lengths():
    view = ground_view(1.5)
    assert camera_height([view, view], np.array([0, -1.0, 0])) == pytest.approx(1.5, rel=0.02)
    assert camera_height([view], np.array([0, 1.0, 0])) is None
    assert camera_distance([view, View("b", 120, 80, view.K, np.c_[np.eye(3), [0, 0, 2.0]])], 0, 1) == pytest.approx(2)
    across = pixel_distance(view, (40.0, 60.5), (80.0, 60.5))
    assert across == pytest.approx(0.4 * view.depth[60, 60], rel=0.02)
    assert pixel_distance(view, (40.0, 60.0), (400.0, 60.0)) is None
