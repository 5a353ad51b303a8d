"""Dense attention by bfloat16 products: close to exact attention at odd sizes, no overflow, on any number of
threads.
"""

from __future__ import annotations

import threading
import time

import pytest
import torch
from torch.nn import functional as F

from lite3r_cli.layers.dense import dense, dense_by_products


def _inputs(queries: int, keys: int, spread: float) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(queries)
    shapes = ((2, 3, queries, 64), (2, 3, keys, 64), (2, 3, keys, 64))
    q, k, v = (torch.randn(s).bfloat16() for s in shapes)
    return q * spread, k + 1, v


@pytest.mark.parametrize("queries, keys", [(1, 1), (1, 63), (130, 130), (65, 927), (1041, 1041)])
def test_error_is_at_most_twice_that_of_the_fused_kernel(queries, keys):
    q, k, v = _inputs(queries, keys, 2.0)
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double())
    ours = dense_by_products(q, k, v, logits=2**14)
    fused = F.scaled_dot_product_attention(q, k, v)
    error, usual = ((x.double() - exact).norm() / exact.norm() for x in (ours, fused))
    assert error <= 2 * usual + 1e-5


def test_huge_logits_stay_finite_and_pick_the_largest():
    q, k, v = _inputs(70, 200, 300.0)
    out = dense_by_products(q, k, v)
    assert torch.isfinite(out).all()
    logits = (q.float() @ k.float().transpose(-1, -2)) / 8
    top = logits.topk(2).values
    clear = top[..., 0] - top[..., 1] > 20  # one key has all the weight, whatever the rounding
    assert clear.any()
    chosen = v.gather(2, logits.argmax(-1)[..., None].expand(-1, -1, -1, 64))
    torch.testing.assert_close(out[clear], chosen[clear])


def _own_threads() -> int:
    return sum(thread.name.startswith("lone") for thread in threading.enumerate())


def test_threads_change_nothing_and_only_the_last_ones_are_kept():
    q, k, v = _inputs(300, 300, 1.0)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(dense_by_products(q, k, v, logits=2**13))
            assert torch.get_num_threads() == threads
        for threads in (4, 2):
            torch.set_num_threads(threads)
            dense_by_products(q, k, v, logits=2**13)
        deadline = time.monotonic() + 30
        while (left := _own_threads()) > 2 and time.monotonic() < deadline:  # the older pools end by themselves
            time.sleep(0.01)
        assert left == 2
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(*results, rtol=2e-2, atol=2e-3)


def test_gradients_take_the_differentiable_way():
    q, k, v = (t.requires_grad_() for t in _inputs(65, 65, 1.0))
    dense(q, k, v).float().sum().backward()
    assert all(torch.isfinite(t.grad).all() and t.grad.abs().sum() > 0 for t in (q, k, v))
