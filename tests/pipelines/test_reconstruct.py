"""The whole pipeline with a network that knows its answer: a plane, seen by cameras on a line."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import PLANE_DEPTH, STEP, photograph

from lite3r_cli.cli import main
from lite3r_cli.config import FusionConfig, InputConfig, PredictConfig, ReconstructConfig
from lite3r_cli.console import Progress
from lite3r_cli.errors import BackendError, InputError, MemoryLimitError
from lite3r_cli.io.cameras_json import read_cameras_json
from lite3r_cli.io.images import discover
from lite3r_cli.io.ply import read_ply
from lite3r_cli.pipelines.predict import Predictor
from lite3r_cli.pipelines.reconstruct_scene import reconstruct

pytestmark = pytest.mark.usefixtures("plane_backbone")
ALL = FusionConfig(confidence_percentile=0)


def run(photos: Path | list[Path], output: Path, fusion: FusionConfig = ALL, **options):
    inputs = tuple(photos) if isinstance(photos, list) else (photos,)
    given = {key: options.pop(key) for key in ("masks", "strict", "max_views", "stride") if key in options}
    config = ReconstructConfig(
        InputConfig(inputs, **given), PredictConfig(resolution=112, device="cpu"), fusion, str(output), **options
    )
    return reconstruct(config, Progress())


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "run.json")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_plane_comes_out_in_the_frame_of_the_first_camera(photographs, tmp_path):
    report = run(photographs(3), tmp_path / "out" / "scene.ply")
    cloud = read_ply(tmp_path / "out" / "scene.ply")
    assert len(cloud) == report.points == 3 * 112 * 84
    np.testing.assert_allclose(cloud.points[:, 2], PLANE_DEPTH, rtol=1e-5)
    views = read_cameras_json(tmp_path / "out" / "scene")
    np.testing.assert_array_equal(views[0].cam_from_world, np.eye(3, 4))
    # The network saw 112 × 84 of 98 × 70 pixels and answered 112: 98 across, 93.3 down. Pixels are square.
    focal = np.sqrt(98 * 112 * 70 / 84)
    across = 98 / focal
    steps = [0, -STEP * across, -2 * STEP * across]
    np.testing.assert_allclose([v.cam_from_world[0, 3] for v in views], steps, atol=1e-6)
    for view in views:
        np.testing.assert_allclose(view.K, [[focal, 0, 49], [0, focal, 35], [0, 0, 1]], rtol=1e-6)
        np.testing.assert_allclose(view.depth, PLANE_DEPTH, rtol=1e-4)


def test_run_json_accounts_for_every_file_and_image(photographs, tmp_path):
    photos = photographs(2)
    (photos / "a2.jpg").write_bytes(b"")
    report = run(photos, tmp_path / "scene.ply", preview=True, save_npy=True, formats=("tum", "glb"))
    document = json.loads((tmp_path / "scene" / "run.json").read_text())
    written = digests(tmp_path)
    assert {f: e["sha256"] for f, e in document["files"].items()} == {
        f: d for f, d in written.items() if not f.startswith("photos")
    }
    assert set(report.files) == set(document["files"]) >= {
        "scene.ply", "scene/cameras.json", "scene/preview.png", "scene/depth/a0.png", "scene/depth/a1.npy",
        "scene/depth_preview/a0.png", "scene/confidence/a1.png",
    }  # fmt: skip
    assert [(i["name"], i["verdict"]) for i in document["images"]] == [
        ("a0.jpg", "used"), ("a1.jpg", "used"), ("a2.jpg", "skipped"),
    ]  # fmt: skip
    assert document["images"][0]["network"] == {"height": 84, "width": 112}
    assert document["runtime"]["device"] == {"asked": "cpu", "chosen": "cpu", "reason": "asked for"}
    assert document["runtime"]["dtype"]["reason"]
    assert document["seed"] == 0 and {"lite3r", "torch", "plyfile", "processor"} <= set(document["versions"])
    assert {"Read images", "Predict", "Fuse"} <= set(document["seconds"])
    assert document["arguments"]["predict"]["resolution"] == 112


def test_same_seed_same_bytes(photographs, tmp_path):
    photos = photographs(3)
    budget = FusionConfig(max_points=500)
    for name in ("one", "two"):
        run(photos, tmp_path / name / "scene.ply", budget, formats=("colmap", "nerfstudio", "tum", "glb"), preview=True)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert len(read_ply(tmp_path / "one" / "scene.ply")) == 500


def test_overwrite_takes_nothing_that_the_run_reads(photographs, tmp_path, capsys):
    """Exported pictures and cameras of the old result are its files, but the new run needs them."""
    words = ["--overwrite", "--keep-unrelated", "-r", "112", "-q", "-o", f"{tmp_path / 's'}/"]
    assert main(["reconstruct", str(photographs(3)), *words, "--format", "colmap"]) == 0
    before = digests(tmp_path / "s")
    cameras = str(tmp_path / "s/cameras.json")
    for given, what in (
        ([str(tmp_path / "s/images")], "is a photo that is read"),
        ([str(photographs(3)), "--cameras", cameras], "is what --cameras names"),
        ([str(photographs(3)), "--masks", str(tmp_path / "s/depth_preview")], "is what --masks names"),
    ):
        assert main(["reconstruct", *given, *words]) == 2
        assert what in capsys.readouterr().err and digests(tmp_path / "s") == before


def test_mixed_sizes_and_orientations_keep_their_aspect(photographs, tmp_path):
    photos = photographs(1)
    photograph(photos / "b.png", 60, 120)
    photograph(photos / "c.jpg", 333, 111)
    run(photos, tmp_path / "scene.ply")
    sizes = {v.name: (v.width, v.height, *v.depth.shape) for v in read_cameras_json(tmp_path / "scene")}
    assert sizes == {"a0.jpg": (98, 70, 84, 112), "b.png": (60, 120, 112, 56), "c.jpg": (333, 111, 42, 112)}


def test_masks_and_filters_reach_the_cloud(photographs, tmp_path):
    photos = photographs(2)
    mask = np.full((70, 98), 255, np.uint8)
    mask[:, 49:] = 0
    (tmp_path / "masks").mkdir()
    for i in range(2):
        cv2.imwrite(str(tmp_path / "masks" / f"a{i}.jpg.png"), mask)
    half = run(photos, tmp_path / "half.ply", masks=tmp_path / "masks")
    assert half.points == 2 * 56 * 84
    fewer = run(photos, tmp_path / "fewer.ply", FusionConfig(confidence_percentile=50))
    assert fewer.points < 0.55 * 2 * 112 * 84
    coarse = run(photos, tmp_path / "coarse.ply", FusionConfig(voxel=0.1))
    assert 0 < coarse.points < 1000


def test_colours_come_from_the_photographs(tmp_path):
    red = np.zeros((70, 98, 3), np.uint8)
    red[..., 2] = 200
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / "photos" / name), red)
    run(tmp_path / "photos", tmp_path / "scene.ply")
    colors = read_ply(tmp_path / "scene.ply").colors
    assert (colors == [200, 0, 0]).all()


def test_a_picture_that_fails_at_decoding_is_left_out_and_the_rest_keeps_its_order(photographs, tmp_path, monkeypatch):
    images = discover([photographs(4)])
    read = images.read_picture

    def fails(i: int, least=None):
        if i == 1:
            raise InputError("a1.jpg: damaged")
        return read(i, least)

    monkeypatch.setattr(images, "read_picture", fails)
    predictor = Predictor(PredictConfig(resolution=112, device="cpu"))
    predictions = predictor.predict(images)
    assert predictions.indices == [0, 2, 3]
    assert [v.name for v in predictions.views] == ["a0.jpg", "a2.jpg", "a3.jpg"]
    assert [(s.name, s.reason) for s in predictions.skipped] == [("a1.jpg", "a1.jpg: damaged")]
    with pytest.raises(InputError, match="damaged"):
        predictor.predict(images, strict=True)
    with pytest.raises(InputError, match="none of the 1 images"):
        predictor.predict(images, indices=[1])


def test_windows_of_a_set_share_one_loaded_network(photographs):
    images = discover([photographs(4)])
    predictor = Predictor(PredictConfig(resolution=112, device="cpu"))
    window = predictor.predict(images, indices=[2, 3])
    assert [v.name for v in window.views] == ["a2.jpg", "a3.jpg"]
    np.testing.assert_array_equal(window.views[0].cam_from_world, np.eye(3, 4))
    assert [v.name for v in predictor.predict(images).views] == [r.name for r in images.records]


def test_unusable_numbers_become_unknown_depth_or_an_error(photographs, plane_backbone, monkeypatch):
    honest = plane_backbone.predict

    def holes(self, batch):
        prediction = honest(self, batch)
        prediction.depth[0][:10] = float("nan")
        prediction.depth[0][10:20] = -1
        prediction.confidence[0][20:30] = float("inf")
        return prediction

    images = discover([photographs(1)])
    monkeypatch.setattr(plane_backbone, "predict", holes)
    view = Predictor(PredictConfig(resolution=112, device="cpu")).predict(images).views[0]
    assert (view.depth[:30] == 0).all() and (view.confidence[:30] == 0).all() and (view.depth[30:] > 0).all()

    def lost(self, batch):
        prediction = honest(self, batch)
        prediction.cam_from_world[0, 0, 3] = float("nan")
        return prediction

    monkeypatch.setattr(plane_backbone, "predict", lost)
    with pytest.raises(BackendError, match="--dtype float32"):
        Predictor(PredictConfig(resolution=112, device="cpu")).predict(images)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: not enough memory")]
)
def test_running_out_of_memory_names_views_tokens_and_the_options(error, photographs, plane_backbone, monkeypatch):
    def hungry(self, batch):
        raise error

    monkeypatch.setattr(plane_backbone, "predict", hungry)
    images = discover([photographs(2)])
    with pytest.raises(MemoryLimitError, match=r"2 views × 48 tokens, .* GiB .*--resolution .*--max-views"):
        Predictor(PredictConfig(resolution=112, device="cpu")).predict(images)
