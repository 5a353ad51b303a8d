"""The fast path against the ordinary one, on a CPU: small networks of every kind and those of the parity fixtures."""

from __future__ import annotations

import json
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from lite3r_cli.attention.module import SparseConfig, attach, attention_modules
from lite3r_cli.engine.layers import Settings
from lite3r_cli.engine.packing import Shape
from lite3r_cli.errors import BackendError
from lite3r_cli.networks import fast_form, standin
from lite3r_cli.networks.base import KnownCameras as KnownPartly
from lite3r_cli.networks.da3.network import DA3, SIZES, DA3Config, KnownCameras
from lite3r_cli.networks.fast_form import TwoForms, fast_runner
from lite3r_cli.networks.map_anything.network import MapAnything, MapAnythingConfig, MapAnythingV1Config
from lite3r_cli.networks.mini.network import Mini, MiniConfig
from lite3r_cli.networks.pi3.network import Pi3, Pi3Config, Pi3XConfig
from lite3r_cli.networks.sparsify import skipped_share, sparse_modules, sparsify
from lite3r_cli.networks.vggt.network import VGGT, VGGTConfig
from lite3r_cli.networks.vggt.recompute import vggt_from
from lite3r_cli.networks.vggt_omega.network import VGGTOmega, VGGTOmegaConfig

FIXTURES = Path(__file__).parent.parent / "fixtures"
CPU = torch.device("cpu")
FLOAT32 = {"dtype": torch.float32, "query_tiles": 1}
SPARSE = {
    "deep networks": {"linear_over": "all"},
    "convex, reference": {"mix": "convex", "protect": "reference"},
    "published": {"summaries": False, "linear_over": "all", "tiles": False},
}
HEAD = {"head_features": 16, "head_stages": (8, 8, 16, 16)}
MAP = {
    "encoder_dim": 64, "encoder_depth": 2, "encoder_heads": 2, "dim": 64, "depth": 6, "heads": 2, "taps": (2, 4),
    "dense_widths": (8, 8, 8), "global_widths": (8, 8, 8), "position_grid": 5, **HEAD,
}  # fmt: skip
SMALL = {  # as deep as it takes to have every kind of layer
    "vggt": lambda: VGGT(VGGTConfig(64, 4, 2, 2, 2, (0, 1, 2, 3), **HEAD, camera_depth=1, camera_heads=2)),
    "da3": lambda: DA3(DA3Config(64, 8, 2, 3, (4, 5, 6, 7), **HEAD, camera_heads=2, camera_depth=1)),
    "pi3": lambda: Pi3(Pi3Config(64, 4, 2, 1, 2, 64, 2, 1, 32, 32, position_grid=5)),
    "mini": lambda: Mini(MiniConfig(64, 6, 2, taps=(2, 3, 4, 5), **HEAD, camera_hidden=16, camera_layers=1)),
}
FURTHER = {  # the same blocks, another order around them
    "da3-gated": lambda: DA3(DA3Config(64, 8, 2, 3, (4, 5, 6, 7), **HEAD, camera_heads=2, camera_depth=1, swiglu=True)),
    "pi3x": lambda: Pi3(
        Pi3XConfig(
            64,
            4,
            2,
            1,
            2,
            64,
            2,
            1,
            32,
            32,
            position_grid=5,
            conv_channels=(32, 32),
            conv_last=8,
            metric_dim=32,
            metric_heads=1,
            metric_out=16,
            inject_after=(1,),
        ),
        "pi3x",
    ),
    "vggt-omega": lambda: VGGTOmega(
        VGGTOmegaConfig(64, 4, 2, 2, 2, (1, 2), (0, 1, 2, 3), **HEAD, camera_depth=1, camera_heads=2)
    ),
    "map-anything": lambda: MapAnything(MapAnythingConfig(**MAP)),
    "map-anything-v1": lambda: MapAnything(MapAnythingV1Config(**MAP | {"dim": 32, "heads": 1})),
}
VIEWS, ROWS, COLUMNS, SEED = 5, 6, 8, 3  # of patches
FIXTURE_NAMES = ["vggt_small_3x140x182", "da3_small_6x112x140_ref"]


def network(name: str) -> tuple[torch.nn.Module, torch.Tensor]:
    """A small network of this kind, or that of a parity fixture, and images for it."""
    if name in SMALL or name in FURTHER:
        model = (SMALL | FURTHER)[name]()
        seed, *size = SEED, VIEWS, ROWS * model.patch_size, COLUMNS * model.patch_size
    else:
        config = json.loads(str(np.load(FIXTURES / f"{name}.npz")["config"]))
        seed, *size = (config[key] for key in ("seed", "views", "height", "width"))
        if config["model"].startswith("da3"):
            with torch.device("meta"):
                model = DA3(SIZES[config["model"]])
        else:
            model = vggt_from(config)
    standin.fill(model, seed)
    return model.eval(), standin.image_batch(*size, seed)[0]


