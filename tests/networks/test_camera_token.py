"""Camera tokens of `mini`: no effect before training; afterwards they reach every view of any size."""

import dataclasses

import pytest
import torch
from test_mini import SMALL, images

from lite3r_cli.layers.heads.camera import rotation_from_6d
from lite3r_cli.networks.mini.known import CameraHints
from lite3r_cli.networks.mini.network import Mini
from lite3r_cli.training.initialise import load_checkpoint
from lite3r_cli.training.state import save_weights


def told(views: int) -> CameraHints:
    generator = torch.Generator().manual_seed(2)
    return CameraHints(
        torch.rand(1, views, generator=generator),
        rotation_from_6d(torch.randn(1, views, 6, generator=generator)),
        torch.randn(1, views, 3, generator=generator),
    )


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Mini(dataclasses.replace(SMALL, known_cameras=True)).eval()


def test_an_untrained_input_changes_nothing_and_a_trained_one_does(model):
    views = images((42, 70), (70, 42), (42, 70))
    without = model.predict(views)
    assert torch.equal(model.predict(views, told(3)).K, without.K)
    torch.nn.init.normal_(model.known_camera.linear.weight)
    assert torch.equal(model.predict(views, CameraHints.nothing(1, 3, torch.device("cpu"))).K, without.K)
    one = CameraHints.nothing(1, 3, torch.device("cpu"))
    one.log_focal[0, 1] = 0.5
    torch.nn.init.normal_(model.camera.out.weight, std=0.5)
    assert not torch.allclose(model.predict(views, one).K, model.predict(views).K)


def test_mixed_sizes_get_the_values_of_their_own_views(model):
    torch.nn.init.normal_(model.known_camera.linear.weight)
    torch.nn.init.normal_(model.camera.out.weight, std=0.5)
    views, known, order = images((42, 70), (70, 42), (42, 70)), told(3), [0, 2, 1]
    moved = CameraHints(known.log_focal[:, order], known.rotation[:, order], known.centre[:, order])
    first, second = model.predict(views, known), model.predict([views[i] for i in order], moved)
    torch.testing.assert_close(second.K, first.K[order], rtol=1e-3, atol=1e-3)


def test_the_scale_of_known_positions_does_not_matter():
    known = told(4)
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
