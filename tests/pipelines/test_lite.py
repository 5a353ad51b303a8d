"""`--attention`, `--keep-ratio`, `--fp8-backend`: what is chosen, why, and that bad values are refused with the right
code.
"""

import json

import pytest
import torch
from conftest import photograph

from lite3r_cli.attention.module import METADATA_KEY, SparseConfig, SparseLinearAttention
from lite3r_cli.checkpoints.weights import read_checkpoint, save_checkpoint
from lite3r_cli.cli import main
from lite3r_cli.config import LiteConfig
from lite3r_cli.networks import registry
from lite3r_cli.networks.checkpoint import open_checkpoint
from lite3r_cli.networks.lite_form import set_arithmetic, set_attention, trained_for_fp8
from lite3r_cli.networks.sparsify import skipped_share, sparsify
from lite3r_cli.quant.linear import FP8Linear


def origin_of(name):
    with open_checkpoint(name) as checkpoint:
        return checkpoint.origin


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for i in range(3):
        photograph(folder / f"{i}.jpg", seed=i)
    return folder


def reconstruct(photos, out, capsys, *options):
    code = main(
        [
            "reconstruct",
            str(photos),
            "-o",
            str(out),
            "--json",
            "--resolution",
            "140",
            "--device",
            "cpu",
            "--dtype",
            "float32",
            *options,
        ]
    )
    printed = capsys.readouterr()
    assert code == 0, printed.err
    run = json.loads(next(out.parent.rglob("run.json")).read_text())
    assert json.loads(printed.out)["runtime"] == run["runtime"]
    return run


def test_the_dense_network_is_the_default_of_a_dense_checkpoint(photos, tmp_path, capsys):
    run = reconstruct(photos, tmp_path / "a.ply", capsys)
    assert run["runtime"]["attention"] == {
        "asked": "auto",
        "chosen": "dense",
        "reason": "the checkpoint's attention is dense",
    }
    assert run["runtime"]["fp8"]["chosen"] == "off" and "not trained" in run["runtime"]["fp8"]["reason"]
    assert run["attention"] == {"skipped_share": 0, "keep_ratios": {}}


def test_what_was_asked_is_reported_with_what_was_skipped(photos, tmp_path, capsys):
    run = reconstruct(
        photos, tmp_path / "a.ply", capsys, "--attention", "sla", "--keep-ratio", "0.6", "--fp8-backend", "emulate"
    )
    found = run["runtime"]["attention"]
    assert (found["asked"], found["chosen"]) == ("sla", "sla")
    assert all(word in found["reason"] for word in ("asked for", "lite3r distill", "back end torch", "skipped"))
    assert 0.4 <= run["attention"]["skipped_share"] < 0.6
    assert run["runtime"]["fp8"]["chosen"] == "emulate" and "stay exact" in run["runtime"]["fp8"]["reason"]
    assert run["arguments"]["predict"]["lite"] == {"attention": "sla", "keep_ratio": 0.6, "fp8_backend": "emulate"}


