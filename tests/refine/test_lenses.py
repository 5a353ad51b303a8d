"""Lenses that bend lines are found, shared by the pictures of one camera, and not seen where there are none."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from test_refine_cameras import SCENE, rough, worst_error

from lite3r_cli.io.cameras_json import read_cameras_json
from lite3r_cli.io.exif import NOTHING, PhotoMetadata
from lite3r_cli.refine.camera_refinement import search
from lite3r_cli.refine.fisheye import start_fisheyes
from lite3r_cli.refine.lens import Lens, start_lenses
from lite3r_cli.refine.lens_choice import FOCAL_EACH, standard_errors
from lite3r_cli.refine.matching import Matches, predicted_cameras, verified
from lite3r_cli.refine.pipeline import refine
from lite3r_cli.refine.refine_config import RefineConfig
from lite3r_cli.refine.search import Search
from lite3r_cli.scene import geometry
from lite3r_cli.scene.distortion import DistortedCamera
from lite3r_cli.scene.posed_view import View

pytest.importorskip("pycolmap")


def through(view, rgb, k1: float, grown: float = 1.12):
    """The view and the picture that a lens with k1 takes there; its focal length is `grown` times the pinhole's."""
    camera = DistortedCamera(
        "SIMPLE_RADIAL", (view.K[0, 0] * grown, view.width / 2, view.height / 2, k1), view.width, view.height
    )
    v, u = np.indices((view.height, view.width)) + 0.5
    rays = camera.rays(np.stack([u.ravel(), v.ravel()], axis=1))
    pixel = (rays[:, :2] / rays[:, 2:] * view.K[0, 0] + view.K[:2, 2] - 0.5).astype(np.float32)
    maps = [np.ascontiguousarray(p.reshape(u.shape)) for p in pixel.T]
    small = [cv2.resize(m, view.depth.shape[::-1], interpolation=cv2.INTER_AREA) for m in maps]
    scale = view.depth.shape[1] / view.width
    depth = cv2.remap(view.depth, *[m * scale for m in small], cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
    K = np.array([[camera.params[0], 0, view.width / 2], [0, camera.params[0], view.height / 2], [0, 0, 1]])
    return replace(view, K=K, depth=depth, lens=camera), cv2.remap(
        rgb, *maps, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )


@pytest.fixture(scope="module")
def facade():
    views = read_cameras_json(SCENE)[:5]
    return views, [cv2.imread(str(SCENE / "images" / view.name))[..., ::-1] for view in views]


@pytest.fixture(scope="module")
def bent(facade):
    """Truth, and what refinement makes of pictures with k1 = -0.1 and a pinhole start."""
    truth, pictures = zip(*[through(view, rgb, -0.1) for view, rgb in zip(*facade, strict=True)], strict=True)
    start = rough([replace(view, lens=None) for view in truth], focal=1.1)
    return truth, refine(start, lambda i: pictures[i], config=RefineConfig(depth=False))


def test_distortion_is_found(bent):
    truth, found = bent
    lenses = {view.lens for view in found.views}
    assert len(lenses) == 1  # one camera, one lens
    lens = lenses.pop()
    assert lens.model == "SIMPLE_RADIAL"
    assert lens.focal[0] == pytest.approx(truth[0].lens.focal[0], rel=0.015)
    assert lens.coefficients[0] == pytest.approx(-0.1, abs=0.02)
    assert worst_error(found.views, truth) < 1.0


def test_points_and_maps_are_those_of_the_undistorted_pictures(bent):
    found = bent[1]
    for i, view in enumerate(found.views):
        assert view.K[0, 0] != view.lens.focal[0] and view.depth is not None
        point, pixel = found.sparse.of_view(i)
        projected, _ = geometry.project(found.sparse.points[point], view.K, view.cam_from_world)
        assert len(point) > 50 and np.median(np.linalg.norm(projected - pixel, axis=1)) < 0.7
        assert (pixel >= 0).all() and (pixel <= [view.width, view.height]).all()


def test_pictures_share_a_lens_as_their_files_say(facade):
    views = facade[0]
    sizes = [(view.width, view.height) for view in views]
    near, far = (PhotoMetadata(make="A", model="B", focal_mm=mm).lens_key for mm in (24.0, 35.0))
    found = start_lenses(views, sizes, RefineConfig(lens_keys=(near, far, near, far, NOTHING.lens_key)))
    assert found.of_view == (0, 1, 0, 1, 2) and NOTHING.lens_key == ""


def test_a_model_that_is_asked_for_starts_straight(facade):
    views = facade[0]
    sizes = [(view.width, view.height) for view in views]
    found = start_lenses(views, sizes, RefineConfig(camera_model="opencv"))
    assert found.lenses[0].model == "OPENCV" and found.lenses[0].params[4:] == (0.0,) * 4
    simple = Lens("SIMPLE_PINHOLE", (500.0, 320.0, 240.0), (640, 480)).bending("SIMPLE_RADIAL")
    assert simple.params == (500.0, 320.0, 240.0, 0.0)


def fisheye_matches(folder, views: int = 5, points: int = 300):
    """What a fisheye of 150 degrees sees of points all around, exactly, and views as a network that takes it for a
    pinhole may have them."""
    rng, size = np.random.default_rng(0), (640, 480)
    focal = size[0] / np.radians(150)
    camera = DistortedCamera("OPENCV_FISHEYE", (focal, focal, 320.0, 240.0, -0.01, 0.0, 0.0, 0.0), *size)
    world = rng.uniform([-4, -3, 1], [4, 3, 6], (points, 3))
    start, truth, keypoints, seen = [], [], [], []
    for i in range(views):
        turn = cv2.Rodrigues(np.radians([0, 8 * (i - views / 2), 3.0]) + 0.05 * rng.normal(size=3))[0]
        pose = np.column_stack([turn, -turn @ [0.5 * (i - views / 2), 0.1 * rng.normal(), 0.3 * rng.normal()]])
        pixel = camera.pixels(geometry.transform(pose, world)) + 0.2 * rng.normal(size=(points, 2))
        keypoints.append(np.where(np.isfinite(pixel), pixel, 0.0))
        seen.append(((pixel >= 0) & (pixel <= size)).all(axis=1))
        K = np.array([[400.0, 0, 320], [0, 400, 240], [0, 0, 1]])
        truth.append(View(f"{i}", *size, K, pose))
        off = cv2.Rodrigues(np.radians(5) * rng.normal(size=3) / 3**0.5)[0]
        near = geometry.compose(np.hstack([off, np.zeros((3, 1))]), pose)
        start.append(View(f"{i}", *size, K, near, np.full((48, 64), 4.0, np.float32)))
    raw = {}
    for i in range(views):
        for j in range(i + 1, views):
            both = np.flatnonzero(seen[i] & seen[j])
            raw[i, j] = np.stack([both, both], axis=1)
    return start, truth, Matches([size] * views, keypoints, {}, folder, raw), camera


def test_a_fisheye_is_found_from_matches_alone(tmp_path):
    config = RefineConfig(camera_model="opencv-fisheye")
    start, truth, matches, camera = fisheye_matches(tmp_path)
    lenses, matches = start_fisheyes(matches, start_lenses(start, matches.sizes, config), config)
    assert lenses.lenses[0].params[0] == pytest.approx(camera.focal[0], rel=0.08)  # the nearest of some fields
    found = Search(start, matches, config, lenses).run()
    lens = found.hypothesis.lenses.lenses[0]
    assert lens.model == "OPENCV_FISHEYE" and lens.params[0] == pytest.approx(camera.focal[0], rel=0.015)
    poses = [replace(view, cam_from_world=found.hypothesis.poses[i]) for i, view in enumerate(truth)]
    assert worst_error(poses, truth) < 0.5


def test_auto_tries_a_fisheye_where_other_lenses_leave_much_unexplained(tmp_path):
    start, _, matches, camera = fisheye_matches(tmp_path)
    matches = verified(matches, predicted_cameras(start, matches.sizes), RefineConfig())
    lens = search(start, matches, RefineConfig()).hypothesis.lenses.lenses[0]
    assert lens.model == "OPENCV_FISHEYE" and lens.params[0] == pytest.approx(camera.focal[0], rel=0.015)


def test_one_track_does_not_decide_about_the_lens():
    rng = np.random.default_rng(0)
    noise, better = rng.normal(0, 0.5, 519), rng.normal(0.15, 0.5, 519)
    assert abs(standard_errors(noise)) < 3 < 5 < standard_errors(better)
    better[7], noise[7] = -42.0, 42.0  # a point that turns up behind the cameras, or no longer does
    assert standard_errors(better) > 4 > abs(standard_errors(noise))  # four are asked for


@pytest.mark.parametrize(("zoom", "stretch", "lenses"), [(0.0, 0.004, 1), (0.02, 0.0, 5)])
def test_a_zoom_gives_each_picture_its_lens_and_a_rolling_shutter_does_not(tmp_path, zoom, stretch, lenses):
    """A shutter that rolls while the camera moves up or down stretches a picture in one direction."""
    rng, size = np.random.default_rng(1), (640, 480)
    world = rng.uniform([-4, -3, 6], [4, 3, 10], (500, 3))
    views, keypoints = [], []
    for i, sign in enumerate((1.0, -1.0, 1.0, -0.5, -1.0)):
        pose = np.column_stack([cv2.Rodrigues(np.radians([i, 3 * i - 6.0, 0]))[0], [0.4 * (2 - i), 0.1 * i, 0.0]])
        K = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
        true = K * np.array([[1 + zoom * sign], [1 + (zoom + stretch) * sign], [1]])
        true[:2, 2] = K[:2, 2]
        keypoints.append(geometry.project(world, true, pose)[0] + 0.1 * rng.normal(size=(len(world), 2)))
        views.append(View(f"{i}", *size, K, pose, np.full((48, 64), 8.0, np.float32)))
    every = np.stack([np.arange(len(world))] * 2, axis=1)
    raw = {(i, j): every for i in range(5) for j in range(i + 1, 5)}
    matches = verified(
        Matches([size] * 5, keypoints, {}, tmp_path, raw), predicted_cameras(views, [size] * 5), RefineConfig()
    )
    found = Search(views, matches, RefineConfig()).run()
    trial = next(trial for trial in found.trials if trial.name == FOCAL_EACH)
    assert trial.gain > RefineConfig().lens_gain and trial.sigmas > 4  # both look alike to the matches held out
    assert len(found.hypothesis.lenses.lenses) == lenses
