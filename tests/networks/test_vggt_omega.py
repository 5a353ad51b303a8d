"""VGGT-Ω against its authors' code, and that no form of it uses the bias that its checkpoints mask.

The parity fixtures are outputs of code under a non-commercial licence: they are no part of this project, and are read
from a folder beside it, or from `--fixture-dir`.
"""

import dataclasses
import json

import pytest
import torch

from lite3r_cli.attention.module import SparseConfig, attach
from lite3r_cli.networks.family import family_of, global_layers_of
from lite3r_cli.networks.parity import TOLERANCE, errors_of
from lite3r_cli.networks.vggt_omega.network import OMEGA_1B, VGGTOmega, VGGTOmegaConfig
from lite3r_cli.networks.vggt_omega.parts import MaskedBiasLinear
from lite3r_cli.quant.swap import swap_linears

TINY = VGGTOmegaConfig(
    dim=64, pairs=6, heads=2, encoder_depth=1, encoder_heads=2, register_pairs=(1, 3), taps=(0, 2, 4, 5),
    head_features=16, head_stages=(8, 8, 8, 8), camera_depth=1, camera_heads=4,
)  # fmt: skip


@pytest.fixture
def model():
    torch.manual_seed(3)
    made = VGGTOmega(TINY).eval()
    torch.nn.init.normal_(made.aggregator.camera_token)
    for linear in (m for m in made.modules() if isinstance(m, MaskedBiasLinear)):
        torch.nn.init.normal_(linear.bias)
    return made


@pytest.mark.parametrize("name", ["small_3x160x208", "small_5x128x128", "small_buffers_2x96x144"])
def test_outputs_are_those_of_the_original_code(reference, name):
    errors = errors_of(reference / f"vggt_omega_{name}.npz")
    assert len(errors) == 9 and all(value <= TOLERANCE for value in errors.values()), errors


def test_the_state_dict_is_the_published_one(reference):
    with torch.device("meta"):
        ours = {key: list(t.shape) for key, t in VGGTOmega(OMEGA_1B).state_dict().items()}
    published = json.loads((reference / "vggt-omega-1b-512.keys.json").read_text())
    assert ours == {key: shape for key, (shape, _) in published.items()}


def test_views_of_mixed_sizes_keep_their_answers_when_reordered(model):
    images = [torch.rand(3, h, w) for h, w in ((32, 48), (48, 32), (32, 48), (32, 32))]
    order = [0, 3, 2, 1]  # the first view is the reference
    straight, moved = model.predict(images), model.predict([images[i] for i in order])
    for place, i in enumerate(order):
        assert straight.depth[i].shape == images[i].shape[1:]
        torch.testing.assert_close(moved.depth[place], straight.depth[i], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(moved.cam_from_world[place], straight.cam_from_world[i], rtol=1e-3, atol=1e-4)


def test_the_masked_bias_counts_in_no_form(model):
    images = [torch.rand(3, 32, 48) for _ in range(3)]
    expected = model.predict(images)
    for linear in (m for m in model.modules() if isinstance(m, MaskedBiasLinear)):
        linear.bias.data[linear.bias_mask == 0] = 7.0
    assert torch.equal(model.predict(images).depth[1], expected.depth[1])
    attach(model, SparseConfig(tuple(global_layers_of(model)), keep_ratio=1.0))
    torch.testing.assert_close(model.predict(images).depth[1], expected.depth[1], rtol=1e-4, atol=1e-5)
    plain = [m for m in model.named_modules() if isinstance(m[1], torch.nn.Linear)]
    exact = [name for name, m in plain if not isinstance(m, MaskedBiasLinear)]
    stay = swap_linears(model, "emulate", lambda name, _: name in exact)
    assert set(stay) == set(exact)
    torch.testing.assert_close(model.predict(images).depth[1], expected.depth[1], rtol=0.1, atol=0.05)


def test_the_answer_with_gradients_is_that_of_predict(model):
    images = torch.rand(3, 3, 32, 48)
    prediction = model.predict(list(images))
    raw = family_of(model).answer(model, images[None], torch.tensor([0, 2]))
    torch.testing.assert_close(raw.log_depth[0, 1].exp(), prediction.depth[2], rtol=1e-4, atol=1e-5)
    raw.log_depth.sum().backward()
    assert model.aggregator.rope_embed.periods.grad is None
    assert model.aggregator.frame_blocks[0].attn.qkv.weight.grad.abs().sum() > 0


def test_register_pairs_exchange_special_tokens_alone(model):
    """With register attention in every pair, a view's patches reach no other view but through its special tokens."""
    torch.manual_seed(3)
    silent = VGGTOmega(dataclasses.replace(TINY, register_pairs=tuple(range(6)))).eval()
    images = [torch.rand(3, 32, 48) for _ in range(2)]
    assert global_layers_of(silent) == []
    for between in silent.aggregator.inter_frame_blocks:  # nothing is exchanged at all
        between.ls1.gamma.data.zero_()
    alone = silent.predict(images).depth[0]
    torch.testing.assert_close(silent.predict([images[0], torch.rand(3, 32, 48)]).depth[0], alone)
    assert not torch.allclose(
        model.predict([images[0], torch.rand(3, 32, 48)]).depth[0], model.predict(images).depth[0]
    )
