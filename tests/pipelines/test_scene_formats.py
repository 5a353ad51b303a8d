"""Exports for training: verified views, points with tracks, and a warning for inexact cameras."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest

from lite3r_cli.config import InputConfig, PredictConfig, ReconstructConfig
from lite3r_cli.console import Progress
from lite3r_cli.io.formats import EXTRA_FORMATS
from lite3r_cli.pipelines.predict import Predictor
from lite3r_cli.pipelines.reconstruct_scene import find_images, make_scene
from lite3r_cli.pipelines.result import Scene
from lite3r_cli.pipelines.scene_formats import format_warnings, trusted_views
from lite3r_cli.scene.frame import METRIC
from lite3r_cli.scene.sparse_points import SparseModel

VERIFIED, UNVERIFIED = {"cameras": "refined"}, {"cameras": "kept"}


@pytest.fixture
def scene(plane_backbone, photographs, tmp_path) -> Scene:
    config = ReconstructConfig(
        InputConfig((photographs(4),), keep_unrelated=True), PredictConfig(resolution=112, device="cpu")
    )
    images = find_images(config.input, Progress(), lambda text: None, "mini")
    return make_scene(config, Predictor(config.predict), images, Progress())


def verified(scene: Scene, verdicts: list[dict[str, object]]) -> Scene:
    sparse = SparseModel(
        np.zeros((2, 3)), np.zeros((2, 3), "u1"), np.zeros(2), np.array([0, 1, 1]), np.array([0, 0, 1]), np.ones((3, 2))
    )
    return replace(scene, predictions=replace(scene.predictions, verdicts=verdicts, sparse=sparse))


def names_of(folder) -> tuple[list[str], list[str]]:
    """Pictures of the model and of the folder."""
    document = json.loads((folder / "transforms.json").read_text())
    return [f["file_path"] for f in document["frames"]], sorted(p.name for p in (folder / "images").iterdir())


def test_unverified_pictures_stay_out(scene, tmp_path) -> None:
    checked = verified(scene, [VERIFIED, VERIFIED, UNVERIFIED, VERIFIED])
    checked.save(tmp_path / "a", formats=["nerfstudio", "colmap", "html", "3dgs"])
    model, files = names_of(tmp_path / "a")
    assert model == ["images/a0.jpg", "images/a1.jpg", "images/a3.jpg"] and files == ["a0.jpg", "a1.jpg", "a3.jpg"]
    lines = [line for line in (tmp_path / "a/sparse/0/images.txt").read_text().splitlines() if line[:1] != "#"]
    assert [line.split()[-1] for line in lines[::2]] == files
    assert "a2.jpg" in (tmp_path / "a/cameras.json").read_text() and "a2.jpg" in (tmp_path / "a/view.html").read_text()
    text = format_warnings(replace(scene.config, formats=("colmap",)), checked.predictions)[0]
    assert "1 of 4" in text and "a2.jpg" in text and "--keep-unverified" in text


def test_they_are_kept_on_request_and_where_nothing_is_verified(scene, tmp_path) -> None:
    checked = verified(scene, [VERIFIED, VERIFIED, UNVERIFIED, VERIFIED])
    assert trusted_views(checked.predictions, True) == [0, 1, 2, 3]
    assert trusted_views(verified(scene, [UNVERIFIED] * 4).predictions, False) == [0, 1, 2, 3]
    kept = replace(checked, config=replace(scene.config, keep_unverified=True))
    kept.save(tmp_path / "a", formats=["nerfstudio"])
    assert len(names_of(tmp_path / "a")[0]) == 4


def test_cameras_of_the_network_alone_are_mentioned(scene) -> None:
    training = replace(scene.config, formats=("glb", "3dgs"))
    assert "--refine" in format_warnings(training, scene.predictions)[0]
    assert format_warnings(replace(scene.config, formats=("glb", "html")), scene.predictions) == []


def test_a_part_of_a_model_keeps_what_its_views_saw() -> None:
    rng = np.random.default_rng(3)
    image, point = np.sort(rng.integers(0, 5, 65)), rng.integers(0, 30, 65)
    model = SparseModel(
        rng.random((30, 3)), rng.integers(0, 256, (30, 3), np.uint8), rng.random(30), image, point, rng.random((65, 2))
    )
    part = model.only([1, 2, 4])
    for new, old in enumerate([1, 2, 4]):
        points, pixels = part.of_view(new)
        before, where = model.of_view(old)
        assert np.array_equal(part.points[points], model.points[before]) and np.array_equal(pixels, where)
    assert set(part.point) == set(range(len(part))) and (np.diff(part.image) >= 0).all()
    assert len(model.only([])) == 0 and len(model.only(range(5))) == len(np.unique(point))


def test_surveyors_are_told_of_lengths_without_a_unit(scene, tmp_path) -> None:
    config = replace(scene.config, formats=("las", "laz"))
    assert "--format las, --format laz: the scene has no metric scale" in format_warnings(config, scene.predictions)[0]
    metric = replace(scene.predictions, frame=METRIC)
    assert format_warnings(config, metric) == [] == format_warnings(scene.config, scene.predictions)


def test_las_stands_upright_where_the_cloud_does_not(scene, tmp_path) -> None:
    laspy = pytest.importorskip("laspy")
    scene.save(tmp_path / "a", formats=["las"])
    placed = scene.level.map.apply(scene.cloud.points) if scene.level else None
    assert np.abs(laspy.read(tmp_path / "a/scene.las").xyz - placed).max() < 1e-6


def test_everything_that_a_scene_writes_can_be_replaced(scene, tmp_path) -> None:
    here = [name for name, each in EXTRA_FORMATS.items() if all(map(find_spec, each.needs))]
    for output in (tmp_path / "a.ply", tmp_path / "b"):
        options = {"formats": here, "preview": True, "save_npy": True}
        written = scene.save(output, **options)
        assert len(written) > 3 * len(here) and scene.save(output, overwrite=True, **options) == written
