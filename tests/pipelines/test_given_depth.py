"""`--depth`: measured depth reaches the network in metres, at its pixels; metric networks say metres in every file."""

import dataclasses
import json

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lite3r_cli import cli
from lite3r_cli.config import PredictConfig
from lite3r_cli.errors import InputError, UsageError
from lite3r_cli.io.cameras_json import write_cameras_json
from lite3r_cli.io.images import discover
from lite3r_cli.networks import standin
from lite3r_cli.networks.map_anything.network import MapAnything, MapAnythingConfig
from lite3r_cli.pipelines.predict import Predictor

TINY = MapAnythingConfig(
    encoder_dim=64, encoder_depth=1, encoder_heads=1, dim=64, depth=6, heads=1, taps=(2, 4), head_features=16,
    head_stages=(8, 8, 8, 8), dense_widths=(8, 8, 8), global_widths=(8, 8, 8), position_grid=5,
)  # fmt: skip


FORMATS = [part for name in ("mesh", "tum", "colmap", "nerfstudio") for part in ("--format", name)]


@pytest.fixture
def checkpoint(tmp_path):
    model = MapAnything(TINY)
    standin.fill(model, 2, model.constants())
    model.dense_head[1].conv2[2].bias.data[[2, 5]] = 3.0  # rays point forwards, nearly all pixels show a surface
    metadata = {"config": json.dumps(dataclasses.asdict(TINY)), "model": "map-anything"}
    save_file({k: v.clone() for k, v in model.state_dict().items()}, tmp_path / "tiny.safetensors", metadata)
    return tmp_path / "tiny.safetensors"


@pytest.fixture
def depth(tmp_path):
    """Depth of two of the photographs, in millimetres and in metres: a step at the middle, with a hole."""
    folder = tmp_path / "depth"
    folder.mkdir()
    metres = np.tile(np.where(np.arange(98) < 49, 1.0, 2.0), (70, 1)).astype(np.float32)
    metres[:7, :7] = 0
    cv2.imwrite(str(folder / "a0.png"), np.rint(metres * 1000).astype(np.uint16))
    np.save(folder / "a1.npy", metres)
    return folder


def predictor(checkpoint, **options):
    return Predictor(PredictConfig(str(checkpoint), resolution=98, device="cpu", dtype="float32", **options))


def told(predictor, photos):
    """What the network is told of cameras and depth."""
    heard = {}
    original = predictor.backbone.predict

    def predict(images, cameras=None, unseen=None):
        heard["cameras"] = cameras
        return original(images, cameras, unseen)

    predictor.backbone.predict = predict
    heard["views"] = predictor.predict(discover([photos]))
    return heard


def test_depth_reaches_the_network_in_metres_at_its_pixels(checkpoint, depth, photographs):
    heard = told(predictor(checkpoint, depth=depth, focal="90"), photographs(3))
    cameras = heard["cameras"]
    assert cameras.metric and cameras.cam_from_world.isnan().all() and cameras.K.isfinite().all()
    png, npy, none = cameras.depth
    assert none is None and png.shape == npy.shape == (70, 98)
    torch.testing.assert_close(png, npy)
    assert png[0, 0] == 0 and png[40, 10] == 1 and png[40, 90] == 2
    assert heard["views"].frame.metric and "metres" in heard["views"].frame.units
    plain = told(predictor(checkpoint, focal="90"), photographs(3))
    assert not plain["cameras"].depth and not plain["cameras"].metric
    assert not np.allclose(plain["views"].views[1].depth, heard["views"].views[1].depth, rtol=1e-3)


def test_poses_with_measured_depth_are_in_metres_and_one_picture_has_a_scale(checkpoint, depth, photographs, tmp_path):
    views = predictor(checkpoint).predict(discover([photographs(3)])).views
    K = np.array([[90.0, 0, 49], [0, 90, 35], [0, 0, 1]])
    write_cameras_json(tmp_path / "cameras.json", [dataclasses.replace(view, K=K, depth=None) for view in views])
    known = {"cameras": tmp_path / "cameras.json"}
    measured = told(predictor(checkpoint, depth=depth, **known), photographs(3))["views"]
    assert measured.frame.metric and "metres" in measured.frame.units
    assert not told(predictor(checkpoint, **known), photographs(3))["views"].frame.metric
    write_cameras_json(
        tmp_path / "tripod.json", [dataclasses.replace(views[0], K=K, depth=None, name=v.name) for v in views]
    )
    tripod = predictor(checkpoint, cameras=tmp_path / "tripod.json").predict(discover([photographs(3)]))
    assert tripod.frame.name == "given" and tripod.frame.metric and "network" in tripod.frame.units
    assert any("at one place" in text for text in tripod.warnings)
    (alone,) = predictor(checkpoint).predict(discover([photographs(3) / "a0.jpg"])).warnings
    assert "baseline" in alone and "scale" not in alone


