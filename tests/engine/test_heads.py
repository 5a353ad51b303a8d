"""Dense head and patch embedding of the fast path against the ordinary ones, with plain torch and with kernels.

Without a GPU the kernels run under Triton's interpreter, started by attention/test_interpreter.py.
"""

from __future__ import annotations

import os

import pytest
import torch

from lite3r_cli.engine.fast_heads import FastDepthHead
from lite3r_cli.engine.layers import Engine, Settings
from lite3r_cli.engine.patches import Patches
from lite3r_cli.layers import buckets
from lite3r_cli.layers.heads.dpt import DPTConfig, DPTHead, DualDPTHead
from lite3r_cli.layers.vit import PatchEmbed
from lite3r_cli.networks import standin
from lite3r_cli.networks.pi3.fast_pixels import FastConvPixels
from lite3r_cli.networks.pi3.heads import ConvPixels

CUDA, INTERPRETED = torch.cuda.is_available(), os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cuda" if CUDA else "cpu")
FLOAT32 = dict(dtype=torch.float32, head_frames=2)
both_ways = pytest.mark.parametrize(
    "kernels", [False, pytest.param(True, marks=pytest.mark.kernel)], ids=["twins", "kernels"]
)
HEADS = {
    "vggt": (DPTHead, DPTConfig(32, 16, (8, 24, 16, 16), relu_skip=True, double_position=True)),
    "da3": (DualDPTHead, DPTConfig(32, 24, (8, 16, 24, 16))),
}


@pytest.fixture(params=HEADS.values(), ids=HEADS)
def head(request):
    kind, config = request.param
    head = kind(config)
    standin.fill(head, 3)
    return head.to(DEVICE).eval()


@both_ways
@torch.inference_mode()
def test_depth_in_float32_is_the_ordinary_head(head, kernels, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.manual_seed(0)
    rows, columns, specials = (2, 3, 2) if INTERPRETED else (3, 5, 2)  # the interpreter takes seconds a row
    taps = [torch.randn(3, specials + rows * columns, 32, device=DEVICE) for _ in range(4)]
    depth, confidence = head([t[:, specials:] for t in taps], rows, columns).exp().unbind(1)
    fast = FastDepthHead(head, Settings(**FLOAT32, kernels=kernels))
    engine = Engine(fast.settings, fast.operators)
    maps = [fast.project(i, t[..., :16], t[..., 16:], specials, engine) for i, t in enumerate(taps)]
    for _ in range(1 if INTERPRETED else 2):  # maps and tables stay as they are
        found = fast.decode(maps, rows, columns)
        for value, expected in zip(found, (depth, confidence + 1)):
            assert value.dtype == torch.float32
            assert (value - expected).norm() < 5e-6 * expected.norm()


@torch.inference_mode()
def test_bfloat16_is_as_near_as_the_ordinary_head_in_bfloat16(head):
    torch.manual_seed(0)
    taps = [torch.randn(2, 12, 32, device=DEVICE).bfloat16() for _ in range(4)]
    fast = FastDepthHead(head, Settings(kernels=CUDA))  # the interpreter cuts where a GPU rounds
    engine = Engine(fast.settings, fast.operators)
    maps = [fast.project(i, *t.chunk(2, dim=-1), 0, engine) for i, t in enumerate(taps)]
    found, exact = fast.decode(maps, 3, 4)[0].log(), head([t.float() for t in taps], 3, 4)[:, 0]
    usual = head.bfloat16()(taps, 3, 4)[:, 0].float()
    assert (found - exact).norm() < 1.5 * (usual - exact).norm()


@both_ways
@torch.inference_mode()
def test_stages_of_convolutions_are_the_ordinary_ones(kernels, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    head = ConvPixels(24, (32, 16), 8, (2, 1), 6)
    standin.fill(head, 1)
    torch.manual_seed(0)
    tokens = torch.randn(2, 2, 24, device=DEVICE)
    expected = torch.cat(head.to(DEVICE)(tokens, 1, 2), dim=1)
    fast = FastConvPixels(head, Settings(dtype=torch.float32, kernels=kernels))
    for _ in range(2):  # the tables stay as they are
        (found,) = fast(tokens, 1, 2)
        assert found.shape == (2, 3, 6, 12) and (found - expected).norm() < 5e-6 * expected.norm()
    (half,) = FastConvPixels(head, Settings(kernels=CUDA))(tokens.bfloat16(), 1, 2)
    assert half.dtype == torch.float32 and (half - expected).norm() < 0.03 * expected.norm()


@both_ways
@torch.inference_mode()
def test_patches_are_the_ordinary_embedding(kernels, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr("lite3r_cli.engine.patches.FRAMES", 2)
    embed, images = PatchEmbed(24).to(DEVICE), torch.rand(3, 3, 28, 42, device=DEVICE)
    position, first = torch.randn(6, 24, device=DEVICE), torch.randn(2, 24, device=DEVICE)
    tokens = torch.full((3, 8, 24), torch.nan, device=DEVICE)
    Patches(embed, torch.float32, kernels)(images, position, first, tokens)
    torch.testing.assert_close(tokens[:, 2:], embed(buckets.normalise(images)) + position, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(tokens[:, :2], first.expand(3, -1, -1))
