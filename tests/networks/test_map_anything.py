"""MapAnything: the original's outputs whatever is given, what is known of cameras and depth, the mask, and metres."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from lite3r_cli.networks.base import KnownCameras
from lite3r_cli.networks.family import families, family_of
from lite3r_cli.networks.map_anything.mask import depth_edges, intrinsics_from_rays, normal_edges
from lite3r_cli.networks.map_anything.network import V1, V1_1, MapAnything, MapAnythingConfig, MapAnythingV1Config
from lite3r_cli.networks.map_anything.recompute import afterwards
from lite3r_cli.networks.parity import TOLERANCE, errors_of, relative_error
from lite3r_cli.networks.recognise import recognise

SIZES = {
    "encoder_dim": 128, "encoder_depth": 1, "encoder_heads": 2, "dim": 128, "depth": 6, "heads": 2, "taps": (2, 4),
    "head_features": 16, "head_stages": (8, 8, 8, 8), "dense_widths": (8, 8, 8), "global_widths": (8, 8, 8),
    "position_grid": 5,
}  # fmt: skip
TINY = {
    "map-anything": MapAnythingConfig(**SIZES),
    "map-anything-v1": MapAnythingV1Config(**SIZES | {"dim": 64, "heads": 1}),
}
SMALL = ("small_mixed_4x84x98", "v1_small_mixed_3x84x98")
OTHERS = (
    "small_3x140x182", "small_1x518x518", "small_rays_3x112x140", "small_posed_4x84x112",
    "small_depth_2x112x84", "small_nonmetric_3x98x70", "v1_small_3x112x140", "2x112x140", "given_2x84x112",
    "v1_2x84x112",
)  # fmt: skip


@pytest.fixture(params=TINY)
def model(request):
    torch.manual_seed(4)
    made = MapAnything(TINY[request.param], request.param).eval()
    made.dense_head[1].conv2[2].bias.data[[2, 5]] = 3.0  # rays point forwards, and nearly all pixels show a surface
    for block in made.info_sharing.self_attention_blocks:
        if hasattr(block.ls1, "gamma"):
            block.ls1.gamma.data.fill_(0.5)
            block.ls2.gamma.data.fill_(0.5)
    return made


def pictures(*sizes):
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, h, w, generator=generator) for h, w in sizes]


@pytest.mark.parametrize("name", SMALL)
def test_outputs_are_those_of_the_original_code(reference, name):
    errors = errors_of(reference / f"map_anything_{name}.npz")
    assert len(errors) == 16 and all(value <= TOLERANCE for value in errors.values()), errors


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_outputs_of_the_other_fixtures_are_those_of_the_original_code(large_reference, name):
    errors = errors_of(large_reference / f"map_anything_{name}.npz")
    assert all(value <= TOLERANCE for value in errors.values()), errors


def test_what_follows_the_network_is_the_authors(reference):
    with np.load(reference / "map_anything_post_2x84x98.npz") as file:
        given = {name: file[name] for name in file.files}
    found = afterwards(given)
    both = found["mask"] & torch.from_numpy(given["mask"])
    for name in ("mask", "mask_conf", "mask_plain"):
        assert (found[name] != torch.from_numpy(given[name])).sum() <= 4, name
    for name in ("depth_z", "pts3d"):
        assert relative_error(found[name][both], torch.from_numpy(given[name])[both]) <= TOLERANCE
    for name in ("camera_poses", "intrinsics"):
        assert relative_error(found[name], torch.from_numpy(given[name])) <= TOLERANCE


@pytest.mark.parametrize("name, config", [("map-anything", V1_1), ("map-anything-v1", V1)])
def test_published_files_are_recognised_with_their_second_names(reference, tmp_path, name, config):
    published = json.loads((reference / f"{name}.keys.json").read_text())
    shapes = {key: tuple(shape) for key, (shape, _) in published.items()}
    with torch.device("meta"):
        assert shapes == {key: tuple(t.shape) for key, t in MapAnything(config, name).state_dict().items()}
    for key in ("layer1_rn.weight", "layer_rn.0.weight"):
        shapes[f"dense_head.0.scratch.{key}"] = shapes["dense_head.0.input_process.0.1.weight"]
    shapes |= {f"dpt_regressor_head.{leaf}": (3,) for leaf in ("conv1.weight", "conv1.bias")}
    found = recognise(shapes, {}, tmp_path)
    assert (found.name, found.config) == (name, config)
    assert sum(map(len, found.left_out.values())) == 4 and set(found.sources) == set(published)


def test_views_of_mixed_sizes_keep_their_answers_when_reordered(model):
    images = pictures((28, 42), (42, 28), (28, 42), (28, 28))
    order = [0, 3, 2, 1]  # the first view is the reference
    straight, moved = model.predict(images), model.predict([images[i] for i in order])
    for place, i in enumerate(order):
        assert straight.depth[i].shape == images[i].shape[1:]
        torch.testing.assert_close(moved.confidence[place], straight.confidence[i], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(moved.cam_from_world[place], straight.cam_from_world[i], rtol=1e-3, atol=1e-4)


def test_what_is_known_guides_the_network_and_what_is_not_does_nothing(model):
    images = pictures((28, 42), (42, 28), (28, 42))
    plain = model.predict(images)
    nothing = KnownCameras(torch.full((3, 3, 4), torch.nan), torch.full((3, 3, 3), torch.nan))

    def change(known: KnownCameras) -> float:
        return float((model.predict(images, known).cam_from_world - plain.cam_from_world).abs().max())

    assert change(nothing) < 1e-5
    K = torch.full_like(nothing.K, torch.nan)
    K[1] = torch.tensor([[40.0, 0, 14], [0, 40, 21], [0, 0, 1]])
    with_K = dataclasses.replace(nothing, K=K)
    depth = tuple(torch.rand(42, 28) + 1 if i == 1 else None for i in range(3))
    poses = nothing.cam_from_world.clone()
    poses[1:] = torch.eye(3, 4)
    poses[2, 0, 3] = 2.0  # the first view's pose is unknown: the second one is the reference
    posed = dataclasses.replace(nothing, cam_from_world=poses)
    kinds = (with_K, dataclasses.replace(with_K, depth=depth), posed, dataclasses.replace(posed, metric=True))
    changes = [change(known) for known in kinds]
    assert min(changes) > 1e-4 and len({round(c, 6) for c in changes}) == 4
    further = torch.cat([poses[..., :3], 3 * poses[..., 3:]], dim=-1)
    assert change(dataclasses.replace(posed, cam_from_world=further)) == pytest.approx(changes[2], rel=1e-4)
    in_metres = dataclasses.replace(posed, cam_from_world=further, metric=True)
    assert change(in_metres) != pytest.approx(changes[3], rel=1e-3)


def test_the_answer_with_gradients_is_that_of_predict(model):
    images = torch.stack(pictures((28, 42), (28, 42), (28, 42)))
    prediction = model.predict(list(images))
    raw = family_of(model).answer(model, images[None], torch.tensor([0, 2]))
    shown = prediction.depth[2] > 1e-5  # the mask takes sky and edges from `predict` alone
    assert shown.any()
    torch.testing.assert_close(raw.log_depth[0, 1].exp()[shown], prediction.depth[2][shown], rtol=1e-4, atol=1e-5)
    relative = prediction.cam_from_world[:, :, :3] @ prediction.cam_from_world[0, :, :3].T
    torch.testing.assert_close(raw.rotation[0], relative.transpose(1, 2), rtol=0, atol=1e-4)
    raw.log_depth.sum().backward()
    assert model.encoder.model.patch_embed.proj.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("height, width", [(42, 56), (1024, 1000)])
def test_intrinsics_come_back_from_rays(height, width):
    u, v = torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy")
    rays = torch.stack([(u - 20.0) / 90, (v - 15.0) / 93, torch.ones_like(u)], -1)
    K = intrinsics_from_rays(rays[None] / rays.norm(dim=-1)[None, ..., None])
    torch.testing.assert_close(K[0], torch.tensor([[90.0, 0, 20], [0, 93, 15], [0, 0, 1]]), rtol=1e-4, atol=2e-2)


def test_an_edge_is_where_depth_jumps_and_the_surface_turns():
    u, v = torch.meshgrid(torch.arange(40.0), torch.arange(30.0), indexing="xy")
    kept = torch.ones(30, 40, dtype=torch.bool)
    step = torch.where(u < 20, 2.0, 3.0)
    points = torch.stack([(u - 20) / 40 * step, (v - 15) / 40 * step, step], -1)
    edges = depth_edges(step, kept) & normal_edges(points, kept)
    assert set(edges.nonzero()[:, 1].tolist()) == {19, 20}
    slope = 1 / (0.5 - 0.012 * u)  # steep but plane: depth changes fast, the surface does not turn
    points = torch.stack([(u - 20) / 40 * slope, (v - 15) / 40 * slope, slope], -1)
    assert depth_edges(slope, kept)[:, 1:-1].all() and not normal_edges(points, kept).any()
    kept[:, 20:] = False  # what is masked is no neighbour
    assert not depth_edges(step, kept)[:, :19].any()


def test_both_are_metric_and_take_what_is_known():
    for name in TINY:
        family = families()[name]
        assert family.scale == "metric" and family.partial_cameras and set(family.options) == {"cameras", "depth"}
        licences = {info.name: info.licence for info in family.models}
        assert licences[name] == "Apache-2.0" and set(licences.values()) == {"Apache-2.0", "CC-BY-NC-4.0"}
