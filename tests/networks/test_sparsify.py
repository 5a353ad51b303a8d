"""Any backbone made sparse by one call: what is skipped, which tokens are protected, views of mixed sizes, training."""

import pytest
import torch

from lite3r_cli.attention.module import SparseLinearAttention, attention_modules
from lite3r_cli.errors import UsageError
from lite3r_cli.networks import standin
from lite3r_cli.networks.da3.network import DA3, DA3Config
from lite3r_cli.networks.family import global_layers_of
from lite3r_cli.networks.mini.network import Mini, MiniConfig
from lite3r_cli.networks.sparsify import skipped_share, sparse_modules, sparsify
from lite3r_cli.networks.vggt.network import VGGT, VGGTConfig

SMALL = dict(heads=2, head_features=16, head_stages=(8, 8, 8, 8), position_grid=5)
BUILD = {
    "mini": lambda: Mini(MiniConfig(dim=32, depth=6, alternate_from=1, taps=(0, 1, 3, 5), **SMALL)),
    "vggt": lambda: VGGT(
        VGGTConfig(dim=32, pairs=4, encoder_depth=1, encoder_heads=2, taps=(0, 1, 2, 3), camera_depth=1, camera_heads=2,
                   **SMALL)
    ),
    "da3": lambda: DA3(
        DA3Config(dim=32, depth=6, alternate_from=1, taps=(0, 1, 3, 5), camera_heads=2, camera_depth=1, **SMALL)
    ),
}  # fmt: skip


@pytest.fixture(params=BUILD)
def model(request):
    made = BUILD[request.param]()
    standin.fill(made, 3)
    return made.eval()


def pictures(*sizes):
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, h, w, generator=generator) for h, w in sizes]


MIXED = pictures((70, 98), (98, 70), (70, 98), (42, 42), (98, 70))


def same(a, b, atol=1e-4):
    for ours, expected in zip((*a.depth, a.cam_from_world, a.K), (*b.depth, b.cam_from_world, b.K)):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=atol)


def test_keeping_everything_is_the_dense_network_for_views_of_mixed_sizes(model):
    dense = model.predict(MIXED)
    sparsify(model, 1.0, block=8)
    same(model.predict(MIXED), dense)
    assert skipped_share(model) == 0


@pytest.mark.parametrize("protect", ["none", "specials"])
def test_what_is_skipped_is_what_was_asked(model, protect):
    dense = model.predict(MIXED)
    config = sparsify(model, 0.5, block=5, linear_over="rest", protect=protect)
    assert set(config.layers) <= set(global_layers_of(model))
    sparse = model.predict(MIXED)
    assert 0.49 < skipped_share(model) < 0.56  # of VGGT's few tokens here, the protected ones exceed the smallest ratio
    assert not torch.allclose(sparse.depth[0], dense.depth[0], rtol=1e-4)
    assert not any(
        isinstance(m, SparseLinearAttention) for n, m in attention_modules(model).items() if n not in config.layers
    )


def test_blocks_stay_inside_frames_and_the_reference_view_is_protected(model):
    if model.name == "da3":
        model.reference_view = "middle"
    sparsify(model, 0.3, block=5, protect="reference")
    model.predict(MIXED)
    reference = {"mini": 0, "vggt": 0, "da3": 2}[model.name]
    place = [0, 2, 1, 4, 3].index(reference)  # in the order of the buckets
    for module in sparse_modules(model).values():
        layout = module.layout
        assert torch.equal(layout.protected.flatten(), (layout.frame == place) | (layout.frame == -1))
        tokens = [35 + (5 if model.name == "vggt" else 1)] * 4 + [9 + (5 if model.name == "vggt" else 1)]
        frames = torch.repeat_interleave(torch.arange(5), torch.tensor(tokens))
        for i in range(layout.blocks):
            assert layout.frame[i] == -1 or (frames[layout.index[i][layout.valid[i]]] == layout.frame[i]).all()


def test_asking_again_keeps_what_was_trained(model):
    config = sparsify(model, 0.5, block=5)
    modules = list(sparse_modules(model).values())
    torch.nn.init.normal_(modules[0].proj_lin.weight)
    trained = modules[0].proj_lin.weight.clone()
    sparsify(model, 0.7, layers=config.layers[:2], block=5)
    assert list(sparse_modules(model).values()) == modules and torch.equal(modules[0].proj_lin.weight, trained)
    assert modules[1].formula.keep_ratio == 0.7
    with pytest.raises(UsageError, match="mix"):
        sparsify(model, 0.5, mix="convex")


def test_a_layout_of_a_prediction_serves_training_with_any_reference_view():
    model = BUILD["mini"]()
    sparsify(model, 0.5, block=5, protect="reference", linear_over="rest")
    images = torch.stack(pictures(*[(42, 70)] * 3))[None].expand(2, -1, -1, -1, -1)
    model.predict(list(images[0]))
    out = model(images, reference=torch.tensor([0, 2]))
    (out.log_depth.square().mean() + out.rotation.square().mean()).backward()
    for module in sparse_modules(model).values():
        assert module.layout.protected.shape[0] == 2 and 0 < module.skipped < 1
        assert module.proj_lin.weight.grad.isfinite().all()


def test_impossible_requests_are_refused(model):
    with pytest.raises(UsageError, match="no attention module"):
        sparsify(model, 0.5, layers=("nothing",))
    with pytest.raises(UsageError, match="keep ratio"):
        sparsify(model, 0.0)
    with pytest.raises(UsageError, match="across views"):
        sparsify(torch.nn.Linear(1, 1), 0.5)
