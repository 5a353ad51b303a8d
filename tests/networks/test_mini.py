"""The embedded network: views of mixed sizes share one attention, and order does not matter beyond the
reference view.
"""

from pathlib import Path

import cv2
import pytest
import torch

from lite3r_cli.networks import registry
from lite3r_cli.networks.mini.network import DECODED, Mini, MiniConfig, intrinsics_from_log_focal

SMALL = MiniConfig(dim=48, depth=4, heads=2, alternate_from=1, taps=(0, 1, 2, 3), head_features=16,
                   head_stages=(8, 8, 8, 8), camera_hidden=16, position_grid=7)  # fmt: skip


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = Mini(SMALL).eval()
    torch.nn.init.normal_(model.camera.out.weight, std=0.5)  # cameras that depend visibly on the input
    for block in model.blocks:
        block.ls1.gamma.data.fill_(1.0)
    return model


def images(*sizes):
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, h, w, generator=generator) for h, w in sizes]


def test_predict_of_equal_sizes_is_the_training_forward(model):
    views = images((42, 70), (42, 70), (42, 70))
    prediction = model.predict(views)
    with torch.no_grad():
        out = model(torch.stack(views)[None])
    torch.testing.assert_close(torch.stack(prediction.depth), out.log_depth[0].exp(), rtol=1e-4, atol=1e-5)
    K = intrinsics_from_log_focal(out.log_focal[0], 42, 70)
    torch.testing.assert_close(prediction.K, K, rtol=1e-4, atol=1e-4)


def test_cameras_are_not_rounded_to_bfloat16_in_training(model):
    with torch.autocast("cpu", torch.bfloat16):
        out = model(torch.stack(images((42, 70), (42, 70)))[None])
    for values in (out.rotation, out.centre, out.log_focal):
        assert not torch.equal(values, values.bfloat16().float())


def test_views_of_mixed_sizes_keep_their_own_answers_when_reordered(model):
    views = images((42, 70), (70, 42), (42, 70), (56, 56))
    forward = model.predict(views)
    order = [0, 3, 2, 1]  # the reference stays first
    shuffled = model.predict([views[i] for i in order])
    for place, i in enumerate(order):
        assert forward.depth[i].shape == views[i].shape[1:]
        torch.testing.assert_close(shuffled.depth[place], forward.depth[i], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(shuffled.cam_from_world[place], forward.cam_from_world[i], rtol=1e-3, atol=1e-4)


def test_depth_of_several_views_at_once_is_that_of_each(model, monkeypatch):
    """A GPU gives the depth head several views at a time."""
    views = images((42, 70), (56, 56), (42, 70), (42, 70), (42, 70), (56, 56))
    one = model.predict(views)
    monkeypatch.setitem(DECODED, "cpu", 3)
    several = model.predict(views)
    for which in ("depth", "confidence"):
        for a, b in zip(getattr(one, which), getattr(several, which), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_every_view_sees_the_others(model):
    views = images((42, 70), (70, 42))
    alone = model.predict(views[:1])
    together = model.predict(views)
    assert not torch.allclose(alone.depth[0], together.depth[0], rtol=1e-3)


def test_cameras_are_rigid_and_sized_like_the_input(model):
    prediction = model.predict(images((42, 70), (28, 98)))
    R = prediction.cam_from_world[:, :, :3]
    torch.testing.assert_close(R @ R.transpose(1, 2), torch.eye(3).expand(2, 3, 3), atol=1e-5, rtol=0)
    assert torch.linalg.det(R).allclose(torch.ones(2), atol=1e-5)
    assert prediction.K[:, 0, 2].tolist() == [35.0, 49.0] and prediction.K[:, 1, 2].tolist() == [21.0, 14.0]


def test_sky_has_neither_depth_nor_confidence():
    scene = Path(__file__).parents[2] / "sample_scenes/facade"
    rgb = cv2.cvtColor(cv2.imread(str(scene / "images/00.jpg")), cv2.COLOR_BGR2RGB)
    truth = cv2.imread(str(scene / "depth/00.png"), cv2.IMREAD_UNCHANGED)
    prediction = registry.load("mini").predict([torch.from_numpy(cv2.resize(rgb, (518, 392))).permute(2, 0, 1) / 255])
    sky = prediction.depth[0] == 0
    true_sky = torch.from_numpy(cv2.resize(truth, (518, 392), interpolation=cv2.INTER_NEAREST).astype("int32")) == 0
    assert true_sky.sum() > 5000
    assert (sky & true_sky).sum() > 0.9 * (sky | true_sky).sum()
    assert torch.equal(prediction.confidence[0] == 0, sky)


def test_shipped_size_stays_below_25_million_parameters():
    with torch.device("meta"):
        assert sum(p.numel() for p in Mini(MiniConfig(known_cameras=True, camera_layers=2)).parameters()) < 25e6


def test_training_goes_on_after_a_prediction(model):
    model.predict(images((28, 42)))
    model(torch.stack(images((28, 42), (28, 42)))[None]).log_depth.mean().backward()
    assert model.blocks[1].attn.qkv.weight.grad.abs().sum() > 0
