"""Scale migration: the network computes the same, and FP8 arithmetic errs less where channels stick out."""

import copy

import pytest
import torch

from lite3r_cli.errors import UsageError
from lite3r_cli.layers.vit import Block
from lite3r_cli.quant.smooth import foldable, migrate, observe
from lite3r_cli.quant.swap import swap_linears


def network(outliers, swiglu=False):
    """Two blocks whose norms blow up three channels that the next layer reads with small weights."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(*[Block(64, 2, layer_scale=1.0, swiglu=swiglu) for _ in range(2)])
    with torch.no_grad():
        for norm, layer in foldable(model).values():
            norm.weight[:3] *= outliers
            norm.bias[:3] += outliers
            layer.weight[:, :3] /= outliers
    return model.double().eval()


def rounded(model):
    model = copy.deepcopy(model).float()
    swap_linears(model, "emulate")
    return model


@pytest.mark.parametrize("swiglu", [False, True])
def test_outputs_stay_and_the_error_falls_with_outliers(swiglu):
    model = network(1e5, swiglu)
    x = torch.randn(2, 33, 64, dtype=torch.float64)
    exact = model(x)
    before = (rounded(model)(x.float()) - exact).norm() / exact.norm()
    found = migrate(model, observe(model, lambda: model(x)))
    assert set(found) == set(foldable(model)) and len(found) == 4
    assert all(m.migrated and m.outlier > 1e4 for m in found.values())
    torch.testing.assert_close(model(x), exact)
    after = (rounded(model)(x.float()) - exact).norm() / exact.norm()
    assert after < 0.5 * before


def test_ordinary_channels_are_left_alone():
    model = network(1.0)
    x = torch.randn(2, 33, 64, dtype=torch.float64)
    before = copy.deepcopy(model.state_dict())
    assert not any(m.migrated for m in migrate(model, observe(model, lambda: model(x))).values())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(layer._forward_pre_hooks for _, layer in foldable(model).values())


def test_layers_that_never_ran_and_impossible_shares():
    assert migrate(network(1e5), {}) == {}
    with pytest.raises(UsageError):
        migrate(network(1.0), {}, alpha=2)
