"""Patches that show no scene are no keys of attention: what is in them changes nothing elsewhere."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lite3r_cli.attention.module import attach
from lite3r_cli.attention.sparse_config import PRESETS, SparseConfig
from lite3r_cli.commands.sentences import sentence
from lite3r_cli.errors import BackendError
from lite3r_cli.layers.seen import Seen, keys_within
from lite3r_cli.networks import standin
from lite3r_cli.networks.checkpoint_facts import NetworkFacts
from lite3r_cli.networks.da3.network import DA3, DA3Config
from lite3r_cli.networks.family import global_layers_of
from lite3r_cli.networks.map_anything.network import MapAnything, MapAnythingConfig
from lite3r_cli.networks.mini.network import Mini, MiniConfig
from lite3r_cli.networks.pi3.network import Pi3, Pi3Config, Pi3XConfig
from lite3r_cli.networks.sparsify import sparse_modules
from lite3r_cli.networks.vggt.network import VGGT, VGGTConfig
from lite3r_cli.networks.vggt_omega.network import VGGTOmega, VGGTOmegaConfig
from lite3r_cli.pipelines.engine_choice import Asked, Machine, resolve
from lite3r_cli.pipelines.planned import PlannedNetwork
from lite3r_cli.quant.linear import PRODUCTS, emulated

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
    ),
]
SIZES = [(6, 9), (4, 5), (6, 9)]  # patches (rows, columns) of each view: two buckets


def mini() -> Mini:
    return Mini(MiniConfig(48, 6, 2, taps=(2, 3, 4, 5), head_features=8, head_stages=(8,) * 4, camera_hidden=16))


PI3 = dict(
    dim=64, depth=4, heads=1, encoder_depth=1, encoder_heads=1, head_dim=64, head_heads=1, head_depth=1, head_out=32,
    camera_out=32, position_grid=3,
)  # fmt: skip


NETWORKS = {
    "mini": mini,
    "vggt": lambda: VGGT(
        VGGTConfig(64, 4, 1, 2, 1, taps=(0, 1, 2, 3), head_features=16, head_stages=(8,) * 4, camera_depth=1)
    ),
    "vggt-omega": lambda: VGGTOmega(
        VGGTOmegaConfig(64, 4, 1, 1, 1, (1,), (0, 1, 2, 3), 64, (64, 32, 16, 16), camera_depth=1, camera_heads=2)
    ),
    "pi3": lambda: Pi3(Pi3Config(**PI3)),
    "pi3x": lambda: Pi3(
        Pi3XConfig(
            **PI3,
            conv_channels=(32, 16, 16),
            conv_last=8,
            metric_dim=64,
            metric_heads=1,
            metric_out=32,
            inject_after=(1,),
        )
    ),
    "map-anything": lambda: MapAnything(
        MapAnythingConfig(64, 1, 1, 64, 4, 1, (1, 2), 16, (8,) * 4, (8,) * 3, (8,) * 3, position_grid=3)
    ),
    "da3": lambda: DA3(DA3Config(64, 6, 1, 2, (2, 3, 4, 5), 16, (8,) * 4, camera_heads=2, camera_depth=1)),
}


def build(name: str) -> torch.nn.Module:
    model = NETWORKS[name]()
    standin.fill(model, 3)
    return model.eval()


def pictures(model, seed: int = 0, device: str = "cpu") -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    p = model.patch_size
    return [torch.rand(3, p * h, p * w, generator=generator).to(device) for h, w in SIZES]


def masks(model) -> list[torch.Tensor | None]:
    """Whole patches and some pixels more, in two of the views, differently."""
    p = model.patch_size
    found = [torch.zeros(p * h, p * w, dtype=torch.bool) for h, w in SIZES]
    found[0][p : 4 * p + 3, 2 * p - 2 : 5 * p] = True
    found[1][:p] = True
    return [found[0], found[1], None]


def changed(images, unseen, model) -> list[torch.Tensor]:
    """Other pixels in the patches that are unseen as a whole."""
    p = model.patch_size
    result = []
    for i, (image, mask) in enumerate(zip(images, unseen)):
        image = image.clone()
        if mask is not None:
            whole = torch.nn.functional.avg_pool2d(mask.float()[None], p)[0] == 1
            noise = torch.rand(image.shape, generator=torch.Generator().manual_seed(100 + i))
            pixels = whole.repeat_interleave(p, 0).repeat_interleave(p, 1)
            image = torch.where(pixels.to(image.device), noise.to(image.device), image)
        result.append(image)
    return result


def close(a, b, lenses: bool = True) -> bool:
    """Whether the cameras are the same, and their focal lengths if `lenses`."""
    poses = torch.allclose(a.cam_from_world, b.cam_from_world, atol=2e-5, rtol=1e-4)
    return poses and (not lenses or torch.allclose(a.K, b.K, atol=2e-5, rtol=1e-4))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_masked_has_no_influence(name, device) -> None:
    model = build(name).to(device)
    images, unseen = pictures(model, device=device), masks(model)
    other = changed(images, unseen, model)
    seen = close(model.predict(images), model.predict(other))
    assert not seen  # the cameras, which come from tokens
    # of some the focal length follows from depth or rays, whose convolutions see beyond their patch
    lenses = name not in ("pi3x", "map-anything")
    left_out = close(model.predict(images, unseen=unseen), model.predict(other, unseen=unseen), lenses)
    assert left_out
    nothing = [torch.zeros_like(mask) if mask is not None else None for mask in unseen]
    assert close(model.predict(images, unseen=nothing), model.predict(images))
    everything = [torch.ones(image.shape[1:], dtype=torch.bool) for image in images]
    assert model.predict(images, unseen=everything).depth[1].isfinite().all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("preset", PRESETS)
def test_what_is_masked_has_no_influence_on_sparse_attention(preset, device) -> None:
    """On a GPU by the kernels of the back end that `auto` takes there."""
    model = build("mini")
    attach(model, SparseConfig(tuple(global_layers_of(model)), keep_ratio=0.4, **{"block": 16, **PRESETS[preset]}))
    for module in sparse_modules(model).values():
        torch.nn.init.normal_(module.proj_lin.weight, std=0.3, generator=torch.Generator().manual_seed(5))
    at_home = model.predict(pictures(model), unseen=masks(model))
    model.to(device)
    images, unseen = pictures(model, device=device), masks(model)
    other = changed(images, unseen, model)
    found = model.predict(images, unseen=unseen)
    assert close(found, model.predict(other, unseen=unseen))
    assert torch.allclose(found.cam_from_world.cpu(), at_home.cam_from_world, atol=2e-3)
    assert not close(model.predict(images), model.predict(other))  # and the frames are those of all tokens again


def test_keys_of_views_that_differ() -> None:
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[:2, :4] = True
    seen = Seen.of([mask, None, mask], [[0, 1], [2]], [(2, 3), (4, 6)])
    assert seen is not None and seen.counts == [4, 6, 16]
    (first, some), (second, every) = keys_within(seen.buckets[0], 7, torch.device("cpu"))
    assert first == [0] and some.tolist() == [0, 3, 4, 5, 6] and second == [1] and every is None
    across = seen.across([7, 24], torch.device("cpu")).tolist()
    assert across[:12] == [0, 3, 4, 5, 6, *range(7, 14)] and len(across) == 12 + 16
    assert Seen.of([None, None], [[0, 1]], [(2, 3)]) is None
    assert Seen.of([torch.zeros(4, 6, dtype=torch.bool)], [[0]], [(2, 3)]) is None


@pytest.mark.parametrize("fp8", ["off", "scaled-mm"])
def test_the_fast_engine_leaves_masked_pictures_to_the_ordinary_path(fp8: str, monkeypatch) -> None:
    if fp8 != "off":  # on a CPU in plain torch
        monkeypatch.setitem(PRODUCTS, "scaled-mm", emulated)
    monkeypatch.setattr("lite3r_cli.attention.sparse_config.SHALLOW", 0)  # the small network stands for a deep one

    def planned(engine: str) -> PlannedNetwork:
        plan = resolve(
            Asked(engine=engine, attention="sla", fp8_backend=fp8), NetworkFacts.of_model(build("mini")), gpu
        )
        return PlannedNetwork(model, replace(plan, dtype="float32"), torch.device("cpu"))

    model = build("mini")
    gpu = Machine("cuda", "bfloat16")
    images, unseen = pictures(model), masks(model)
    with pytest.raises(BackendError, match="--engine auto"):
        planned("fast").predict(images, unseen)
    network = planned("auto")
    before = network.predict(images)
    assert network.choices()["engine"]["chosen"] == "fast" and "masked" not in network.choices()
    other = changed(images, unseen, model)
    assert close(network.predict(images, unseen), network.predict(other, unseen))
    choices = network.choices()
    assert choices["engine"]["chosen"] == "ordinary" and "masked" in choices["engine"]["reason"]
    assert choices["masked"]["chosen"] == "left out"
    assert (choices["engine"]["times"], choices["engine"]["others"][0]["chosen"]) == (2, "fast")
    assert sentence(choices["engine"]).startswith("ordinary 2 × (") and "fast 1 ×: " in sentence(choices["engine"])
    after = network.predict(images)  # no picture decides for those that come later
    assert network.choices(network.ran[3:])["engine"]["chosen"] == "fast"
    assert all(torch.equal(a, b) for a, b in zip(before.depth, after.depth, strict=True))
