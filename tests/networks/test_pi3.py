"""π³ and Pi3X: no view is the reference, views may differ in size, and what is known of cameras reaches Pi3X."""

import dataclasses

import pytest
import torch
from test_published import published_keys

from lite3r_cli.attention.module import SparseConfig, attach
from lite3r_cli.networks.base import KnownCameras
from lite3r_cli.networks.family import families, family_of, global_layers_of
from lite3r_cli.networks.pi3.fast import nearest_rotation_by_powers
from lite3r_cli.networks.pi3.heads import nearest_rotation
from lite3r_cli.networks.pi3.network import (
    PI3,
    PI3X,
    Pi3,
    Pi3Config,
    Pi3XConfig,
    intrinsics_from_points,
    with_usable_focal,
)

SIZES = {
    "dim": 64, "depth": 4, "heads": 2, "encoder_depth": 1, "encoder_heads": 2, "head_dim": 64, "head_heads": 2,
    "head_depth": 1, "head_out": 32, "camera_out": 32, "position_grid": 5,
}  # fmt: skip
TINY = {
    "pi3": Pi3Config(**SIZES),
    "pi3x": Pi3XConfig(
        **SIZES, conv_channels=(32, 16, 16), conv_last=8, metric_dim=32, metric_heads=1, metric_out=8, inject_after=(1,)
    ),
}


@pytest.fixture(params=TINY)
def model(request):
    torch.manual_seed(4)
    made = Pi3(TINY[request.param], request.param).eval()
    torch.nn.init.normal_(made.register_token)
    for block in made.decoder:
        block.ls1.gamma.data.fill_(0.5)
    return made


def pictures(*sizes):
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, h, w, generator=generator) for h, w in sizes]


@pytest.mark.parametrize("name, config", [("pi3", PI3), ("pi3x", PI3X)])
def test_the_state_dict_is_the_published_one(name, config):
    with torch.device("meta"):
        ours = {key: tuple(t.shape) for key, t in Pi3(config, name).state_dict().items()}
    published = published_keys(name)
    constants = {key for key in published if key.startswith("image_")}
    assert constants and ours == {key: shape for key, shape in published.items() if key not in constants}


def test_permuted_views_give_permuted_answers_in_another_first_frame(model):
    images, order = pictures((28, 42), (42, 28), (28, 42), (28, 28)), [2, 0, 3, 1]
    for sparse in (False, True):
        if sparse:
            config = SparseConfig(tuple(global_layers_of(model)), keep_ratio=0.4, block=16, protect="specials")
            attach(model, config)
        straight, moved = model.predict(images), model.predict([images[i] for i in order])
        for place, i in enumerate(order):
            torch.testing.assert_close(moved.depth[place], straight.depth[i], rtol=2e-3, atol=1e-4)
            torch.testing.assert_close(moved.K[place], straight.K[i], rtol=2e-3, atol=1e-3)
        R, t = straight.cam_from_world[:, :, :3], straight.cam_from_world[:, :, 3:]
        first = order[0]
        relative = R[order] @ R[first].T
        torch.testing.assert_close(moved.cam_from_world[:, :, :3], relative, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(moved.cam_from_world[:, :, 3:], t[order] - relative @ t[first], rtol=2e-3, atol=1e-4)


def test_the_answer_with_gradients_is_that_of_predict(model):
    images = torch.stack(pictures((28, 42), (28, 42), (28, 42)))
    prediction = model.predict(list(images))
    raw = family_of(model).answer(model, images[None], torch.tensor([0, 2]))
    torch.testing.assert_close(raw.log_depth[0, 1].exp(), prediction.depth[2], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(raw.rotation[0], prediction.cam_from_world[:, :, :3].transpose(1, 2), rtol=0, atol=1e-5)
    raw.log_depth.sum().backward()
    assert model.encoder.patch_embed.proj.weight.grad.abs().sum() > 0


def test_known_cameras_guide_pi3x_and_unknown_ones_do_not():
    torch.manual_seed(4)
    model = Pi3(TINY["pi3x"], "pi3x").eval()
    for block in model.pose_inject_blk:
        block.ls1.gamma.data.fill_(1.0)
    images = pictures((28, 42), (42, 28), (28, 42))
    plain = model.predict(images)
    pose = torch.eye(3, 4).repeat(3, 1, 1)
    pose[1, 0, 3], pose[2, 2, 3] = 1.0, -2.0
    nothing = KnownCameras(torch.full_like(pose, torch.nan), torch.full_like(plain.K, torch.nan))
    torch.testing.assert_close(model.predict(images, nothing).depth[0], plain.depth[0])
    one = dataclasses.replace(nothing, cam_from_world=torch.where(torch.arange(3)[:, None, None] == 1, pose, torch.nan))
    torch.testing.assert_close(model.predict(images, one).depth[0], plain.depth[0])  # one pose alone says nothing
    two = dataclasses.replace(nothing, cam_from_world=torch.where(torch.arange(3)[:, None, None] >= 1, pose, torch.nan))
    assert not torch.allclose(model.predict(images, two).depth[0], plain.depth[0], rtol=1e-4)
    larger = dataclasses.replace(two, cam_from_world=torch.cat([pose[..., :3], 7 * pose[..., 3:]], -1))
    larger = dataclasses.replace(
        larger, cam_from_world=torch.where(torch.arange(3)[:, None, None] >= 1, larger.cam_from_world, torch.nan)
    )
    same = model.predict(images, larger).depth[0]
    torch.testing.assert_close(same, model.predict(images, two).depth[0], rtol=1e-3, atol=1e-4)
    K = dataclasses.replace(nothing, K=plain.K.abs().clamp(min=1) * 1.3)
    assert not torch.allclose(model.predict(images, K).depth[0], plain.depth[0], rtol=1e-4)


def test_intrinsics_come_back_from_points():
    u, v = torch.arange(40) + 0.5, torch.arange(30) + 0.5
    z = 1 + torch.rand(2, 30, 40)
    x, y = (u - 20) / 90 * z, (v[:, None] - 15) / 93 * z
    K = intrinsics_from_points(torch.stack([x, y, z], -1))
    torch.testing.assert_close(K[0], torch.tensor([[90.0, 0, 20], [0, 93, 15], [0, 0, 1]]), rtol=1e-5, atol=1e-4)


def test_the_nearest_rotation_needs_no_decomposition():
    generator = torch.Generator().manual_seed(2)
    matrices = torch.randn(200, 3, 3, generator=generator)
    matrices[0] = torch.diag(torch.tensor([1.0, -1.0, -1.0]))  # half a turn: the scalar part is 0
    expected = nearest_rotation(matrices)
    torch.testing.assert_close(nearest_rotation_by_powers(matrices), expected, rtol=0, atol=1e-5)
    matrices[1, 0, 1], matrices[2, 2, 2] = torch.nan, torch.inf
    found = nearest_rotation(matrices)
    assert found[1:3].isnan().all() and torch.equal(found[3:], expected[3:])


def test_pi3_and_pi3x_are_told_apart():
    assert {families()[name].scale for name in TINY} == {"arbitrary", "metric"}
    assert not families()["pi3"].takes_cameras and families()["pi3x"].takes_cameras


def test_points_of_no_camera_give_no_camera_that_looks_backwards():
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(8.0), indexing="ij")
    points = torch.stack([3.5 - x, y - 2.5, torch.ones(6, 8)], dim=-1)[None]  # mirrored
    K = intrinsics_from_points(points)
    assert K[0, 0, 0] < 0 < K[0, 1, 1]
    assert with_usable_focal(K)[0].diagonal().tolist() == [1, 1, 1] and K[0, 0, 0] < 0
