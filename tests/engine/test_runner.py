"""The fast path against the ordinary one, on the networks of the parity fixtures, on a CPU."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lite3r_cli.engine.layers import Settings
from lite3r_cli.engine.outputs import Shape
from lite3r_cli.errors import BackendError
from lite3r_cli.networks import standin
from lite3r_cli.networks.da3.network import DA3, GIANT, SIZES
from lite3r_cli.networks.fast_form import fast_runner
from lite3r_cli.networks.mini.network import Mini, MiniConfig
from lite3r_cli.networks.sparsify import skipped_share, sparse_modules, sparsify
from lite3r_cli.networks.vggt.recompute import vggt_from

FIXTURES = Path(__file__).parent.parent / "fixtures"
CPU = torch.device("cpu")
FLOAT32 = dict(dtype=torch.float32, query_tiles=1)
SPARSE = {
    "deep networks": {"linear_over": "all"},
    "convex, reference": {"mix": "convex", "protect": "reference"},
    "published": {"summaries": False, "linear_over": "all", "tiles": False},
}


def network(fixture: str) -> tuple[torch.nn.Module, torch.Tensor]:
    config = json.loads(str(np.load(FIXTURES / f"{fixture}.npz")["config"]))
    if config["model"].startswith("da3"):
        with torch.device("meta"):
            model = DA3(SIZES[config["model"]])
    else:
        model = vggt_from(config)
    standin.fill(model, config["seed"])
    return model.eval(), standin.image_batch(config["views"], config["height"], config["width"], config["seed"])[0]


@pytest.fixture(params=["vggt_small_3x140x182", "da3_small_6x112x140_ref"])
def case(request):
    return network(request.param)


def errors(model: torch.nn.Module, images: torch.Tensor, settings: Settings) -> list[float]:
    """Relative, of depth, confidence, poses and K."""
    ordinary, fast = model.predict(list(images)), fast_runner(model, settings, CPU)(images)
    pairs = [(fast.depth, torch.stack(ordinary.depth)), (fast.confidence, torch.stack(ordinary.confidence))]
    pairs += [(fast.cam_from_world, ordinary.cam_from_world), (fast.K, ordinary.K)]
    return [float((a - b).norm() / b.norm()) for a, b in pairs]


def test_dense_in_float32_is_the_ordinary_path(case):
    assert max(errors(*case, Settings(**FLOAT32))) < 5e-6


@pytest.mark.parametrize("settings", SPARSE.values(), ids=SPARSE)
def test_sparse_in_float32_is_the_ordinary_path(case, settings):
    model, images = case
    sparsify(model, 0.5, block=32, scores="pooled", backend="torch", **settings)
    for module in sparse_modules(model):
        if module.config.mix == "sum":
            torch.nn.init.normal_(module.proj_lin.weight, std=0.05)
        else:
            torch.nn.init.constant_(module.mix_logit, 1.0)
    assert max(errors(model, images, Settings(**FLOAT32))) < 5e-6
    runner = fast_runner(model, Settings(**FLOAT32), CPU)
    runner(images)
    assert runner.skipped(Shape(len(images), *images.shape[-2:])) == pytest.approx(skipped_share(model), abs=1e-6)


def test_pieces_of_frames_and_tokens_change_nothing(case, monkeypatch):
    model, images = case
    whole = fast_runner(model, Settings(**FLOAT32), CPU)(images)
    monkeypatch.setattr("lite3r_cli.engine.layers.MLP_TOKENS", 100)
    monkeypatch.setattr("lite3r_cli.engine.patches.FRAMES", 2)
    pieces = fast_runner(model, Settings(**FLOAT32, head_frames=2), CPU)(images)
    torch.testing.assert_close(pieces.depth, whole.depth, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pieces.cam_from_world, whole.cam_from_world, rtol=1e-4, atol=1e-5)


def test_low_precision_stays_near(case):
    model, images = case
    assert max(errors(model, images, Settings())) < 0.03  # bfloat16 with weights that spread widely
    assert max(errors(model, images, Settings(dtype=torch.float32, fp8=True))) < 0.15


def test_what_has_no_fast_path_says_so():
    mini = Mini(MiniConfig(dim=32, depth=4, heads=2, taps=(0, 1, 2, 3), head_stages=(8, 8, 8, 8), head_features=8))
    with pytest.raises(BackendError, match="no fast path for mini"):
        fast_runner(mini, Settings(), CPU)
    with torch.device("meta"):
        small = DA3(SIZES["da3-small"])
    sparsify(small, 0.5)
    with pytest.raises(BackendError, match="pooled scores, not by mass"):
        fast_runner(small, Settings(), torch.device("meta"))
    fast_runner(small, Settings(sparse=False), torch.device("meta"))
    with torch.device("meta"):
        giant = DA3(GIANT, "da3-giant")
    with pytest.raises(BackendError, match="gated MLP"):
        fast_runner(giant, Settings(), torch.device("meta"))
