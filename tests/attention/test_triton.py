"""The Triton kernels against the specification in float64 and their twin in plain torch, forward and backward.

Without a GPU they run under Triton's interpreter, started by test_interpreter.py.
"""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from lite3r_cli.attention import triton_backend
from lite3r_cli.attention.block_map import block_map
from lite3r_cli.attention.dispatch import ATTEND, choose_backend, sparse_linear
from lite3r_cli.attention.module import SparseLinearAttention
from lite3r_cli.attention.sparse_config import Formula, SparseConfig
from lite3r_cli.attention.tiling import Frames, frame_tiling, packed_tiling
from lite3r_cli.attention.triton_backend import INTERPRETED
from lite3r_cli.layers.vit import Attention

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
FRAMES = (Frames(2, 23, 3), Frames(1, 31, 3))  # 77 tokens, blocks of at most 16: many empty slots
SETTINGS = [(feature, over, False) for feature in ("softmax", "elu", "relu") for over in ("all", "rest")]
SETTINGS += [("elu", "rest", True)]  # with summaries
LONG = 1041 if CUDA else 291
HALF = (torch.bfloat16, torch.float16)
# Each kernel is compiled once: every setting at 64 channels, some at others; float32 is slow to compile.
KERNELS = [(64, dtype, setting) for dtype in (torch.float32, *HALF) for setting in SETTINGS]
KERNELS += [
    (width, dtype, setting) for width in (16, 32) for dtype in HALF for setting in SETTINGS[1::2] + SETTINGS[-1:]
]
GPU_CASES = [((65, 1041, 1374)[i % 3], (None, 16)[i % 2], *kernel) for i, kernel in enumerate(KERNELS)]


@pytest.mark.parametrize("sorted_at_once", [1, 2 * 7 * 9, 2**24])
def test_block_tables_are_sorted_some_heads_at_a_time(sorted_at_once, monkeypatch):
    monkeypatch.setattr(triton_backend, "SORTED", sorted_at_once)
    mask = torch.rand(2, 3, 7, 9, generator=torch.Generator().manual_seed(0)) > 0.6
    mask[0, 1, 2] = False
    for masked in (mask, mask.transpose(2, 3)):
        table, counts = triton_backend._meeting(masked)
        assert table.is_contiguous() and table.dtype == counts.dtype == torch.int32 and table.shape == masked.shape
        for row, count, found in zip(masked.reshape(-1, masked.shape[-1]), counts.flatten(), table.flatten(0, -2)):
            assert found[: int(count)].tolist() == row.nonzero()[:, 0].tolist()


def inputs(tokens, width=16, dtype=torch.float32):
    make = torch.Generator().manual_seed(0)
    return [t.to(DEVICE, dtype) for t in torch.randn(3, 1, 2, tokens, width, generator=make)]


def both_branches_with_gradients(backend, tiles, blocks, layout, setting, dtype):
    """Outputs and the gradients of q, k, v as float64, computed from the same values in `dtype`, without the empty
    slots.
    """
    leaves = [t.to(dtype).requires_grad_() for t in tiles]
    parts = [part[..., layout.valid, :] for part in ATTEND[backend](*leaves, blocks, layout, *setting)]
    make = torch.Generator().manual_seed(1)
    grads = [torch.randn(part.shape, generator=make).to(part) for part in parts]
    found = [*parts, *torch.autograd.grad(parts, leaves, grads)]
    return dict(zip(("sparse", "linear", "dq", "dk", "dv"), (t.detach().double() for t in found)))


def check_against_float64(layout, tokens, width, dtype, setting, keep=0.3):
    """The kernels may err as much as their twin in the same precision, twice in outputs and three times in gradients
    (the rule of flash-attention's tests), or by the rounding."""
    tiles = layout.tiles(*inputs(tokens, width, dtype))
    blocks = block_map(*tiles[:2], layout, keep, 0.25)
    settings = (tiles, blocks, layout, setting)
    exact = both_branches_with_gradients("reference" if tokens < 200 else "torch", *settings, torch.float64)
    ours, twin = (both_branches_with_gradients(name, *settings, dtype) for name in ("triton", "torch"))
    rounding = torch.finfo(dtype).eps * (16 if dtype is torch.float32 else 1)
    for name, expected in exact.items():
        errors = [float((found[name] - expected).norm() / expected.norm()) for found in (ours, twin)]
        assert errors[0] <= max((3 if name.startswith("d") else 2) * errors[1], rounding), (name, errors)


