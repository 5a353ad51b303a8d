"""Layers of the camera decoder across the views: no effect before training; afterwards each camera depends on all."""

import dataclasses

import pytest
import torch
from test_mini import SMALL, images

from lite3r_cli.checkpoints.weights import read_checkpoint
from lite3r_cli.layers.heads.camera import CameraDecoder
from lite3r_cli.networks import registry
from lite3r_cli.networks.mini.network import Mini
from lite3r_cli.training.initialise import load_checkpoint
from lite3r_cli.training.state import save_weights


@pytest.fixture
def decoders():
    torch.manual_seed(0)
    plain, corrected = CameraDecoder(24, 16), CameraDecoder(24, 16, layers=2)
    corrected.load_state_dict(
        plain.state_dict() | {f"correct.{k}": v for k, v in corrected.correct.state_dict().items()}
    )
    return plain.eval(), corrected.eval()


def test_untrained_layers_change_nothing_and_trained_ones_look_at_every_view(decoders):
    plain, corrected = decoders
    tokens = torch.randn(1, 5, 24)
    for before, after in zip(plain(tokens), corrected(tokens), strict=True):
        assert torch.equal(before, after)
    torch.nn.init.normal_(corrected.correct.out.weight, std=0.5)
    other = tokens.clone()
    other[:, 4] = torch.randn(24)
    for a, b in zip(corrected(tokens), corrected(other), strict=True):
        assert ((a - b)[0, :4].reshape(4, -1) != 0).any(-1).all()
    order = torch.tensor([3, 0, 4, 1, 2])
    for a, b in zip(corrected(tokens), corrected(tokens[:, order]), strict=True):
        torch.testing.assert_close(a[:, order], b, rtol=1e-4, atol=1e-5)


def test_training_goes_on_from_weights_without_them_and_the_file_says_that_it_has_them(tmp_path):
    torch.manual_seed(0)
    old = Mini(SMALL).eval()
    save_weights(tmp_path / "old.safetensors", old.state_dict(), old, torch.float32)
    load_checkpoint(old, tmp_path / "old.safetensors")  # as stored
    new = Mini(dataclasses.replace(SMALL, camera_layers=2)).eval()
    load_checkpoint(new, tmp_path / "old.safetensors")
    views = images((42, 70), (42, 70))
    assert torch.equal(new.predict(views).cam_from_world, old.predict(views).cam_from_world)
    torch.nn.init.normal_(new.camera.correct.out.weight, std=0.5)
    save_weights(tmp_path / "new.safetensors", new.state_dict(), new, torch.float8_e4m3fn)
    read = registry.load(str(tmp_path / "new.safetensors"))
    assert read.config.camera_layers == 2
    stored, _ = read_checkpoint(tmp_path / "new.safetensors")
    new.load_state_dict(stored)
    torch.testing.assert_close(read.predict(views).cam_from_world, new.predict(views).cam_from_world)
