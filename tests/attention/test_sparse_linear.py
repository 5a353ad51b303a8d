"""Sparse-linear attention against its specification: outputs and gradients, at odd lengths, in every setting."""

import pytest
import torch
from torch.nn import functional as F

from lite3r_cli.attention import torch_backend
from lite3r_cli.attention.block_map import SCORES, block_map
from lite3r_cli.attention.dispatch import choose_backend, sparse_linear
from lite3r_cli.attention.reference import kept_blocks, published
from lite3r_cli.attention.sparse_config import Formula
from lite3r_cli.attention.tiling import Frames, frame_tiling, packed_tiling
from lite3r_cli.errors import BackendError, UsageError

FRAMES = (Frames(3, 40, specials=5), Frames(2, 31, specials=5))  # 182 tokens, blocks of at most 16: many empty slots


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


FORMULAS = [Formula(0.3, 0.25, feature, over) for feature in ("softmax", "elu", "relu") for over in ("all", "rest")]
FORMULAS += [Formula(0.3, 0.25, "elu", "rest", True, scores) for scores in SCORES]


@pytest.mark.parametrize("key_block", [None, 16, 100])
@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 130, 1041, 1374])
def test_keeping_everything_is_dense_attention(tokens, key_block):
    q, k, v = random(3, 1, 2, tokens, 8)
    layout = packed_tiling(tokens, key_block=key_block)
    dense = F.scaled_dot_product_attention(q, k, v)
    for formula in (Formula(1.0), Formula(1.0, summaries=True)):
        out, blocks = sparse_linear(q, k, v, formula, torch.zeros(8, 8, dtype=q.dtype), layout=layout)
        torch.testing.assert_close(out, dense)
        assert blocks.skipped == 0
    torch.testing.assert_close(
        sparse_linear(q, k, v, Formula(1.0), alpha=torch.full((2,), 0.4), layout=layout)[0], dense
    )


@pytest.mark.parametrize("formula", FORMULAS, ids=str)
@pytest.mark.parametrize("mix, key_block", [("sum", None), ("convex", None), ("sum", 5)])
def test_gathered_blocks_are_the_specification_with_all_gradients(formula, mix, key_block):
    layout = frame_tiling(FRAMES, 16, key_block=key_block)
    results = []
    for backend in ("reference", "torch"):
        q, k, v = (t.requires_grad_() for t in random(3, 2, 2, 182, 8))
        weight = random(8, 8, seed=1).requires_grad_() if mix == "sum" else None
        alpha = torch.tensor([0.3, 0.8], dtype=q.dtype).requires_grad_() if mix == "convex" else None
        out, blocks = sparse_linear(q, k, v, formula, weight, alpha, layout, backend)
        learned = weight if alpha is None else alpha
        results.append((out, *torch.autograd.grad(out, (q, k, v, learned), random(*out.shape, seed=2))))
    assert 0.5 < blocks.skipped < 0.8
    for ours, expected in zip(*results):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("tokens", [65, 130, 500])
def test_without_frames_it_is_the_published_form(tokens):
    q, k, v = random(3, 2, 2, tokens, 8)
    weight = random(8, 8, seed=1)
    layout = packed_tiling(tokens)
    assert torch.equal(block_map(layout.tile(q), layout.tile(k), layout, 0.3).critical, kept_blocks(q, k, 0.3))
    ours = sparse_linear(q, k, v, Formula(0.3), weight)[0]
    torch.testing.assert_close(ours, published(q, k, v, weight, 0.3))


@pytest.mark.parametrize("formula", [Formula(0.5), Formula(0.5, linear_over="rest", summaries=True)], ids=str)
@pytest.mark.parametrize("key_block", [None, 16])
def test_tokens_outside_the_layout_never_leak(key_block, formula):
    q, k, v = random(3, 1, 2, 130, 8)
    layout = packed_tiling(130, key_block=key_block)
    expected = sparse_linear(q, k, v, formula, layout=layout)[0]
    padded = [F.pad(t, (0, 0, 0, 20), value=float("nan")).requires_grad_() for t in (q, k, v)]
    out = sparse_linear(*padded, formula, layout=layout)[0]
    torch.testing.assert_close(out[:, :, :130], expected)
    assert (out[:, :, 130:] == 0).all()
    for grad in torch.autograd.grad(out[:, :, :130].sum(), padded):
        assert grad.isfinite().all() and (grad[:, :, 130:] == 0).all()


