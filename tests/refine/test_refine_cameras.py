"""Cameras by bundle adjustment: rough starts on a drawn scene with exact ground truth become accurate ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import cv2
import numpy as np
import pytest

from lite3r_cli import extras
from lite3r_cli.errors import BackendError
from lite3r_cli.io.cameras_json import read_cameras_json
from lite3r_cli.io.colmap import write_colmap
from lite3r_cli.io.scene_export import SceneExport
from lite3r_cli.refine import backend, observations, pairing
from lite3r_cli.refine.keypoints import Features
from lite3r_cli.refine.pipeline import refine
from lite3r_cli.refine.refine_config import RefineConfig
from lite3r_cli.scene import geometry, metrics
from lite3r_cli.scene.posed_view import PointCloud

SCENE = Path(__file__).parents[2] / "sample_scenes" / "facade"
VIEWS = 5


def rough(views, degrees: float = 3.0, focal: float = 1.08, noise: float = 0.15):
    """A rough prediction: turned and shifted cameras, a wrong focal length, and depth with a bias in each view."""
    rng = np.random.default_rng(0)
    result = []
    for view in views:
        turn = cv2.Rodrigues(np.radians(degrees) * rng.normal(size=3) / 3**0.5)[0]
        pose = geometry.compose(np.hstack([turn, np.zeros((3, 1))]), view.cam_from_world)
        depth = view.depth * np.float32(np.exp(noise * rng.normal()))
        K = view.K * np.array([[focal], [focal], [1]])
        K[:2, 2] = view.K[:2, 2]
        result.append(replace(view, K=K, cam_from_world=pose, depth=depth, confidence=np.ones_like(depth)))
    poses = geometry.rebase(np.stack([view.cam_from_world for view in result]))
    return [replace(view, cam_from_world=pose) for view, pose in zip(result, poses)]


def worst_error(views, truth) -> float:
    poses, true_poses = (np.stack([view.cam_from_world for view in some]) for some in (views, truth))
    return float(metrics.pair_errors(poses, true_poses, 1e-6).larger.max())


@pytest.fixture(scope="module")
def facade():
    truth = read_cameras_json(SCENE)[:VIEWS]
    pictures = [cv2.imread(str(SCENE / "images" / view.name))[..., ::-1] for view in truth]
    return truth, pictures


@pytest.fixture(scope="module")
def refined(facade):
    pytest.importorskip("pycolmap")
    start = rough([*facade[0], replace(facade[0][-1], name="wall.jpg")])
    return start, refined_cameras(start, facade[1])


def refined_cameras(start, pictures):
    pictures = [*pictures, np.full_like(pictures[0], 128)]  # a white wall: nothing to match
    return refine(start, pictures.__getitem__, config=RefineConfig(depth=False))


def test_cameras_become_accurate(facade, refined):
    truth = facade[0]
    start, result = refined
    assert worst_error(start[:VIEWS], truth) > 5
    assert worst_error(result.views[:VIEWS], truth) < 2
    focal = metrics.focal_error(*(np.stack([v.K for v in views[:VIEWS]]) for views in (result.views, truth)))
    assert focal.max() < 1.5
    np.testing.assert_array_equal(result.views[0].cam_from_world, np.eye(3, 4))


def test_what_cannot_be_verified_keeps_its_camera(refined):
    start, result = refined
    verdicts = [verdict["cameras"] for verdict in result.verdicts]
    assert verdicts == ["refined"] * VIEWS + ["kept"]
    np.testing.assert_array_equal(result.views[-1].K, start[-1].K)
    assert any("wall.jpg" in text for text in result.warnings)


def test_a_straight_lens_stays_a_pinhole(refined):
    result = refined[1]
    assert all(view.lens is None for view in result.views)
    assert "radial distortion" in [trial["name"] for trial in result.account["lens_trials"]]


def test_same_bytes_beside_a_busy_program(facade, refined):
    stop = Event()

    def busy() -> None:
        while not stop.is_set():
            np.linalg.svd(np.ones((300, 300)))

    def content(result) -> list[bytes]:
        arrays = [array for view in result.views for array in (view.K, view.cam_from_world)]
        return [array.tobytes() for array in (*arrays, result.sparse.points, result.sparse.pixel)]

    others = [Thread(target=busy) for _ in range(2)]
    for other in others:
        other.start()
    try:
        assert content(refined_cameras(refined[0], facade[1])) == content(refined[1])
    finally:
        stop.set()
        for other in others:
            other.join()


def test_sparse_points_project_onto_their_observations(refined):
    result = refined[1]
    for i, view in enumerate(result.views[:VIEWS]):
        point, pixel = result.sparse.of_view(i)
        projected, depth = geometry.project(result.sparse.points[point], view.K, view.cam_from_world)
        assert (depth > 0).all()
        assert np.median(np.linalg.norm(projected - pixel, axis=1)) < 0.6


def test_colmap_reads_the_tracks_back(refined, tmp_path):
    pycolmap = pytest.importorskip("pycolmap")
    result = refined[1]
    empty = PointCloud(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8), np.zeros(0, np.float32))
    write_colmap(SceneExport(tmp_path, result.views, empty, result.sparse))
    folder = tmp_path / "sparse" / "0"
    models = [pycolmap.Reconstruction(), pycolmap.Reconstruction()]
    models[0].read_binary(folder)
    models[1].read_text(folder)
    for model in models:
        assert model.num_points3D() == len(result.sparse)
        assert model.compute_num_observations() == len(result.sparse.image)
        assert model.compute_mean_reprojection_error() < 0.6
        model.update_point_3d_errors()  # from the cameras, points and observations alone
        assert model.compute_mean_reprojection_error() < 0.6


def test_without_parallax_nothing_changes(facade):
    pytest.importorskip("pycolmap")
    truth, pictures = facade
    start = rough([truth[0], truth[0]])
    result = refine(start, lambda i: pictures[0])
    assert result.sparse is None and len(result.warnings) == 1
    for before, after in zip(start, result.views):
        np.testing.assert_array_equal(before.cam_from_world, after.cam_from_world)


def test_missing_package_names_the_install_line(monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"pip install 'lite3r\[colmap\]'") as caught:
        backend.require_pycolmap()
    assert caught.value.exit_code == 5


def test_tracks_join_and_drop_contradictions():
    pairs = {
        (0, 1): np.array([[0, 0], [1, 1]]),
        (1, 2): np.array([[0, 2], [1, 1]]),
        (0, 2): np.array([[2, 1]]),  # joins keypoints 1 and 2 of image 0: their track contradicts itself
    }
    found = observations.join([3, 3, 3], pairs)
    assert found.track.tolist() == [0, 0, 0]
    assert found.image.tolist() == [0, 1, 2] and found.keypoint.tolist() == [0, 0, 2]


def test_pairs_are_chosen_by_overlap(facade):
    truth = facade[0]
    far = replace(truth[0], cam_from_world=geometry.compose(np.diag([-1.0, 1, -1, 1])[:3], truth[0].cam_from_world))
    pairs = pairing.overlapping_pairs([*truth, far], 3)
    assert (0, 1) in pairs and (0, VIEWS) not in pairs


def test_pairs_without_common_features_are_not_matched(facade):
    """Two places in turn, eight images of each, and an image of which only one other shows the same few things."""
    rng = np.random.default_rng(0)
    places = rng.integers(0, 90, (3, 60, 128))
    shows = [0, 1] * 8 + [2, 0]
    features = []
    for k, place in enumerate(shows):
        own = np.concatenate([places[place][: 4 if place == 2 else 40], rng.integers(0, 90, (60, 128))])
        if k == 3:
            own[50:54] = places[2][:4]
        n = len(own)
        own = (own * 512 / np.linalg.norm(own, axis=1, keepdims=True)).round().astype(np.uint8)
        features.append(Features((640, 480), np.zeros((n, 2)), np.ones(n, np.float32), own))
    pairs = set(pairing.choose_pairs(features, [facade[0][0]] * len(shows), RefineConfig()))
    far = {(i, j) for i, j in pairs if j - i > 4}
    assert all(shows[i] == shows[j] for i, j in far - {(3, 16)})
    assert {(0, 6), (1, 15), (3, 16), (2, 17)} <= far


def test_config_checks():
    from lite3r_cli.errors import UsageError

    with pytest.raises(UsageError, match="explained"):
        RefineConfig(explained=1.5)
