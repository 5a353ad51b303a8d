"""Sparse-linear attention inside a network: ratios per layer, both mixes, tilings, and the reported share of skipped
work.
"""

import json

import pytest
import torch

from lite3r_cli.attention.module import attach, set_frames
from lite3r_cli.attention.sparse_config import SparseConfig
from lite3r_cli.attention.tiling import Frames, frame_tiling, packed_tiling
from lite3r_cli.errors import UsageError
from lite3r_cli.layers.vit import Block

LAYERS = ("0.attn", "1.attn")


def network():
    torch.manual_seed(0)
    return torch.nn.ModuleList([Block(16, 2, qk_norm=True, layer_scale=1.0) for _ in range(2)])


def test_each_layer_keeps_its_own_share():
    blocks = network()
    attach(blocks, SparseConfig(LAYERS, keep_ratios=(0.25, 1.0), block=16, linear_over="rest"))
    x = torch.randn(1, 128, 16)
    before = network()[1](x)
    torch.testing.assert_close(blocks[1](x), before)
    assert blocks[1].attn.skipped == 0
    assert not torch.allclose(blocks[0](x), network()[0](x), atol=1e-4)
    assert blocks[0].attn.skipped == 0.75
    assert "keep_ratio=0.25" in repr(blocks[0]) and "elu over rest" in repr(blocks[0])


def test_the_convex_mix_starts_near_the_sparse_branch_and_learns():
    x = torch.randn(1, 128, 16)
    both = [network() for _ in range(2)]
    for blocks, mix in zip(both, ("sum", "convex")):
        attach(blocks, SparseConfig(LAYERS, keep_ratio=0.5, block=16, linear_over="rest", mix=mix))
    start, out = both[0][0](x), both[1][0](x)
    assert 0 < (out - start).abs().max() < 0.02
    out.square().sum().backward()
    assert both[1][0].attn.mix_logit.grad.abs().min() > 0
    assert not any("proj_lin" in name for name in both[1].state_dict())


def test_a_layout_protects_the_special_tokens_of_all_frames():
    blocks = network()
    attach(blocks, SparseConfig(LAYERS[:1], keep_ratio=0.1, block=8))
    x = torch.randn(1, 4 * 41, 16)
    torch.nn.init.constant_(blocks[0].attn.q_norm.weight, 0)  # all scores are equal: every key that is seen counts
    blocks[0].attn.layout = frame_tiling((Frames(4, 41, 1, (5, 8)),), 8)
    changed = x.clone()
    changed[:, 41 * 3, :8] += 9  # the camera token of the last frame reaches every token, though hardly a block is kept
    assert ((blocks[0](changed) - blocks[0](x)).abs().amax(-1) > 1e-4).all()
    assert 0.6 < blocks[0].attn.skipped < 0.9


def test_a_layout_made_in_a_prediction_serves_training():
    blocks = network()
    attach(blocks, SparseConfig(LAYERS[:1], keep_ratio=0.5, block=7))
    x = torch.randn(1, 101, 16)
    packed_tiling.cache_clear()
    with torch.inference_mode():
        blocks[0](x)
    blocks[0](x).sum().backward()
    assert blocks[0].attn.qkv.weight.grad.isfinite().all()


def test_settings_survive_the_metadata_of_a_checkpoint():
    config = SparseConfig(LAYERS, 0.25, keep_ratios=(0.2, 0.3), drop_ratio=0.1, feature="softmax", mix="convex")
    assert SparseConfig.from_dict(json.loads(config.to_json())) == config
    assert SparseConfig.from_dict({"layers": ["a"], "keep_ratio": 0.3}) == SparseConfig(("a",), 0.3)


def test_key_blocks_are_those_of_the_settings():
    blocks = network()
    attach(blocks, SparseConfig(LAYERS[:1], keep_ratio=0.5, block=8, key_block=4))
    attention = blocks[0].attn
    x, frames = torch.randn(1, 2 * 41, 16), (Frames(2, 41, 1, (5, 8)),)
    blocks[0](x)
    assert attention.skipped == pytest.approx(1 - 10 / 21)  # runs of 4 tokens
    attention.set_frames(frames, 0, x.device)
    assert (attention.layout.index.shape[1], attention.layout.keys.index.shape[1]) == (8, 4)
    assert attention.layout.finer.index.shape[0] > attention.layout.blocks and "block=8×4" in repr(attention)
    blocks[0](x)
    assert 0.5 <= attention.skipped < 0.55


@pytest.mark.parametrize(
    "values",
    [
        {"mix": "max"},
        {"key_block": 0},
        {"scores": "max"},
        {"walk": True},
        {"key_block": 16, "official": True},
        {"keep_ratios": (0.5,)},
        {"feature": "exp"},
        {"drop_ratio": -1},
    ],
)
def test_impossible_settings_are_refused_when_built(values):
    with pytest.raises(UsageError):
        SparseConfig(LAYERS, **values)


def test_frames_of_another_forward_pass_are_refused():
    block = torch.nn.ModuleList([Block(16, 2, qk_norm=True)])
    attach(block, SparseConfig(("0.attn",), keep_ratio=0.5, block=4))
    set_frames([block[0].attn], [Frames(2, 10, 1)], 0, torch.device("cpu"))
    assert block[0](torch.randn(1, 20, 16)).shape == (1, 20, 16)
    for tokens in (19, 21):
        with pytest.raises(ValueError, match="set_frames"):
            block[0](torch.randn(1, tokens, 16))
