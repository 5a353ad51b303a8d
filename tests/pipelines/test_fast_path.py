"""When a run takes the fast path, what it says, and that its answer is that of the ordinary one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lite3r_cli.cli import main
from lite3r_cli.config import LiteConfig
from lite3r_cli.networks import standin
from lite3r_cli.networks.fast_form import reason_against
from lite3r_cli.networks.vggt.recompute import vggt_from
from lite3r_cli.pipelines.fast_path import FastPath
from lite3r_cli.pipelines.lite import LiteRun
from lite3r_cli.runtime import choose

FIXTURE = Path(__file__).parent.parent / "fixtures" / "vggt_small_3x140x182.npz"


def path(asked: str, lite: LiteConfig) -> tuple[FastPath, list[torch.Tensor]]:
    config = json.loads(str(np.load(FIXTURE)["config"]))
    model = vggt_from(config)
    standin.fill(model, config["seed"])
    runtime = choose("cpu", "float32")
    run = LiteRun(lite, runtime, False)
    run.apply(model.eval())
    images = standin.image_batch(config["views"], config["height"], config["width"], config["seed"])[0]
    return FastPath(asked, model, run, runtime), list(images)


@pytest.fixture
def anywhere(monkeypatch):
    """As if the processor were a GPU, with plain torch for kernels, and the small network a deep one."""
    monkeypatch.setattr("lite3r_cli.networks.sparsify.SHALLOW", 0)
    monkeypatch.setattr(
        FastPath, "_reason_against", lambda self, lite: reason_against(self.backbone, self.settings, self.device)
    )


def test_its_answer_is_the_ordinary_one(anywhere):
    fast, images = path("fast", LiteConfig())
    expected = fast.backbone.predict(images)
    for _ in range(2):  # the second time it is there already
        found, skipped = fast.predict(images, {})
        assert skipped == 0
        for ours, theirs in ((found.cam_from_world, expected.cam_from_world), (found.K, expected.K)):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(torch.stack(found.depth), torch.stack(expected.depth), rtol=1e-4, atol=1e-5)


def test_sparse_attention_takes_it_by_itself_and_says_what_it_skipped(anywhere, monkeypatch):
    monkeypatch.setattr("lite3r_cli.pipelines.fast_path.CROSSOVER", 0)
    fast, images = path("auto", LiteConfig("sla", 0.5))
    fast_dense, _ = path("auto", LiteConfig())
    assert (
        fast.choice.chosen == "fast"
        and fast_dense.choice.chosen == "ordinary"
        and "--engine fast" in fast_dense.choice.reason
    )
    prediction, skipped = fast.predict(images, {})
    assert 0.3 < skipped < 0.7 and all(torch.isfinite(d).all() for d in prediction.depth)


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_a_machine_without_a_gpu(photographs, tmp_path, capsys):
    assert path("auto", LiteConfig("sla", 0.5))[0].choice.reason == "the fast path is for GPUs"
    asked = ["reconstruct", str(photographs(2)), "-o", str(tmp_path / "a.ply"), "--engine"]
    assert main([*asked, "fast"]) == 5 and "--engine auto" in capsys.readouterr().err
    assert main([*asked, "slow"]) == 2 and "ordinary" in capsys.readouterr().err
