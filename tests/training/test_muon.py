"""Stacked Muon against torch's own, matrix by matrix."""

import pytest
import torch

pytest.importorskip("torch.optim._muon", reason="needs a torch with Muon (2.9 or newer)")

SHAPES = [(24, 8), (8, 24), (24, 8), (8, 8), (8, 24), (40, 16)]


def test_the_stacked_update_is_torchs_update():
    from lite3r_cli.training.muon import StackedMuon

    generator = torch.Generator().manual_seed(3)
    start = [torch.randn(shape, generator=generator) for shape in SHAPES]
    ours, theirs = ([torch.nn.Parameter(m.clone()) for m in start] for _ in range(2))
    options = {"lr": 0.1, "weight_decay": 0.05, "adjust_lr_fn": "match_rms_adamw"}
    stacked, torchs = StackedMuon(ours, **options), torch.optim.Muon(theirs, **options)
    for step in range(4):
        for a, b in zip(ours, theirs):
            b.grad = torch.randn(a.shape, generator=generator)
            a.grad = b.grad.clone()
        if step == 1:  # a matrix without a gradient in this step is left alone
            ours[2].grad = theirs[2].grad = None
        stacked.step()
        torchs.step()
    for a, b, first in zip(ours, theirs, start):
        moved = (b - first).norm()
        assert moved > 0.1
        assert (a - b).norm() < 0.02 * moved  # both iterate in bf16
    assert set(stacked.state_dict()["state"][0]) == set(torchs.state_dict()["state"][0])
