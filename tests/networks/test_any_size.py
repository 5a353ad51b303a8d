"""What the published networks do beyond their authors' fixtures: mixed sizes, known cameras, rays, our conventions."""

import dataclasses

import numpy as np
import pytest
import torch

from lite3r_cli.layers.heads import pose
from lite3r_cli.layers.heads.rays import cameras_from_rays
from lite3r_cli.layers.vit import SwiGlu
from lite3r_cli.networks import standin
from lite3r_cli.networks.da3.camera_heads import normalise_cameras
from lite3r_cli.networks.da3.network import DA3, DA3Config, KnownCameras
from lite3r_cli.networks.da3.reference_view import STRATEGIES, choose_reference
from lite3r_cli.networks.vggt.network import VGGT, VGGTConfig

TINY_VGGT = VGGTConfig(
    dim=32, pairs=4, heads=2, encoder_depth=2, encoder_heads=2, taps=(0, 1, 2, 3), head_features=16,
    head_stages=(8, 8, 8, 8), camera_depth=1, camera_heads=2, position_grid=5,
)  # fmt: skip
TINY_DA3 = DA3Config(
    dim=32, depth=8, heads=2, alternate_from=1, taps=(1, 3, 5, 7), head_features=16, head_stages=(8, 8, 8, 8),
    position_grid=5, camera_heads=2, camera_depth=1,
)  # fmt: skip


@pytest.fixture(
    params=[VGGT(TINY_VGGT), DA3(TINY_DA3), DA3(dataclasses.replace(TINY_DA3, swiglu=True))],
    ids=["vggt", "da3", "swiglu"],
)
def model(request):
    standin.fill(request.param, 3)
    return request.param.eval()


def pictures(*sizes):
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, h, w, generator=generator) for h, w in sizes]


def test_predict_of_equal_sizes_is_forward(model):
    views = pictures((42, 70), (42, 70), (42, 70))
    prediction = model.predict(views)
    with torch.no_grad():
        out = model(torch.stack(views)[None])
    torch.testing.assert_close(torch.stack(prediction.depth), out.depth[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.stack(prediction.confidence), out.confidence[0], rtol=1e-5, atol=1e-6)


def test_views_of_mixed_sizes_keep_their_own_answers_when_reordered(model):
    model.reference_view = "first"
    views = pictures((42, 70), (70, 42), (42, 70), (28, 28))
    straight = model.predict(views)
    order = [0, 3, 2, 1]  # the first view stays: its camera is the world frame
    shuffled = model.predict([views[i] for i in order])
    for place, i in enumerate(order):
        assert straight.depth[i].shape == views[i].shape[1:]
        torch.testing.assert_close(shuffled.depth[place], straight.depth[i], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(shuffled.cam_from_world[place], straight.cam_from_world[i], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(shuffled.K[place], straight.K[i], rtol=1e-3, atol=1e-3)


def test_heads_in_chunks_change_nothing(model):
    views = pictures(*[(28, 42)] * 5)
    whole = model.predict(views)
    model.head_frames = 2
    torch.testing.assert_close(torch.stack(model.predict(views).depth), torch.stack(whole.depth), rtol=1e-5, atol=1e-6)


def test_cameras_are_rigid_finite_and_keep_each_pixels_ray(model):
    prediction = model.predict(pictures((42, 70), (28, 98)))
    R = prediction.cam_from_world[:, :, :3]
    torch.testing.assert_close(R @ R.transpose(1, 2), torch.eye(3).expand(2, 3, 3), atol=1e-4, rtol=0)
    assert torch.isfinite(prediction.K).all() and (prediction.K[:, [0, 1], [0, 1]] > 0).all()
    # the authors put the principal point at W/2 with pixel centres at whole numbers: half a pixel further on for us
    assert prediction.K[:, 0, 2].tolist() == [35.5, 49.5] and prediction.K[:, 1, 2].tolist() == [21.5, 14.5]


def test_half_precision_trunk_is_close_to_float32(model):
    from lite3r_cli.layers.buckets import cast_products

    views = pictures((42, 70), (42, 70))
    exact = model.predict(views)
    cast_products(model.trunk, torch.bfloat16)
    model.compute_dtype = torch.bfloat16
    rounded = model.predict(views)
    assert rounded.depth[0].dtype == torch.float32
    error = (torch.stack(rounded.depth) / torch.stack(exact.depth)).log().abs().median()
    assert 0 < error < 0.05


def random_rotations(count):
    q = np.random.default_rng(0).standard_normal((count, 4))
    return pose.rotation_from_quaternion(torch.tensor(q, dtype=torch.float64))


def test_quaternions_and_rotations_are_inverse_in_every_branch():
    half_turns = torch.diag_embed(
        torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, 1]], dtype=torch.float64)
    )
    R = torch.cat([random_rotations(50), half_turns])
    q = pose.quaternion_from_rotation(R)
    torch.testing.assert_close(pose.rotation_from_quaternion(q), R)
    assert (q[:, 3] >= 0).all()
    assert len(set(q.abs().argmax(-1).tolist())) == 4


