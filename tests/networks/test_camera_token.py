"""Camera tokens of `mini`: no effect before training; afterwards they reach every view of any size."""

import dataclasses

import pytest
import torch
from test_mini import SMALL, images

from lite3r_cli.layers.heads.camera import rotation_from_6d
from lite3r_cli.networks.base import KnownCameras
from lite3r_cli.networks.mini.known import CameraHints
from lite3r_cli.networks.mini.network import Mini
from lite3r_cli.training.initialise import load_checkpoint
from lite3r_cli.training.state import save_weights


def told(views: int) -> KnownCameras:
    generator = torch.Generator().manual_seed(2)
    rotation = rotation_from_6d(torch.randn(views, 6, generator=generator))
    K = torch.eye(3).repeat(views, 1, 1)
    K[:, [0, 1], [0, 1]] = 40 + 40 * torch.rand(views, 1, generator=generator)
    return KnownCameras(torch.cat([rotation, torch.randn(views, 3, 1, generator=generator)], dim=2), K)


def nothing(views: int) -> KnownCameras:
    return KnownCameras(torch.full((views, 3, 4), torch.nan), torch.full((views, 3, 3), torch.nan))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Mini(dataclasses.replace(SMALL, known_cameras=True)).eval()


def test_an_untrained_input_changes_nothing_and_a_trained_one_does(model):
    views = images((42, 70), (70, 42), (42, 70))
    without = model.predict(views)
    assert torch.equal(model.predict(views, told(3)).K, without.K)
    torch.nn.init.normal_(model.known_camera.linear.weight)
    assert torch.equal(model.predict(views, nothing(3)).K, without.K)
    focal = KnownCameras(nothing(3).cam_from_world, told(3).K)
    torch.nn.init.normal_(model.camera.out.weight, std=0.5)
    assert not torch.allclose(model.predict(views, focal).K, model.predict(views).K)


def test_mixed_sizes_get_the_values_of_their_own_views(model):
    torch.nn.init.normal_(model.known_camera.linear.weight)
    torch.nn.init.normal_(model.camera.out.weight, std=0.5)
    views, known, order = images((42, 70), (70, 42), (42, 70)), told(3), [0, 2, 1]
    moved = KnownCameras(known.cam_from_world[order], known.K[order])
    first, second = model.predict(views, known), model.predict([views[i] for i in order], moved)
    torch.testing.assert_close(second.K, first.K[order], rtol=1e-3, atol=1e-3)


def test_focal_lengths_are_in_half_diagonals_and_poses_in_the_frame_of_the_first_view():
    known = told(3)
    found = CameraHints.of(known, torch.tensor([[30, 40], [60, 80], [30, 40]]))
    torch.testing.assert_close(found.log_focal.exp()[0], known.K[:, 0, 0] / torch.tensor([25.0, 50.0, 25.0]))
    R, t = known.cam_from_world[:, :, :3], known.cam_from_world[:, :, 3]
    point = torch.tensor([1.0, 2.0, 3.0])  # seen from the last camera, then from the first
    there = R[0] @ (R[2].T @ (point - t[2])) + t[0]
    torch.testing.assert_close(found.rotation[0, 2] @ point + found.centre[0, 2], there)
    known.cam_from_world[1] = torch.nan  # it was trained with those of all views or of none
    features = CameraHints.of(known, torch.full((3, 2), 28)).features()
    assert features[..., 0].all() and not features[..., 3:].any()


def test_a_network_trained_without_known_cameras_ignores_them():
    torch.manual_seed(0)
    views, model = images((42, 70), (42, 70)), Mini(SMALL).eval()
    assert torch.equal(model.predict(views, told(2)).K, model.predict(views).K)


def test_the_scale_of_known_positions_does_not_matter():
    known = CameraHints.of(told(4), torch.full((4, 2), 28))
    larger = dataclasses.replace(known, centre=known.centre * 100)
    torch.testing.assert_close(larger.features(), known.features())
    unknown = dataclasses.replace(known, rotation=torch.full_like(known.rotation, torch.nan))
    assert not unknown.features()[..., 3:].any() and unknown.features()[..., 0].all()


def test_training_goes_on_from_weights_without_this_input(model, tmp_path):
    old = Mini(SMALL)
    save_weights(tmp_path / "old.safetensors", old.state_dict(), old, torch.float32)
    load_checkpoint(model, tmp_path / "old.safetensors")
    assert torch.equal(model.blocks[0].attn.qkv.weight, old.blocks[0].attn.qkv.weight)
    assert not model.known_camera.linear.weight.any()
