"""The fused kernels against their twins in plain torch.

Without a GPU they run under Triton's interpreter, started by attention/test_interpreter.py. It has no products of
bfloat16 and truncates where a GPU rounds, so FP8 and bfloat16 are left to the GPU.
"""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from lite3r_cli.engine.check import Sizes, check_operators

CUDA = torch.cuda.is_available()
SMALL = Sizes(tokens=6, heads=3, dim=32, blocks=5, width=16)
in_the_interpreter = pytest.mark.skipif(CUDA, reason="test_on_a_gpu does more")


@in_the_interpreter
@pytest.mark.kernel
def test_float32_in_the_interpreter():
    sizes = Sizes(tokens=3, heads=2, dim=16, blocks=5, width=16)
    checks = check_operators(torch.device("cpu"), torch.float32, fp8=False, kernels=True, sizes=sizes)
    assert len(checks) == 58
    assert not [check for check in checks if not check.passed]


@in_the_interpreter
@pytest.mark.kernel
def test_fp8_rows_have_the_scale_of_their_largest_value():
    from lite3r_cli.engine import row_kernels, twins

    x = torch.randn(5, 48)
    x[1] = 0
    (values, scale), (expected, expected_scale) = (m.quant(x, True) for m in (row_kernels, twins))
    torch.testing.assert_close(scale, expected_scale)
    apart = (values.float() - expected.float()).abs() / expected.float().abs().clamp(min=1)
    assert apart.median() < 0.1  # no maximum: the interpreter cuts, and halves what it should round up to a power of 2
    assert (values[1].float() == 0).all()


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA, reason="needs a CUDA device")
@pytest.mark.parametrize("dtype, fp8", [(torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)])
@pytest.mark.parametrize(
    "sizes", [Sizes(), Sizes(tokens=2748, heads=6, blocks=130), SMALL], ids=["vggt", "small", "odd"]
)
def test_on_a_gpu(sizes, dtype, fp8):
    checks = check_operators(torch.device("cuda"), dtype, fp8, kernels=True, sizes=sizes)
    assert not [check for check in checks if not check.passed]
