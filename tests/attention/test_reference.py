"""The formula of sparse-linear attention: limiting cases and odd lengths."""

import pytest
import torch
from torch.nn import functional as F

from lite3r_cli.attention.module import SparseLinearAttention, attach, attention_modules, layers_in
from lite3r_cli.attention.reference import dense_and_linear, kept_blocks, linear_attention, published
from lite3r_cli.attention.sparse_config import SparseConfig
from lite3r_cli.errors import UsageError
from lite3r_cli.layers.vit import Attention, Block


def qkv(tokens, heads=2, width=8, seed=0):
    return torch.randn(3, 2, heads, tokens, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 130])
def test_all_blocks_kept_is_dense_attention(tokens):
    q, k, v = qkv(tokens)
    kept = kept_blocks(q, k, 1.0)
    assert kept.all() and kept.shape[2:] == (-(-tokens // 64),) * 2
    none = torch.zeros(8, 8, dtype=q.dtype)  # without the linear branch
    torch.testing.assert_close(published(q, k, v, none, 1.0), F.scaled_dot_product_attention(q, k, v))


@pytest.mark.parametrize("tokens", [65, 130, 500])
def test_each_query_block_sees_its_kept_blocks_alone(tokens):
    q, k, v = qkv(tokens)
    kept = kept_blocks(q, k, 0.3)
    assert (kept.sum(-1) == max(1, int(0.3 * kept.shape[-1]))).all()
    out = published(q, k, v, torch.zeros(8, 8, dtype=q.dtype), 0.3)
    for b, h, i in ((0, 1, 0), (1, 0, kept.shape[2] - 1)):
        seen = torch.cat(
            [torch.arange(64 * j, min(64 * (j + 1), tokens)) for j in kept[b, h, i].nonzero()[:, 0].tolist()]
        )
        rows = slice(64 * i, 64 * (i + 1))
        expected = F.scaled_dot_product_attention(q[b, h, rows], k[b, h, seen], v[b, h, seen])
        torch.testing.assert_close(out[b, h, rows], expected)


def test_linear_branch_is_an_average_with_positive_weights():
    q, k, v = qkv(70)
    torch.testing.assert_close(linear_attention(q, k, torch.ones_like(v)), torch.ones_like(v), atol=1e-4, rtol=0)
    weights = (F.elu(q) + 1) @ (F.elu(k) + 1).transpose(-1, -2)
    torch.testing.assert_close(
        linear_attention(q, k, v), weights / weights.sum(-1, keepdim=True) @ v, atol=1e-4, rtol=1e-4
    )


def test_the_projection_acts_on_the_linear_branch_of_each_head():
    q, k, v = qkv(70)
    weight = torch.randn(8, 8, dtype=torch.float64)
    difference = dense_and_linear(q, k, v, weight) - F.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(difference, linear_attention(q, k, v) @ weight.T)
    # the same in O(N) as in O(N²), but for sums in float32
    torch.testing.assert_close(dense_and_linear(q, k, v, weight), published(q, k, v, weight), atol=1e-4, rtol=1e-4)


def test_attaching_changes_nothing_until_the_projection_is_trained():
    blocks = torch.nn.ModuleList([Block(16, 2, qk_norm=True) for _ in range(2)])
    x = torch.randn(1, 70, 16)
    before = blocks[1](x)
    attach(blocks, SparseConfig(("1.attn",)))
    assert type(blocks[0].attn) is Attention and isinstance(blocks[1].attn, SparseLinearAttention)
    assert torch.equal(blocks[1](x), before)
    assert layers_in(blocks.state_dict()) == ("1.attn",) and set(attention_modules(blocks)) == {"0.attn", "1.attn"}
    torch.nn.init.normal_(blocks[1].attn.proj_lin.weight)
    assert not torch.allclose(blocks[1](x), before)


@pytest.mark.parametrize("values", [{"keep_ratio": 0.0}, {"keep_ratio": 1.5}, {"block": 0}])
def test_impossible_settings_are_refused(values):
    with pytest.raises(UsageError):
        SparseConfig((), **values)
