"""All forms of all networks: keep ratio 1 equals dense attention, sparse and FP8 forms work, files are read back."""

import pytest
import test_lingbot_map
import test_map_anything
import test_pi3
import test_vggt_omega
import torch

import lite3r_cli as lite3r
from lite3r_cli.bench.floor import work_of
from lite3r_cli.networks import standin
from lite3r_cli.networks.arithmetic import set_arithmetic
from lite3r_cli.networks.family import family_named, global_layers_of
from lite3r_cli.networks.sparsify import skipped_share, sparsify

TINY = {
    **test_pi3.TINY,
    "vggt-omega": test_vggt_omega.TINY,
    **test_map_anything.TINY,
    "lingbot-map": test_lingbot_map.TINY,
}
PRESETS = {"packed tokens": {"packed": True}, "blocks": {"block": 16, "tiles": True}}


@pytest.fixture(params=TINY)
def model(request):
    made = family_named(request.param).build(TINY[request.param], request.param)
    standin.fill(made, 3, made.constants())
    return made.eval()


def pictures(model):
    """Of two sizes, but for a stream."""
    generator = torch.Generator().manual_seed(1)
    side = model.patch_size
    sizes = [(4, 6), (4, 6), (6, 4), (4, 6)] if model.name != "lingbot-map" else [(4, 6)] * 4
    return [torch.rand(3, side * h, side * w, generator=generator) for h, w in sizes]


def difference(found, expected) -> float:
    """Relative, of confidence and poses: stand-in weights leave few pixels of MapAnything without a mask."""
    pairs = [*zip(found.confidence, expected.confidence), (found.cam_from_world, expected.cam_from_world)]
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


def test_the_work_of_every_network_is_counted(model):
    work = work_of(model, 3, 4 * model.patch_size, 6 * model.patch_size)
    assert min(work.linear, work.across, work.rest) > 0


@pytest.mark.parametrize("settings", PRESETS.values(), ids=PRESETS)
def test_keeping_every_key_is_dense_attention_and_keeping_some_is_not(model, settings):
    images = pictures(model)
    dense = model.predict(images)
    config = sparsify(model, 1.0, backend="torch", **settings)
    assert config.layers == tuple(global_layers_of(model))
    assert difference(model.predict(images), dense) < 2e-5
    sparsify(model, 0.4, backend="torch", **settings)
    some = model.predict(images)
    assert 1e-5 < difference(some, dense) < 1 and skipped_share(model) > 0.1
    assert all(depth.isfinite().all() for depth in some.depth) and some.K.isfinite().all()


def test_fp8_spares_heads_and_comes_back_from_a_file(model, tmp_path):
    images = pictures(model)
    expected = model.predict(images)
    lite3r.export(model, tmp_path / "fp8.safetensors", licence="MIT")
    loaded = lite3r.load_model(tmp_path / "fp8.safetensors")
    assert loaded.config == model.config and loaded.name == model.name
    assert 0 < difference(loaded.predict(images), expected) < 0.3  # weights that spread widely, in eight bits
    kept = set_arithmetic(model, "emulate", torch.float32)
    assert any("head" in name or "decoder" in name for name in kept)
    assert 0 < difference(model.predict(images), expected) < 0.4