def test_summaries_of_keys_that_hardly_differ_are_dense_attention():
    layout = frame_tiling(FRAMES, 16)
    centres = random(1, 2, layout.blocks, 1, 8) * 2
    k = layout.untile((centres + 1e-4 * random(1, 2, layout.blocks, layout.index.shape[1], 8, seed=1)), 182)
    q, v = random(2, 1, 2, 182, 8, seed=2)
    dense = F.scaled_dot_product_attention(q, k, v)
    errors = [
        float(
            (
                sparse_linear(q, k, v, Formula(0.3, summaries=on), torch.zeros(8, 8, dtype=q.dtype), layout=layout)[0]
                - dense
            )
            .abs()
            .max()
        )
        for on in (False, True)
    ]
    assert errors[1] < 1e-4 < 0.1 < errors[0]


def test_the_spread_of_keys_counts():
    make = torch.Generator().manual_seed(0)
    k, q = (
        torch.randn(1, 1, 1280, 8, generator=make, dtype=torch.float64),
        torch.full((1, 1, 1280, 8), 0.7, dtype=torch.float64),
    )
    k[:, :, 640:] *= 2  # of two halves with the same mean the wider one has more weight
    v = (torch.arange(1280) >= 640).double().expand(1, 1, 8, -1).mT.contiguous()
    dense = F.scaled_dot_product_attention(q, k, v)
    out, blocks = sparse_linear(
        q, k, v, Formula(0.05, linear_over="rest", summaries=True), torch.zeros(8, 8, dtype=q.dtype)
    )
    assert blocks.skipped == pytest.approx(0.95)
    torch.testing.assert_close(out, dense, atol=0.05, rtol=0)


def test_the_order_of_kept_blocks_changes_nothing():
    q, k, v = random(3, 12, 16, 8)  # tiles
    columns = torch.stack([torch.randperm(12, generator=torch.Generator().manual_seed(i))[:5] for i in range(12)])
    mask = torch.zeros(12, 16, dtype=q.dtype)
    mask[3, 9:] = -torch.inf
    out = torch_backend.GatheredAttention.apply(q, k, v, columns, mask)
    torch.testing.assert_close(torch_backend.GatheredAttention.apply(q, k, v, columns.flip(1), mask), out)


@pytest.mark.parametrize("summaries", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_errs_no_more_than_dense_attention_does(dtype, summaries):
    q, k, v = random(3, 1, 2, 500, 64)
    half = [t.to(dtype) for t in (q, k, v)]
    formula = Formula(0.3, summaries=summaries)
    exact = sparse_linear(*(t.double() for t in half), formula)[0]
    dense = F.scaled_dot_product_attention(*(t.double() for t in half))
    allowed = (F.scaled_dot_product_attention(*half) - dense).abs()
    assert (sparse_linear(*half, formula)[0] - exact).abs().max() < 4 * allowed.max()


def test_a_back_end_is_chosen_with_its_reason():
    cpu = torch.device("cpu")
    assert choose_backend("auto", cpu, 5000, crossover=2000).chosen == "torch"
    short = choose_backend("auto", cpu, 1000, crossover=2000)
    assert short.chosen == "dense" and "2000" in short.reason
    assert choose_backend("reference", cpu, 1000, crossover=2000).reason == "asked for"
    assert choose_backend("auto", cpu, 1).chosen == "torch"  # sparse at any length unless told otherwise
    with pytest.raises(UsageError):
        choose_backend("flash", cpu, 1000)


def test_triton_is_refused_where_it_cannot_run(monkeypatch):
    monkeypatch.setattr("lite3r_cli.attention.dispatch.triton_reason", lambda: "Triton needs a GPU")
    with pytest.raises(BackendError, match="needs a GPU; use torch"):
        choose_backend("triton", torch.device("cpu"), 1000)


@pytest.mark.parametrize(
    "values", [{"keep_ratio": 0}, {"drop_ratio": 1}, {"feature": "exp"}, {"linear_over": "half"}, {"scores": "max"}]
)
def test_impossible_formulas_are_refused(values):
    with pytest.raises(UsageError):
        Formula(**values)


@pytest.mark.parametrize("formula", [Formula(0.3, scores=scores, summaries=True) for scores in SCORES], ids=str)
def test_autocast_changes_nothing(formula):
    """Float32 parts stay float32 under autocast, in which networks run."""
    q, k, v = random(3, 1, 2, 300, 16, dtype=torch.float32)
    expected, _ = sparse_linear(q, k, v, formula, torch.eye(16))
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = sparse_linear(q, k, v, formula, torch.eye(16))
    assert torch.equal(found, expected)
