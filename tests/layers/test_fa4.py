"""FlashAttention-4 as the back end of dense attention: a stand-in on any machine, the library itself on a GPU."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from lite3r_cli.layers import dense as choices
from lite3r_cli.layers import fa4_backend
from lite3r_cli.layers.dense import CUDNN, FA4, TORCH, accounted, choose_dense, dense, fused_only, leaving_out
from lite3r_cli.networks import standin
from lite3r_cli.networks.arithmetic import set_precision
from lite3r_cli.networks.checkpoint_facts import NetworkFacts
from lite3r_cli.networks.vggt.network import VGGT, VGGTConfig
from lite3r_cli.pipelines.engine_choice import Asked, Machine, resolve
from lite3r_cli.pipelines.planned import PlannedNetwork
from lite3r_cli.runtime import Choice

GPU = torch.cuda.is_available() and fa4_backend.device_reason(torch.device("cuda")) is None


class StandIn:
    """The library's forward pass in plain torch: (B, N, H, D) in and out, and nothing else is accepted."""

    def __init__(self, off: float = 0.0, error: Exception | None = None):
        self.shapes: list[tuple[torch.Size, torch.Size]] = []
        self.off, self.error = off, error

    def __call__(self, q, k, v, **more):
        assert not more and k.shape == v.shape and all(t.stride(-1) == 1 for t in (q, k, v))
        self.shapes.append((q.shape, k.shape))
        if self.error is not None:
            raise self.error
        out = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v))).transpose(1, 2)
        return (out + self.off).contiguous(), None


@pytest.fixture
def fresh(monkeypatch):
    """As in a new process on a GPU that suits, with a stand-in for the library."""

    def install(stand_in: StandIn, work: float = float("inf")) -> StandIn:
        monkeypatch.setattr(fa4_backend, "device_reason", lambda device: None)
        monkeypatch.setattr(fa4_backend, "load_forward", lambda: stand_in)
        monkeypatch.setattr(fa4_backend, "_refusals", {})
        monkeypatch.setattr(fa4_backend._Work, "done", work)
        return stand_in

    return install


def operands(queries: int = 530, keys: int = 600, dim: int = 64, dtype: torch.dtype = torch.float16):
    draw = torch.Generator().manual_seed(0)
    # views of one product, as the networks make them
    q, k, v = (torch.randn(2, n, 3, dim, generator=draw).to(dtype).transpose(1, 2) for n in (queries, keys, keys))
    return q, k, v


def test_it_is_given_tokens_before_heads_and_says_that_it_ran(fresh):
    stand_in = fresh(StandIn())
    q, k, v = operands()
    with accounted() as account:
        out = dense(q, k, v)
    torch.testing.assert_close(out, F.scaled_dot_product_attention(q, k, v))
    assert stand_in.shapes[-1] == ((2, 530, 3, 64), (2, 600, 3, 64))
    assert out.transpose(1, 2).is_contiguous()  # rows of tokens, without a copy
    assert [(choice.chosen, work) for choice, work in account.items()] == [(FA4, 4 * 2 * 3 * 530 * 600 * 64)]


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(dtype=torch.float32), "half precision"),
        (dict(dim=60), "multiples of 8"),
        (dict(dim=136), "multiples of 8"),
        (dict(keys=511), "512 keys or more"),
    ],
)
def test_what_does_not_suit_goes_another_way_with_the_reason(change, words, fresh):
    stand_in = fresh(StandIn())
    q, k, v = operands(**change)
    choice = choose_dense(q, k, v, cudnn=True)
    assert choice.chosen == CUDNN and words in choice.reason
    torch.testing.assert_close(dense(q, k, v), F.scaled_dot_product_attention(q, k, v))
    assert not stand_in.shapes


def test_cudnn_is_tried_first_where_a_call_is_long_enough(monkeypatch):
    q, k, v = operands()
    monkeypatch.setattr(choices, "is_hopper", lambda device: True)
    assert choose_dense(q, k, v).chosen == TORCH
    monkeypatch.setattr(choices, "CUDNN_WORK", fa4_backend.operations(q, k))
    assert choose_dense(q, k, v).chosen == CUDNN and choose_dense(*(t.float() for t in (q, k, v))).chosen == TORCH
    with fused_only():
        assert choose_dense(q, k, v).chosen == TORCH
    monkeypatch.setattr(choices, "is_hopper", lambda device: False)
    assert choose_dense(q, k, v).chosen == TORCH


def test_gradients_and_comparisons_leave_it_out(fresh):
    stand_in = fresh(StandIn())
    q, k, v = operands()
    with fused_only():
        assert choose_dense(q, k, v).chosen == TORCH
    with leaving_out(FA4):
        assert choose_dense(q, k, v, cudnn=True).chosen == CUDNN
    assert choose_dense(q.requires_grad_(), k, v).chosen == TORCH
    dense(q, k, v).float().sum().backward()
    assert q.grad is not None and not stand_in.shapes


