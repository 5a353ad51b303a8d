"""The Triton kernel against its twin in plain torch; on a machine without a GPU, under Triton's interpreter."""

import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from lite3r_cli.attention import torch_impl
from lite3r_cli.attention.block_map import block_map
from lite3r_cli.attention.dispatch import Formula, choose_backend, sparse_linear
from lite3r_cli.attention.layout import Frames, frame_layout, packed_layout
from lite3r_cli.attention.triton_impl import INTERPRETED, attend

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
runs = pytest.mark.skipif(not (CUDA or INTERPRETED), reason="no GPU, no TRITON_INTERPRET=1: run by the first test")


@pytest.mark.skipif(CUDA or INTERPRETED, reason="the tests below run here")
def test_under_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    run = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-3000:]
    assert " passed" in run.stdout


def inputs(tokens, width=16, dtype=torch.float32):
    make = torch.Generator().manual_seed(0)
    return [t.to(DEVICE, dtype) for t in torch.randn(3, 1, 2, tokens, width, generator=make)]


@runs
@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 130, pytest.param(1041, marks=pytest.mark.slow)])
@pytest.mark.parametrize("keep", [1.0, 0.5])
def test_lengths(tokens, keep):
    q, k, v = inputs(tokens)
    ours, expected = (sparse_linear(q, k, v, Formula(keep), backend=name)[0] for name in ("triton", "torch"))
    torch.testing.assert_close(ours, expected, atol=2e-5, rtol=2e-5)


@runs
@pytest.mark.parametrize("feature", ["softmax", "elu", "relu"])
@pytest.mark.parametrize("over", ["all", "rest"])
def test_both_branches_and_their_gradients(feature, over):
    layout = frame_layout((Frames(3, 40, 5), Frames(2, 31, 5)), 16).to(DEVICE)
    tiles = [layout.tile(t) for t in inputs(182)]
    blocks = block_map(*tiles[:2], layout, 0.3, 0.25)
    results = []
    for function in (attend, torch_impl.attend):
        leaves = [t.clone().requires_grad_() for t in tiles]
        sparse, linear = (part[..., layout.valid, :] for part in function(*leaves, blocks, layout, feature, over))
        results.append([sparse, linear, *torch.autograd.grad((sparse * 2 + linear).square().sum(), leaves)])
    for ours, expected in zip(*results):
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


@runs
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_errs_no_more_than_its_twin(dtype):
    if INTERPRETED and dtype is torch.bfloat16:
        pytest.skip("the interpreter's bfloat16 products are not those of a GPU")
    q, k, v = inputs(130, 64, dtype)
    exact = sparse_linear(q.double(), k.double(), v.double(), Formula(0.5), backend="torch")[0]
    errors = [(sparse_linear(q, k, v, Formula(0.5), backend=b)[0] - exact).abs().max() for b in ("triton", "torch")]
    assert errors[0] <= 2 * errors[1]


@runs
def test_nan_outside_the_layout_never_leaks():
    q, k, v = inputs(130)
    for t in (q, k, v):
        t[:, :, 100:] = float("nan")
    out, _ = sparse_linear(q, k, v, Formula(0.5), layout=packed_layout(100).to(DEVICE), backend="triton")
    assert out.isfinite().all() and (out[:, :, 100:] == 0).all() and (out[:, :, :100] != 0).any()


@runs
def test_it_is_chosen_on_a_gpu_alone():
    chosen = choose_backend("auto", torch.device(DEVICE), 5000).chosen
    assert chosen == ("triton" if CUDA else "torch")
    assert choose_backend("triton", torch.device(DEVICE), 5000).reason == "asked for"