def test_known_cameras_come_back_and_set_the_scale():
    model = DA3(TINY_DA3).eval()
    standin.fill(model, 4)
    views = pictures((42, 70), (42, 70), (42, 70))
    poses = torch.cat(
        [random_rotations(3).float(), torch.randn(3, 3, 1, generator=torch.Generator().manual_seed(2))], -1
    )
    K = torch.tensor([[60.0, 0, 35], [0, 55, 21], [0, 0, 1]]).repeat(3, 1, 1)
    once = model.predict(views, KnownCameras(poses, K))
    assert torch.equal(once.cam_from_world, poses) and torch.equal(once.K, K)
    assert not torch.allclose(once.depth[0], model.predict(views).depth[0], rtol=1e-2)
    larger = torch.cat([poses[..., :3], 3 * poses[..., 3:]], dim=-1)
    thrice = model.predict(views, KnownCameras(larger, K))
    torch.testing.assert_close(torch.stack(thrice.depth), 3 * torch.stack(once.depth), rtol=1e-3, atol=1e-4)


def test_normalised_cameras_start_at_the_origin_with_a_median_distance_of_one():
    t = 5 * torch.randn(6, 3, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    poses = torch.cat([random_rotations(6), t], dim=-1)[None]
    result = normalise_cameras(poses)
    torch.testing.assert_close(result[0, 0], torch.eye(3, 4, dtype=torch.float64), atol=1e-9, rtol=0)
    inverse = pose.invert_rigid(result[..., :3], result[..., 3])
    distances = inverse[0, :, :, 3].norm(dim=-1).sort().values
    assert distances[2].item() == pytest.approx(1)  # the lower of the middle two of six, the zero counted


def test_rays_give_back_the_cameras_that_made_them():
    towards = torch.tensor([[0.0, 0, 0, 1], [0.2, -0.3, 0.1, 1], [-0.1, 0.1, 0.4, 1]])  # a few tens of degrees
    R, centres = pose.rotation_from_quaternion(towards), torch.tensor([[0.0, 0, 0], [1, 2, 3], [-1, 0.5, 2]])
    height, width, rows, columns = 84, 112, 12, 16
    K = torch.tensor([[90.0, 0, 56], [0, 100, 42], [0, 0, 1]]).repeat(3, 1, 1)
    x = (torch.arange(columns) + 0.5) * width / columns
    y = (torch.arange(rows) + 0.5) * height / rows
    pixels = torch.stack([x.expand(rows, -1), y[:, None].expand(-1, columns), torch.ones(rows, columns)], dim=-1)
    direction = torch.einsum("sij,sjk,hwk->shwi", R, torch.linalg.inv(K), pixels)
    rays = torch.cat([direction, centres[:, None, None].expand_as(direction)], dim=-1)
    rays[1, :3, :4, :3] = 7.0  # outliers
    confidence = torch.ones(3, rows, columns)
    confidence[1, :3, :4] = 1.5
    found, found_K = cameras_from_rays(rays, confidence, (height, width))
    state = torch.manual_seed(7).get_state()
    again, _ = cameras_from_rays(rays, confidence, (height, width))
    assert torch.equal(again, found) and torch.equal(torch.get_rng_state(), state)  # apart from the program's dice
    expected = pose.invert_rigid(R, centres)
    torch.testing.assert_close(found[..., 3], expected[..., 3], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found[..., :3], expected[..., :3], atol=1e-3, rtol=0)
    torch.testing.assert_close(found_K, K, atol=0.05, rtol=1e-3)


@pytest.mark.parametrize("views, expected", [(2, [0, 0]), (5, [2, 2])])
def test_reference_by_position(views, expected):
    features = torch.randn(2, views, 8, generator=torch.Generator().manual_seed(0))
    assert choose_reference(features, "middle").tolist() == expected
    assert choose_reference(features, "first").tolist() == [0, 0]


def test_reference_by_similarity_prefers_the_typical_or_the_telling_view():
    base = torch.randn(1, 16, generator=torch.Generator().manual_seed(0))
    features = (base + 0.1 * torch.randn(6, 16, generator=torch.Generator().manual_seed(1)))[None].clone()
    features[0, 4] *= -1  # unlike all others
    assert choose_reference(features, "saddle_sim_range").item() != 4  # it is unlike all others to the same degree
    assert choose_reference(features, "saddle_balanced").item() != 4
    assert set(STRATEGIES) == {"saddle_balanced", "saddle_sim_range", "middle", "first"}


def test_swiglu_gates_the_second_half_with_the_first():
    mlp = SwiGlu(6, 24)
    assert mlp.w3.in_features == 16 and SwiGlu(1536, 4 * 1536).w3.in_features == 4096
    x = torch.randn(5, 6)
    a, b = (x @ mlp.w12.weight.T + mlp.w12.bias).split(16, dim=-1)
    torch.testing.assert_close(mlp(x), (a * a.sigmoid() * b) @ mlp.w3.weight.T + mlp.w3.bias)