@pytest.mark.parametrize(
    "options, code, words",
    [
        (("--attention", "flash"), 2, ("--attention", "dense, sla", "'flash'")),
        (("--keep-ratio", "0"), 2, ("--keep-ratio", "above 0")),
        (("--keep-ratio", "1.5"), 2, ("--keep-ratio", "1.5")),
        (("--keep-ratio", "nan"), 2, ("--keep-ratio", "nan")),
        (("--keep-ratio", "much"), 2, ("--keep-ratio", "number")),
        (("--attention", "dense", "--keep-ratio", "0.5"), 2, ("--keep-ratio 0.5", "--attention sla")),
        (("--fp8-backend", "fp4"), 2, ("--fp8-backend", "emulate", "'fp4'")),
        (("--fp8-backend", "scaled-mm"), 5, ("scaled-mm", "CPU", "emulate")),
        (("--fp8-backend", "te"), 5, ("te", "emulate")),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, tuple) else None,
)
@pytest.mark.parametrize("command", ["reconstruct", "eval"])
def test_bad_values(command, options, code, words, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scene = str(photos) if command == "reconstruct" else "sample"
    if command == "eval":
        (tmp_path / "sample").symlink_to(registry.PACKAGE.parent / "sample_scenes" / "facade")
    before = sorted(tmp_path.rglob("*"))
    found = main([command, scene, "--device", "cpu", *options])
    printed = capsys.readouterr()
    assert (found, printed.out) == (code, ""), printed.err
    last = printed.err.splitlines()[-1]
    assert last.startswith("error: ") and all(word in last for word in words), last
    assert sorted(tmp_path.rglob("*")) == before


def test_eval_reports_what_was_chosen(capsys):
    folder = registry.PACKAGE.parent / "sample_scenes" / "facade"
    code = main(
        ["eval", str(folder), "--views", "10", "--resolution", "112", "--device", "cpu", "--attention", "sla", "--json"]
    )
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert "skipped" in json.loads(printed.out)["runtime"]["attention"]["reason"]


# --- what a checkpoint says -------------------------------------------------------------------------------------------


@pytest.fixture(params=["sum", "convex"])
def student(request, tmp_path):
    """A checkpoint of `mini` that was distilled at a keep ratio of 0.5."""
    model = registry.load("mini")
    config = sparsify(model, 0.5, mix=request.param, linear_over="rest")
    _, metadata = read_checkpoint(registry.find_checkpoint("mini"))
    path = tmp_path / "student.safetensors"
    extra = {METADATA_KEY: config.to_json(), "distillation": json.dumps({"fp8_from": 0.5})}
    save_checkpoint(path, model.state_dict(), {**metadata, **extra}, torch.float16)
    return path, config


def test_a_checkpoint_keeps_its_own_settings_unless_told_otherwise(student):
    path, config = student
    assert origin_of(str(path)).trained_for_fp8 and not origin_of("mini").trained_for_fp8
    pictures = list(torch.rand(5, 3, 140, 140, generator=torch.Generator().manual_seed(0)))

    def run(*asked):
        model = registry.load(str(path))
        choice = set_attention(model, LiteConfig(*asked))
        return choice, model, model.predict(pictures)

    choice, model, _ = run()
    modules = [m for m in model.modules() if isinstance(m, SparseLinearAttention)]
    assert choice.chosen == "sla" and modules[0].config == config and modules[0].crossover is None
    assert skipped_share(model) == 0 and "faster" in modules[0].choice.reason  # dense: so few tokens
    assert skipped_share(run("sla")[1]) == pytest.approx(0.5, abs=0.1)
    assert skipped_share(run("sla", 0.75)[1]) == pytest.approx(0.25, abs=0.1)
    assert run("auto", 0.75)[0].reason == "--keep-ratio 0.75 was given"
    dense = registry.load("mini").predict(pictures)
    torch.testing.assert_close(run("dense")[2].depth[0], dense.depth[0], rtol=1e-2, atol=1e-3)  # stored in float16


def test_a_converted_checkpoint_computes_everything_until_told_otherwise(tmp_path, capsys):
    path = tmp_path / "mini-lite.safetensors"
    assert main(["convert", "mini", "-o", str(path)]) == 0
    model = registry.load(str(path))
    assert set_attention(model, LiteConfig()).chosen == "dense"
    assert set_attention(model, LiteConfig("sla")).reason == "asked for"
    model.predict(list(torch.rand(5, 3, 140, 140, generator=torch.Generator().manual_seed(0))))
    assert skipped_share(model) == pytest.approx(0.75, abs=0.1)


def test_conversion_keeps_the_settings_of_a_student(student, tmp_path):
    path, config = student
    assert main(["convert", str(path), "-o", str(tmp_path / "again.safetensors")]) == 0
    again = registry.load(str(tmp_path / "again.safetensors"))
    assert next(m for m in again.modules() if isinstance(m, SparseLinearAttention)).config == config


def test_fp8_arithmetic_spares_heads_and_camera_path():
    model = registry.load("mini")
    stay = set_arithmetic(model, "emulate", torch.float32)
    assert isinstance(model.blocks[3].attn.qkv, FP8Linear)
    assert {n for n in stay if n.startswith("blocks")} == {
        "blocks.10.attn.proj",
        "blocks.11.attn.proj",
    }  # see `exact_products`
    assert all(why == "kept in high precision" for why in stay.values()) and any(
        name.startswith("camera") for name in stay
    )


def test_training_for_fp8_is_read_from_the_metadata():
    assert trained_for_fp8({}, SparseConfig(("a",), official=True)) and not trained_for_fp8({}, None)
    assert not trained_for_fp8({"distillation": json.dumps({"fp8_from": 1})}, None)
