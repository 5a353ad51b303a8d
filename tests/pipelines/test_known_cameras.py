"""Options that only Depth-Anything-3 understands, from the command line to the network."""

import dataclasses
import json

import numpy as np
import pytest
from safetensors.torch import save_file

from lite3r_cli import cli
from lite3r_cli.config import PredictConfig
from lite3r_cli.errors import InputError, UsageError
from lite3r_cli.io.cameras_json import read_cameras_json, write_cameras_json
from lite3r_cli.io.images import discover
from lite3r_cli.networks import standin
from lite3r_cli.networks.da3.network import DA3, DA3Config
from lite3r_cli.pipelines.predict import Predictor
from lite3r_cli.scene.posed_view import View

TINY = DA3Config(
    dim=32, depth=8, heads=2, alternate_from=2, taps=(1, 3, 5, 7), head_features=16, head_stages=(8, 8, 8, 8),
    position_grid=5, camera_heads=2, camera_depth=1,
)  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path):
    model = DA3(TINY)
    standin.fill(model, 2)
    path = tmp_path / "da3.safetensors"
    save_file(
        {k: v.clone() for k, v in model.state_dict().items()}, path, {"config": json.dumps(dataclasses.asdict(TINY))}
    )
    return path


def cameras(folder, names, width=98, height=70):
    views = []
    for i, name in enumerate(names):
        pose = np.eye(3, 4)
        pose[:, 3] = [-2.0 * i, 0.1 * i, 0]
        views.append(View(name, width, height, np.array([[90.0, 0, 49], [0, 90, 35], [0, 0, 1]]), pose))
    write_cameras_json(folder / "cameras.json", views)
    return folder / "cameras.json"


def predict(checkpoint, photos, **options):
    return (
        Predictor(PredictConfig(str(checkpoint), resolution=98, device="cpu", dtype="float32", **options))
        .predict(discover([photos]))
        .views
    )


def test_known_cameras_are_kept_in_their_frame_and_set_the_scale(checkpoint, photographs, tmp_path):
    photos = photographs(3)
    path = cameras(tmp_path, ["a0.jpg", "a1.jpg", "a2.jpg"])
    given = predict(checkpoint, photos, cameras=path)
    for view, known in zip(given, read_cameras_json(path)):
        np.testing.assert_array_equal(view.cam_from_world, known.cam_from_world)
        np.testing.assert_allclose(view.K, known.K, atol=1e-9)
    free = predict(checkpoint, photos)
    assert not np.allclose(free[0].depth, given[0].depth, rtol=1e-2)


def test_rays_and_reference_view_change_the_poses(checkpoint, photographs):
    photos = photographs(4)
    usual = predict(checkpoint, photos, reference_view="first")
    other = predict(checkpoint, photos, reference_view="middle")
    assert not np.allclose(usual[1].depth, other[1].depth, rtol=1e-3)
    rays = predict(checkpoint, photos, reference_view="first", poses="rays")
    np.testing.assert_allclose(rays[1].depth, usual[1].depth, rtol=1e-5)
    assert not np.allclose(rays[1].cam_from_world, usual[1].cam_from_world, atol=1e-2)


def test_cameras_that_do_not_fit_the_images_are_refused(checkpoint, photographs, tmp_path):
    photos = photographs(3)
    with pytest.raises(InputError, match="a camera for none of the images"):
        predict(checkpoint, photos, cameras=cameras(tmp_path, ["b0.jpg", "b1.jpg"]))
    with pytest.raises(InputError, match="99x70"):
        predict(checkpoint, photos, cameras=cameras(tmp_path, ["a0.jpg", "a1.jpg", "a2.jpg"], width=99))
    (tmp_path / "K.json").write_text('{"images": {"b*": {"K": [[90, 0, 49], [0, 90, 35], [0, 0, 1]]}}}')
    with pytest.raises(InputError, match=r"K\.json: fits none of the images \(a0.jpg, …\); it has b\*"):
        predict(checkpoint, photos, intrinsics=str(tmp_path / "K.json"))


@pytest.mark.parametrize("option", [("--poses", "rays"), ("--reference-view", "first")])
def test_other_networks_refuse_the_options(option, photographs, tmp_path, plane_backbone, capsys):
    arguments = ["reconstruct", str(photographs(2)), "-o", str(tmp_path / "s.ply"), "--device", "cpu", *option]
    assert cli.main(arguments) == 2
    assert f"{option[0]} is for the da3 models" in capsys.readouterr().err


def test_unknown_ways_are_refused(checkpoint, photographs):
    with pytest.raises(UsageError, match="saddle_balanced"):
        predict(checkpoint, photographs(1), reference_view="best")
    with pytest.raises(UsageError, match="tokens, rays"):
        PredictConfig(poses="guess")