@pytest.fixture(params=SMALL)
def case(request):
    return network(request.param)


def mixed(images: torch.Tensor) -> list[torch.Tensor]:
    """Views of three sizes; equal sizes are not neighbours, and the first view is neither the largest nor the last."""
    height, width = images.shape[-2:]
    side = height // ROWS
    sizes = [(height, width), (height - 2 * side, width), (height, width - side)]
    return [image[:, : sizes[i % 3][0], : sizes[i % 3][1]] for i, image in enumerate([*images, *images[:2]])]


def errors(model: torch.nn.Module, images, settings: Settings, cameras=None) -> list[float]:
    """Relative, of depth, confidence, poses and fields of view."""
    ordinary = model.predict(list(images), **({} if cameras is None else {"cameras": cameras}))
    fast = fast_form.predict(fast_runner(model, settings, CPU), images, cameras)
    assert [d.shape for d in fast.depth] == [image.shape[-2:] for image in images]
    pairs = [
        (torch.cat([m.flatten() for m in a]), torch.cat([m.flatten() for m in b]))
        for a, b in ((fast.depth, ordinary.depth), (fast.confidence, ordinary.confidence))
    ]
    known = [depth > 0 for depth in pairs[0]]  # rounding may move single pixels over a threshold of a mask
    assert (known[0] == known[1]).float().mean() > 0.999
    pairs[0] = tuple(depth[known[0] & known[1]] for depth in pairs[0])
    pairs += [(fast.cam_from_world, ordinary.cam_from_world)]
    # stand-in weights give fields of view near π, where K is far larger than its error in the angle
    pairs += [tuple(torch.atan2(K[:, [0, 1], 2], K[:, [0, 1], [0, 1]]) for K in (fast.K, ordinary.K))]
    return [float((a - b).norm() / b.norm().clamp(min=1e-9)) for a, b in pairs]


def trained(model: torch.nn.Module) -> None:
    """Give the linear branches an effect."""
    for module in sparse_modules(model).values():
        if module.config.mix == "sum":
            torch.nn.init.normal_(module.proj_lin.weight, std=0.05)
        else:
            torch.nn.init.constant_(module.mix_logit, 1.0)


@pytest.mark.parametrize("case", FIXTURE_NAMES, indirect=True)
def test_published_networks_in_float32_are_the_ordinary_path(case):
    assert max(errors(*case, Settings(**FLOAT32))) < 5e-6


@pytest.mark.parametrize("sizes", ["one size", "several sizes"])
def test_dense_in_float32_is_the_ordinary_path(case, sizes):
    model, images = case
    assert max(errors(model, images if sizes == "one size" else mixed(images), Settings(**FLOAT32))) < 1e-5


@pytest.mark.parametrize("settings", SPARSE.values(), ids=SPARSE)
def test_sparse_in_float32_is_the_ordinary_path(case, settings):
    model, images = case
    sparsify(model, 0.5, block=32, backend="torch", **({"scores": "pooled", "key_block": 32} | settings))
    trained(model)
    assert max(errors(model, images, Settings(**FLOAT32))) < 1e-5
    runner = fast_runner(model, Settings(**FLOAT32), CPU)
    assert runner.skipped(Shape.of(images)) == pytest.approx(skipped_share(model), abs=1e-6)
    assert max(errors(model, mixed(images), Settings(**FLOAT32))) < 1e-5


@pytest.mark.parametrize("name", FURTHER)
def test_further_networks_are_their_ordinary_path(name):
    model, images = network(name)
    assert max(errors(model, mixed(images), Settings(**FLOAT32))) < 1e-5
    sparsify(model, 0.5, block=32, backend="torch", scores="pooled", key_block=32, **SPARSE["convex, reference"])
    trained(model)
    assert max(errors(model, images, Settings(**FLOAT32))) < 1e-5
    runner = fast_runner(model, Settings(**FLOAT32), CPU)
    assert runner.skipped(Shape.of(images)) == pytest.approx(skipped_share(model), abs=1e-6)


@pytest.mark.parametrize("name", ["pi3x", "map-anything"])
@pytest.mark.parametrize("unknown", ["nothing", "some", "all poses"])
def test_partly_known_cameras_are_those_of_the_ordinary_path(name, unknown):
    model, images = network(name)
    images = mixed(images[:4])
    torch.manual_seed(0)
    poses = torch.cat([torch.eye(3).expand(len(images), 3, 3), torch.randn(len(images), 3, 1)], dim=2)
    K = torch.tensor([[150.0, 0, 56], [0, 140, 42], [0, 0, 1]]).repeat(len(images), 1, 1)
    depth: list[torch.Tensor | None] = [1 + torch.rand(image.shape[1:]) for image in images]
    if unknown == "some":  # the first pose is, so another view is MapAnything's reference
        poses[[0, 3]], K[2], depth[2], depth[4] = torch.nan, torch.nan, None, None
    elif unknown == "all poses":
        poses[:] = torch.nan
    told = KnownPartly(poses, K, tuple(depth), metric=True)
    assert max(errors(model, images, Settings(**FLOAT32), told)) < 1e-5
    moved = fast_form.predict(fast_runner(model, Settings(**FLOAT32), CPU), images).cam_from_world
    assert (moved - model.predict(images, told).cam_from_world).norm() > 1e-4 * moved.norm()  # it says something


