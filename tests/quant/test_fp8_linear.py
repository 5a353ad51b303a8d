"""FP8 arithmetic: its error on Gaussian data, its gradients, and which back end runs where and why."""

import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lite3r_cli.errors import UsageError
from lite3r_cli.layers.vit import Block
from lite3r_cli.quant import te
from lite3r_cli.quant.fp8 import round_to_fp8
from lite3r_cli.quant.linear import FakeQuantLinear, FP8Linear, fake_quant, quantize_tokens
from lite3r_cli.quant.swap import scaled_mm_reason, swap_linears

CPU = torch.device("cpu")
has_fp8 = torch.cuda.is_available() and scaled_mm_reason(torch.device("cuda")) is None


def sqnr(exact, rounded):
    """Signal to quantisation noise, dB."""
    return 20 * torch.log10(exact.norm() / (exact - rounded).norm()).item()


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_each_token_has_its_own_scale():
    x = normal(3, 5, 64) * torch.logspace(-6, 4, 15).view(3, 5, 1)
    x[1, 2] = 0
    values, scale = quantize_tokens(x)
    assert values.shape == x.shape and scale.shape == (3, 5, 1)
    assert scale[1, 2] == 1 and (values.float().abs().amax(-1).flatten()[[0, 5, 14]] == 448).all()
    back = values.float() * scale
    assert (back[1, 2] == 0).all()
    relative = (back - x).norm(dim=-1) / x.norm(dim=-1).clamp(min=1e-12)
    assert (relative < 0.035).all()  # E4M3 has three bits of mantissa, and no token suffers from another


def test_rounding_is_idempotent_and_the_gradient_goes_straight_through():
    x = normal(7, 32).requires_grad_()
    rounded = fake_quant(x)
    torch.testing.assert_close(fake_quant(rounded), rounded, atol=0, rtol=1e-6)
    assert not torch.equal(rounded, x)
    grad = normal(7, 32, seed=1)
    assert torch.equal(torch.autograd.grad(rounded, x, grad)[0], grad)


def test_emulated_layer_has_the_error_of_two_rounded_operands():
    dense = nn.Linear(1024, 512)
    nn.init.normal_(dense.weight)
    x = normal(2, 33, 1024)
    layer = FP8Linear(dense, "emulate")
    exact = dense(x)
    assert 27 < sqnr(exact, layer(x)) < 30  # 3.7 % relative error on Gaussian data is 28.6 dB
    assert torch.equal(layer.weight, round_to_fp8(dense.weight))
    assert layer(x.bfloat16()).dtype == torch.bfloat16
    # The formula, in double precision.
    values, scale = quantize_tokens(x)
    expected = F.linear(values.double() * scale.double(), layer.weight.double(), dense.bias.double())
    torch.testing.assert_close(layer(x).double(), expected, atol=1e-4, rtol=1e-4)


def test_an_outlier_token_spoils_no_other():
    x = normal(64, 256)
    x[0] *= 1e4
    dense = nn.Linear(256, 64, bias=False)
    assert sqnr(dense(x)[1:], FP8Linear(dense, "emulate")(x)[1:]) > 26


def test_training_sees_what_will_run():
    dense = nn.Linear(64, 48)
    x = normal(9, 64).requires_grad_()
    trained = FakeQuantLinear.of(dense)
    torch.testing.assert_close(trained(x), FP8Linear(dense, "emulate")(x), atol=1e-5, rtol=1e-5)
    grad = normal(9, 48, seed=1)
    dx, dw = torch.autograd.grad(trained(x), (x, dense.weight), grad)
    torch.testing.assert_close(dx, grad @ round_to_fp8(dense.weight))
    torch.testing.assert_close(dw, grad.T @ fake_quant(x))


def test_swapping_keeps_what_the_filter_and_the_sizes_say():
    block = Block(64, 2).eval()
    block.extra = nn.Linear(64, 6)
    x = normal(1, 70, 64)
    exact = block(x)
    kept = swap_linears(block, "emulate", skip=lambda name, layer: name.startswith("attn"))
    assert set(kept) == {"attn.qkv", "attn.proj", "extra"} and "multiple of 16" in kept["extra"]
    assert type(block.attn.qkv) is nn.Linear and isinstance(block.mlp.fc1, FP8Linear)
    assert "e4m3 by row" in repr(block) and "emulate" in repr(block)
    assert sqnr(exact, block(x)) > 25 and not torch.equal(exact, block(x))
    with pytest.raises(UsageError):
        swap_linears(block, "int8")


def test_autocast_decides_the_dtype_as_for_a_dense_layer():
    layer = FP8Linear(nn.Linear(32, 16), "emulate")
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(normal(4, 32)).dtype == torch.bfloat16


@pytest.mark.parametrize("error", [RuntimeError("libcudart.so not found\nmore"), ImportError("no such module")])
def test_a_broken_transformer_engine_is_a_reason_and_no_crash(monkeypatch, error):

    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name.startswith("transformer_engine"):
                raise error
            return None

    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    for name in [n for n in sys.modules if n.startswith("transformer_engine")]:
        monkeypatch.delitem(sys.modules, name)
    assert str(error).splitlines()[0] in te.reason_against() and "\n" not in te.reason_against()


def apart(a, b):
    """How far two results lie from each other, as a share of the second."""
    return float((a.float() - b.float()).norm() / b.float().norm())


SIZES = [(256, 512, 37), (1024, 4096, 1374), (4096, 1024, 65)]  # in, out, tokens


def results_on_a_gpu(sizes, dtype, bias, layer):
    """The exact result, the emulated one and that of `layer`, all of the same operands."""
    dense = nn.Linear(*sizes[:2], bias=bias, device="cuda", dtype=dtype)
    x = normal(2, sizes[2], sizes[0]).to("cuda", dtype)
    exact = F.linear(x.double(), dense.weight.double(), None if dense.bias is None else dense.bias.double())
    return exact, FP8Linear(dense, "emulate")(x), layer(dense)(x)


@pytest.mark.gpu
@pytest.mark.skipif(not has_fp8, reason="needs a GPU with FP8 arithmetic")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_scaled_mm_is_the_emulation(sizes, dtype, bias):
    exact, emulated, ours = results_on_a_gpu(sizes, dtype, bias, lambda dense: FP8Linear(dense, "scaled-mm"))
    assert ours.dtype == dtype and ours.shape == exact.shape
    assert apart(ours, emulated) < 0.15 * apart(emulated, exact)  # its result is rounded to bfloat16


@pytest.mark.gpu
@pytest.mark.skipif(te.reason_against() is not None, reason="needs Transformer Engine")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_transformer_engine_agrees_within_the_rounding_of_the_emulation(sizes, bias):
    exact, emulated, ours = results_on_a_gpu(sizes, torch.bfloat16, bias, te.TELinear)
    assert apart(ours, exact) < 1.2 * apart(emulated, exact)
    assert apart(ours, emulated) < 1.6 * apart(emulated, exact)  # two roundings of the same kind, one scale a tensor