@pytest.mark.kernel
@pytest.mark.parametrize("key_block", [None, 16])
@pytest.mark.parametrize(
    "tokens, keep", [(n, keep) for n in (1, 63, 65, 130) for keep in (1.0, 0.5)] + [(64, 1.0), (LONG, 0.2)]
)
def test_lengths(tokens, keep, key_block):
    layout = packed_tiling(tokens, key_block=key_block).to(DEVICE)
    results = []
    for name in ("triton", "torch"):
        leaves = [t.requires_grad_() for t in inputs(tokens)]
        weight = torch.eye(16, device=DEVICE, requires_grad=True)
        out, _ = sparse_linear(*leaves, Formula(keep), weight, layout=layout, backend=name)
        results.append([out, *torch.autograd.grad(out.square().sum(), [*leaves, weight])])
    for ours, expected in zip(*results):
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.kernel
@pytest.mark.parametrize(
    "setting, key_block", [*((s, None) for s in SETTINGS), (SETTINGS[0], 5), (SETTINGS[-1], 5)], ids=str
)
def test_every_setting(setting, key_block):
    check_against_float64(frame_tiling(FRAMES, 16, key_block=key_block).to(DEVICE), 77, 16, torch.float32, setting)


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    if INTERPRETED and dtype is torch.bfloat16:
        pytest.skip("the interpreter's bfloat16 products are not those of a GPU")
    check_against_float64(packed_tiling(130).to(DEVICE), 130, 64, dtype, ("elu", "rest", True), keep=0.5)


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA, reason="needs a GPU")
@pytest.mark.parametrize("tokens, key_block, width, dtype, setting", GPU_CASES, ids=str)
def test_on_a_gpu(tokens, key_block, width, dtype, setting):
    check_against_float64(packed_tiling(tokens, key_block=key_block).to(DEVICE), tokens, width, dtype, setting)


@pytest.mark.kernel
@pytest.mark.parametrize("key_block", [None, 16])
def test_nan_outside_the_layout_never_leaks(key_block):
    leaves = inputs(130)
    for t in leaves:
        t[:, :, 100:] = float("nan")
        t.requires_grad_()
    layout = packed_tiling(100, key_block=key_block).to(DEVICE)
    out, _ = sparse_linear(*leaves, Formula(0.5, summaries=True), layout=layout, backend="triton")
    assert out.isfinite().all() and (out[:, :, 100:] == 0).all() and (out[:, :, :100] != 0).any()
    for grad in torch.autograd.grad(out.square().sum(), leaves):
        assert grad.isfinite().all() and (grad[:, :, 100:] == 0).all() and (grad[:, :, :100] != 0).any()


@pytest.mark.kernel
def test_it_is_chosen_on_a_gpu_alone():
    chosen = choose_backend("auto", torch.device(DEVICE), 5000, crossover=0).chosen
    assert chosen == ("triton" if CUDA else "torch")
    assert choose_backend("triton", torch.device(DEVICE), 5000).reason == "asked for"


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA, reason="needs a GPU")
@pytest.mark.parametrize("protect", ["specials", "reference"])
def test_a_forward_pass_never_waits_for_the_gpu(protect):
    config = SparseConfig(
        ("attn",), 0.3, linear_over="rest", protect=protect, summaries=True, key_block=16, scores="mass"
    )
    module = SparseLinearAttention(Attention(128, 2), config, "attn").cuda().bfloat16().eval()
    x = torch.randn(1, 4 * 101, 128, device="cuda", dtype=torch.bfloat16)
    is_reference = torch.arange(4, device="cuda")[None] == 1

    def run():
        module.set_frames((Frames(4, 101, 1),), is_reference, x.device)
        return module(x)

    with torch.inference_mode():
        expected = run()  # layouts are made, kernels compiled
        torch.cuda.set_sync_debug_mode("error")
        try:
            found = run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert module.choice.chosen == "triton" and torch.equal(found, expected)