@pytest.mark.parametrize(
    "stand_in, words",
    [
        (
            StandIn(error=TypeError("_flash_attn_fwd() got\n an unexpected argument")),
            "TypeError: _flash_attn_fwd() got an",
        ),
        (StandIn(error=ImportError("libcute.so: cannot open")), "ImportError: libcute.so"),
        (StandIn(off=0.5), "computes something else"),
    ],
)
def test_a_library_that_fails_is_tried_once_and_refused(stand_in, words, fresh):
    fresh(stand_in)
    q, k, v = operands()
    for _ in range(2):
        choice = choose_dense(q, k, v)
        assert choice.chosen == TORCH and words in choice.reason
    assert len(stand_in.shapes) == 1


def test_it_is_loaded_when_the_work_done_without_it_would_have_paid(fresh, monkeypatch):
    stand_in = fresh(StandIn(), work=0.0)
    q, k, v = operands()
    monkeypatch.setattr(fa4_backend, "LOAD_WORK", 2.5 * fa4_backend.operations(q, k))
    assert [choose_dense(q, k, v).chosen for _ in range(4)] == [TORCH, TORCH, FA4, FA4]
    fresh(stand_in, work=0.0)
    fa4_backend.load_at_once()
    assert choose_dense(q, k, v).chosen == FA4


def test_kernels_are_kept_where_only_the_user_can_write(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(fa4_backend.CACHE["DIR"], raising=False)
    with fa4_backend._kept_on_disk():
        folder = os.environ[fa4_backend.CACHE["DIR"]]
        assert folder == str(tmp_path / "lite3r" / FA4) and os.environ[fa4_backend.CACHE["ENABLED"]] == "1"
    assert fa4_backend.CACHE["DIR"] not in os.environ
    os.chmod(folder, 0o777)
    with fa4_backend._kept_on_disk():
        assert os.environ[fa4_backend.CACHE["ENABLED"]] == "0"
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/cache")
    assert fa4_backend.kernel_folder() is None


@pytest.mark.parametrize("engine", ["fast", "ordinary"])
def test_both_engines_come_here_with_pictures_of_two_sizes(engine, fresh, monkeypatch):
    stand_in = fresh(StandIn())
    monkeypatch.setattr(fa4_backend, "SHORTEST", 16)
    heads = dict(head_features=16, head_stages=(8, 8, 16, 16), camera_depth=1, camera_heads=2)
    model = VGGT(VGGTConfig(64, 4, 2, 2, 2, (0, 1, 2, 3), **heads))
    standin.fill(model, 3)
    plan = resolve(Asked("dense", engine="ordinary"), NetworkFacts.of_model(model), Machine(dtype="bfloat16"))
    plan = replace(plan, engine=Choice("auto", engine, ""))
    images = [picture[:, :height] for picture, height in zip(standin.image_batch(3, 84, 112, 3)[0], (84, 56, 84))]
    if engine == "ordinary":
        set_precision(model, torch.bfloat16)
    network = PlannedNetwork(model.eval(), plan, torch.device("cpu"))
    found = network.predict(images)
    assert {shape[1] for shape, _ in stand_in.shapes[1:]} == {53, 37, 143}  # each size, and all views together
    assert network.choices()["dense_attention"]["chosen"] == FA4
    with leaving_out(FA4):
        expected = network.predict(images)
    assert network.choices()["dense_attention"]["chosen"] != FA4
    apart = [float((a.float() / b.float()).log().abs().mean()) for a, b in zip(found.depth, expected.depth)]
    assert max(apart) < 0.02


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs a GPU from Hopper on and flash-attn-4")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("queries, keys", [(512, 512), (1041, 1041), (1374, 1374), (33312, 33312), (65, 3000)])
def test_on_a_gpu(queries, keys, dtype):
    q, k, v = (t.cuda() for t in operands(queries, keys, dtype=dtype))
    fa4_backend.load_at_once()
    assert choose_dense(q, k, v).chosen == FA4, choose_dense(q, k, v).reason
    exact = F.scaled_dot_product_attention(*(t[:1, :, -65:].float() if t is q else t[:1].float() for t in (q, k, v)))
    usual = F.scaled_dot_product_attention(q, k, v)[:1, :, -65:].float()
    found = dense(q, k, v)[:1, :, -65:].float()
    error, allowed = (float((t - exact).norm() / exact.norm()) for t in (found, usual))
    assert error < 2 * allowed + 1e-4


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs a GPU from Hopper on and flash-attn-4")
def test_a_graph_holds_it():
    fa4_backend.load_at_once()
    q, k, v = (t.cuda() for t in operands(1041, 1041, dtype=torch.bfloat16))
    dense(q, k, v)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = dense(q, k, v)
    q.mul_(0.5)
    graph.replay()
    torch.testing.assert_close(out, dense(q, k, v))
