"""Checkpoints: precision of FP8 storage, and the error message of every malformed file."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import save_file

from lite3r_cli.checkpoints.weights import load_into, read_checkpoint, save_checkpoint
from lite3r_cli.errors import WeightsError
from lite3r_cli.networks import registry
from lite3r_cli.networks.mini.network import Mini, MiniConfig
from lite3r_cli.quant.fp8 import dequantize_rows, quantize_rows, round_to_fp8

TINY = MiniConfig(dim=16, depth=4, heads=2, alternate_from=1, taps=(0, 1, 2, 3), head_features=8,
                  head_stages=(4, 4, 4, 4), camera_hidden=8, position_grid=3)  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path):
    model = Mini(TINY)
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(path, model.state_dict(), {"config": json.dumps(dataclasses.asdict(TINY))})
    return path


def test_fp8_rows_are_within_half_a_step_of_e4m3():
    weight = torch.randn(33, 7, 3, 3) * torch.logspace(-4, 3, 33)[:, None, None, None]
    weight[5] = 0
    back = dequantize_rows(*quantize_rows(weight))
    scale = weight.flatten(1).abs().amax(1)[:, None, None, None]
    bound = torch.maximum(weight.abs() * 2**-4, scale * 2**-10 / 448)  # 3 mantissa bits; subnormals are 2⁻⁹ apart
    assert ((back - weight).abs() <= bound * 1.001).all()
    torch.testing.assert_close(round_to_fp8(back), back)  # rounding twice changes nothing


def test_fp8_is_expanded_and_checked_value_by_value(tmp_path):
    """Every code of both kinds as torch converts it; codes that are no number, and scales that lead to infinity."""
    for kind, bad in ((torch.float8_e4m3fn, [0x7F, 0xFF]), (torch.float8_e5m2, [0x7C, 0x7D, 0xFC, 0xFE])):
        largest = 0x7E if kind == torch.float8_e4m3fn else 0x7B
        codes = torch.tensor([code for code in range(256) if code & 0x7F <= largest], dtype=torch.uint8)
        values, scale = codes.view(2, -1).view(kind), torch.tensor([3e-4, -70.0])
        path = tmp_path / f"{kind}.safetensors"
        save_file({"w": values, "w::scale": scale}, path)
        found, _ = read_checkpoint(path)
        assert torch.equal(found["w"], dequantize_rows(values, scale))
        for code in bad:
            broken = codes.view(2, -1).clone()
            broken[1, 3] = code
            save_file({"w": broken.view(kind), "w::scale": scale}, path)
            with pytest.raises(WeightsError, match="infinite values in w"):
                read_checkpoint(path)
        for number in (float("nan"), float("inf"), 3e38):
            save_file({"w": values, "w::scale": torch.tensor([1.0, number])}, path)
            with pytest.raises(WeightsError, match="infinite values in w"):
                read_checkpoint(path)


def test_saved_checkpoint_loads_as_its_rounded_weights(checkpoint):
    model = registry.load(str(checkpoint))
    state, _ = read_checkpoint(checkpoint)
    assert model.config == TINY
    torch.testing.assert_close(model.blocks[1].mlp.fc1.weight, round_to_fp8(state["blocks.1.mlp.fc1.weight"]))


def damaged(path, kind):
    data = path.read_bytes()
    if kind == "missing":
        path.unlink()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif kind == "lfs":
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    elif kind == "pickle":
        torch.save({"a": torch.zeros(1)}, path)
    elif kind == "other model":
        save_file({"w": torch.zeros(1)}, path)


@pytest.mark.parametrize(
    "kind, words",
    [
        ("missing", "no such checkpoint"),
        ("empty", "empty"),
        ("truncated", "truncated"),
        ("lfs", "git lfs pull"),
        ("pickle", "only safetensors"),
        ("other model", "not a Lite3R checkpoint"),
    ],
)
def test_a_malformed_file_is_named_with_its_fault(checkpoint, kind, words):
    damaged(checkpoint, kind)
    with pytest.raises(WeightsError, match=words) as caught:
        registry.load(str(checkpoint))
    assert str(checkpoint) in str(caught.value) and "\n" not in str(caught.value)


def test_not_a_number_in_a_tensor_is_refused(tmp_path):
    path = tmp_path / "nan.safetensors"
    save_file({"blocks.0.norm1.weight": torch.tensor([1.0, float("nan")])}, path)
    with pytest.raises(WeightsError, match="blocks.0.norm1.weight"):
        read_checkpoint(path)


def test_at_most_five_wrong_tensors_are_listed(tmp_path):
    state = Mini(TINY).state_dict()
    kept = {k: v for k, v in state.items() if "blocks.0" not in k}
    kept["norm.weight"] = torch.ones(3)
    with pytest.raises(WeightsError) as caught:
        load_into(Mini(TINY), kept, tmp_path / "x.safetensors")
    message = str(caught.value)
    assert message.count("blocks.0.") == 4 and "more" in message and "wrong shape: norm.weight" in message


def test_an_unknown_model_is_answered_with_the_nearest_name():
    with pytest.raises(WeightsError, match="did you mean mini"):
        registry.load("mnii")
