"""A linear layer with its GELU in one operation."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lite3r_cli.layers.activated import gelu_after
from lite3r_cli.layers.vit import apply_rope, patch_positions, rope_table


@pytest.mark.parametrize(
    ("rows", "width", "hidden", "bias"), [(1, 7, 5, True), (37, 48, 96, True), (300, 24, 31, False)]
)
def test_one_operation_is_as_exact_as_two(rows, width, hidden, bias):
    torch.manual_seed(0)
    layer, x = nn.Linear(width, hidden, bias=bias).bfloat16(), torch.randn(2, rows, width).bfloat16()
    with torch.no_grad():
        exact = F.gelu(F.linear(x.double(), layer.weight.double(), layer.bias.double() if bias else None))
        one, two = gelu_after(layer, x), F.gelu(layer(x))
    assert one.shape == two.shape and one.dtype == two.dtype
    assert (one - exact).abs().mean() <= 1.05 * (two - exact).abs().mean()


def test_gradients_and_hooks_still_work():
    layer, x = nn.Linear(6, 4).bfloat16(), torch.randn(3, 6).bfloat16()
    gelu_after(layer, x).sum().backward()
    assert layer.weight.grad is not None
    seen = []
    layer.register_forward_hook(lambda *call: seen.append(call))
    with torch.no_grad():
        gelu_after(layer, x)
    assert len(seen) == 1


def test_turning_in_place_is_the_same_turn():
    x = torch.randn(2, 3, 1 + 4 * 5, 16)
    before, table = x.clone(), rope_table(patch_positions(4, 5, 1), 16)
    with torch.no_grad():
        fast = apply_rope(x, table)
    torch.testing.assert_close(fast, apply_rope(x, table), rtol=1e-6, atol=1e-6)
    assert torch.equal(x, before)
