"""`--attention`, `--keep-ratio`, `--fp8-backend`: what is chosen, why, and that bad values are refused with the right
code.
"""

import json

import pytest
import torch
from conftest import photograph

from lite3r_cli.attention.module import SparseLinearAttention
from lite3r_cli.attention.sparse_config import METADATA_KEY
from lite3r_cli.checkpoints.weights import read_checkpoint, save_checkpoint
from lite3r_cli.cli import main
from lite3r_cli.networks import registry
from lite3r_cli.networks.arithmetic import set_arithmetic
from lite3r_cli.networks.checkpoint import open_checkpoint
from lite3r_cli.networks.sparsify import sparsify
from lite3r_cli.pipelines.engine_choice import Asked, Machine, resolve
from lite3r_cli.pipelines.planned import PlannedNetwork
from lite3r_cli.quant.linear import FP8Linear


def facts_of(name):
    with open_checkpoint(name) as checkpoint:
        return checkpoint.facts


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
    assert run["attention"] == {"skipped_share": 0, "keep_ratios": {}, "settings": None, "dense_below_tokens": 0}


def test_what_was_asked_is_reported_with_what_was_skipped(photos, tmp_path, capsys):
    run = reconstruct(
        photos, tmp_path / "a.ply", capsys, "--attention", "sla", "--keep-ratio", "0.6", "--fp8-backend", "emulate"
    )
    found = run["runtime"]["attention"]
    assert (found["asked"], found["chosen"]) == ("sla", "sla")
    assert all(word in found["reason"] for word in ("asked for", "lite3r distill"))
    assert [backend["chosen"] for backend in found["backends"]] == ["torch"]
    assert found["skipped"] == run["attention"]["skipped_share"] and run["attention"]["settings"]["group"] == 64
    assert 0.4 <= run["attention"]["skipped_share"] < 0.6
    assert run["runtime"]["fp8"]["chosen"] == "emulate" and run["runtime"]["fp8"]["exact_layers"] > 10
    assert run["arguments"]["predict"]["lite"] == {
        "attention": "sla",
        "keep_ratio": 0.6,
        "keep_views": None,
        "fp8_backend": "emulate",
    }


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
    assert 0.5 < json.loads(printed.out)["runtime"]["attention"]["skipped"] < 0.8


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


@pytest.mark.parametrize("student", ["convex"], indirect=True)
def test_a_checkpoint_keeps_its_own_settings_unless_told_otherwise(student):
    path, config = student
    pictures = list(torch.rand(5, 3, 140, 140, generator=torch.Generator().manual_seed(0)))

    def run(*asked) -> tuple[PlannedNetwork, torch.Tensor]:
        plan = resolve(Asked(*asked), facts_of(str(path)), Machine())
        network = PlannedNetwork(registry.load(str(path)), plan, torch.device("cpu"))
        return network, network.predict(pictures).depth[0]

    network, _ = run()
    assert network.plan.sparse == config and network.plan.crossover == 0  # so few tokens, and still what was trained
    assert network.ran[0].skipped == pytest.approx(0.5, abs=0.1)
    assert run("sla", 0.75)[0].ran[0].skipped == pytest.approx(0.25, abs=0.1)
    assert run("auto", 0.75)[0].plan.attention.reason == "--keep-ratio 0.75 was given"
    dense = registry.load("mini").predict(pictures).depth[0]
    assert float((run("dense")[1] - dense).norm() / dense.norm()) < 0.01  # stored in float16


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
    odd = {"belongs", "known_camera.linear"}  # their sides are no multiples of 16
    assert all(why == "kept in high precision" for name, why in stay.items() if name not in odd)
    assert any(name.startswith("camera") for name in stay)