def test_sparse_attention_that_nobody_trained_is_dense_below_the_crossover():
    model, images = network("mini")
    dense = model.predict(list(images)).depth[0]
    sparsify(model, 0.5, block=32, scores="pooled", backend="torch")
    for crossover, same in ((10**6, True), (0, False)):
        found = fast_runner(model, Settings(**FLOAT32, crossover=crossover), CPU)(images).depth[0][0]
        assert (float((found - dense).norm() / dense.norm()) < 1e-5) == same


@pytest.mark.parametrize("sizes", ["one size", "several sizes"])
@pytest.mark.parametrize("keep", [0.3, 1.0])
def test_an_official_checkpoint_is_sparse_within_views_too(case, keep, sizes):
    model, images = case
    attach(model, SparseConfig(tuple(attention_modules(model)), keep_ratio=keep, official=True, block=16))
    trained(model)
    images = images if sizes == "one size" else mixed(images)
    assert max(errors(model, images, Settings(**FLOAT32))) < 1e-5


def test_known_cameras_are_those_of_the_ordinary_path():
    model, images = network("da3")
    for given in (images, mixed(images)):
        torch.manual_seed(0)
        poses = torch.cat([torch.eye(3).expand(len(given), 3, 3), torch.randn(len(given), 3, 1)], dim=2)
        cameras = KnownCameras(poses, torch.tensor([[150.0, 0, 70], [0, 140, 56], [0, 0, 1]]).expand(len(given), 3, 3))
        assert max(errors(model, given, Settings(**FLOAT32), cameras)) < 1e-5


def test_known_cameras_of_mini_are_those_of_the_ordinary_path():
    images = mixed(network("mini")[1])
    poses = torch.cat([torch.eye(3).expand(len(images), 3, 3), torch.randn(len(images), 3, 1)], dim=2)
    K = torch.tensor([[150.0, 0, 70], [0, 140, 56], [0, 0, 1]]).expand(len(images), 3, 3)
    for known_cameras in (True, False):  # without it they are ignored
        model = Mini(MiniConfig(64, 6, 2, taps=(2, 3, 4, 5), **HEAD, camera_hidden=16, known_cameras=known_cameras))
        standin.fill(model, SEED)
        assert max(errors(model.eval(), images, Settings(**FLOAT32), KnownCameras(poses, K))) < 1e-5


def test_pieces_of_frames_and_tokens_change_nothing(case, monkeypatch):
    model, images = case
    whole = fast_runner(model, Settings(**FLOAT32), CPU)(images)
    monkeypatch.setattr("lite3r_cli.engine.layers.MLP_TOKENS", 100)
    monkeypatch.setattr("lite3r_cli.engine.patches.FRAMES", 2)
    pieces = fast_runner(model, Settings(**FLOAT32, head_frames=2), CPU)(images)
    torch.testing.assert_close(pieces.depth[0], whole.depth[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pieces.cam_from_world, whole.cam_from_world, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", [*FIXTURE_NAMES, "mini"], indirect=True)
def test_low_precision_stays_near(case):
    model, images = case
    assert max(errors(model, images, Settings())) < 0.03  # bfloat16 with weights that spread widely
    assert max(errors(model, images, Settings(dtype=torch.float32, fp8=True))) < 0.2


def test_what_has_no_fast_path_says_so():
    meta = torch.device("meta")
    with meta:
        small = DA3(SIZES["da3-small"])
    small.ray_poses = True
    with pytest.raises(BackendError, match="no cameras from rays"):
        fast_runner(small, Settings(), meta)
    small.ray_poses = False
    sparsify(small, 0.5, scores="mass")
    with pytest.raises(BackendError, match="pooled scores, not by mass"):
        fast_runner(small, Settings(), meta)
    fast_runner(small, Settings(sparse=False), meta)
    with pytest.raises(BackendError, match="no fast path for Linear"):
        fast_runner(torch.nn.Linear(2, 2), Settings(), meta)


def test_a_call_decides_for_itself_and_one_form_at_a_time_is_held():
    model, images = network("da3")
    forms = TwoForms(model, Settings(**FLOAT32), CPU)
    gone = weakref.ref(forms.fast().form)
    assert forms.ordinary() is model and gone() is None
    assert len(forms.fast()(mixed(images)).depth) == 3