def test_depth_without_values_is_unknown_and_depth_of_another_unit_is_noticed(checkpoint, depth, photographs):
    photos = discover([photographs(3)])
    cv2.imwrite(str(depth / "a0.png"), np.zeros((70, 98), np.uint16))
    heard = told(predictor(checkpoint, depth=depth, focal="90"), photographs(3))
    assert heard["cameras"].depth[0] is None and heard["cameras"].depth[1] is not None
    (said,) = [text for text in heard["views"].warnings if "no depth above 0" in text]
    assert "a0.jpg" in said and "a1.jpg" not in said
    wrong = predictor(checkpoint, depth=depth, depth_scale=1e-4, focal="90").predict(photos)
    assert any("times the measured depth" in text and "--depth-scale" in text for text in wrong.warnings)
    np.save(depth / "a1.npy", np.full((70, 98), -1.0))
    with pytest.raises(InputError, match="no file has a depth"):
        predictor(checkpoint, depth=depth, focal="90").predict(photos)


@pytest.mark.parametrize("option, others", [({"poses": "rays"}, "da3"), ({"depth": "."}, "pi3x")])
def test_an_option_that_a_network_lacks_is_named_before_its_download(option, others, monkeypatch):
    monkeypatch.setattr("lite3r_cli.checkpoints.hub.download", None)
    with pytest.raises(UsageError, match=f"{others}.*; pi3 has nothing like it"):
        Predictor(PredictConfig("pi3", **option))


def test_a_known_focal_length_reaches_mini_in_pixels_of_its_input(photographs):
    heard = told(Predictor(PredictConfig("mini", resolution=224, device="cpu", focal="90")), photographs(2))
    K, width = heard["cameras"].K, heard["views"].views[0].depth.shape[1]
    torch.testing.assert_close(K[:, 0, 0] / width, torch.full((2,), 90 / 98), rtol=0.02, atol=0)
    assert heard["cameras"].cam_from_world.isnan().all() and K[0, 0, 2] == pytest.approx(width / 2, abs=1)
    assert told(Predictor(PredictConfig("mini", resolution=224, device="cpu")), photographs(2))["cameras"] is None


def test_depth_without_focal_lengths_or_of_other_pictures_is_refused(checkpoint, depth, photographs, tmp_path):
    photos = discover([photographs(3)])
    with pytest.raises(InputError, match="focal lengths"):
        predictor(checkpoint, depth=depth, focal="network").predict(photos)
    with pytest.raises(UsageError, match="no such folder"):
        predictor(checkpoint, depth=tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"a0\.png"):
        predictor(checkpoint, depth=tmp_path / "empty", focal="90").predict(photos)
    np.save(depth / "a1.npy", np.ones((98, 70), np.float32))
    with pytest.raises(InputError, match="70x98"):
        predictor(checkpoint, depth=depth, focal="90").predict(photos)
    for data in (b"", b"\x93NUMPY\x01\x00nonsense", (depth / "a1.npy").read_bytes()[:-9]):
        (depth / "a1.npy").write_bytes(data)
        with pytest.raises(InputError, match=r"a1\.npy"):
            predictor(checkpoint, depth=depth, focal="90").predict(photos)
    np.save(depth / "a1.npy", np.array([[None]]))
    with pytest.raises(InputError, match="numbers"):
        predictor(checkpoint, depth=depth, focal="90").predict(photos)


def test_other_networks_refuse_depth(depth, photographs, tmp_path, plane_backbone, capsys):
    assert cli.main(["reconstruct", str(photographs(2)), "-o", str(tmp_path / "out"), "--depth", str(depth)]) == 2
    error = capsys.readouterr().err
    assert "pi3x" in error and "map-anything" in error  # in the order in which the networks were imported


def test_files_say_metres(checkpoint, depth, photographs, tmp_path, capsys):
    photos, out = photographs(2), tmp_path / "out"
    common = ["reconstruct", str(photos), "-o", str(out), "--device", "cpu", "--depth", str(depth), "--focal", "90"]
    assert cli.main([*common, "--model", str(checkpoint), "--resolution", "98", "--depth-scale", "mm", *FORMATS]) == 0
    world = json.loads((out / "run.json").read_text())["world"]
    assert world["metric"] is True and json.loads((out / "cameras.json").read_text())["world"] == world
    said = "units: metres, as the network estimates them"
    for name in ("scene.ply", "mesh.ply", "mesh.obj", "trajectory.txt", "sparse/0/images.txt", "sparse/0/points3D.txt"):
        assert said.encode() in (out / name).read_bytes()[:700], name
    assert json.loads((out / "transforms.json").read_text())["units"] in said
    chunks = ["--chunk", "3", "--keep-unrelated", "--overwrite", "--model", str(checkpoint), "--resolution", "98"]
    assert cli.main(["reconstruct", str(photographs(4)), "-o", str(out), "--device", "cpu", *chunks]) == 0
    assert json.loads((out / "run.json").read_text())["world"] == world
    assert cli.main([*common, "--overwrite", "--depth-scale", "inch"]) == 2
    assert "5000" in capsys.readouterr().err
