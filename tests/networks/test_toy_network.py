"""A network that stands in one file outside the package goes through every command (docs/adding-a-network.md)."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy_network import Toy, ToyConfig

import lite3r_cli as lite3r
from lite3r_cli.cli import main
from lite3r_cli.errors import UsageError
from lite3r_cli.networks import registry
from lite3r_cli.networks.checkpoint import open_checkpoint

ON_CPU = ("--device", "cpu", "-q")


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    torch.manual_seed(0)
    model = Toy(ToyConfig())
    path = tmp_path / "toy.safetensors"
    metadata = {"model": "toy", "config": json.dumps(dataclasses.asdict(model.config)), "licence": "MIT"}
    save_file(dict(model.state_dict()), path, metadata)
    return path


def test_reconstruct(checkpoint, photographs, tmp_path):
    out = tmp_path / "scene.ply"
    assert main(["reconstruct", str(photographs(3)), "-o", str(out), "-m", str(checkpoint), *ON_CPU]) == 0
    run = json.loads((tmp_path / "scene" / "run.json").read_text())
    assert run["model"]["name"] == "toy" and run["model"]["licence"] == "MIT"
    assert all(max(view["network_size"]) == 112 for view in run["images"] if "network_size" in view)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (lambda p: (p.depth, p.K), "tuple, not a Prediction"),
        (lambda p: dataclasses.replace(p, depth=[d[:-3] for d in p.depth]), "depth of shapes"),
        (lambda p: dataclasses.replace(p, confidence=p.confidence[:1]), "confidence of shapes"),
        (lambda p: dataclasses.replace(p, cam_from_world=torch.eye(4).expand(len(p.K), 4, 4)), r"\(2, 3, 4\)"),
        (lambda p: dataclasses.replace(p, K=p.K * 0), "focal length"),
    ],
)
def test_a_wrong_form_of_the_answer_is_named(wrong, message, checkpoint, photographs, monkeypatch):
    right = Toy.predict
    monkeypatch.setattr(Toy, "predict", lambda self, images: wrong(right(self, images)))
    with pytest.raises(UsageError, match=f"network 'toy': predict returned .*{message}"):
        lite3r.reconstruct(photographs(2), checkpoint, device="cpu")


def test_eval(checkpoint, posed_photos, capsys):
    arguments = ["eval", str(posed_photos / "wall"), "-m", str(checkpoint), "--json", *ON_CPU]
    assert main(arguments) == 0
    assert "wall" in capsys.readouterr().out


def test_convert_then_sparse(checkpoint, photographs, tmp_path):
    lite, out = tmp_path / "lite.safetensors", tmp_path / "scene.ply"
    assert main(["convert", str(checkpoint), "-o", str(lite), "--keep-ratio", "0.5", "-q"]) == 0
    assert load_file(lite)["blocks.1.attn.qkv.weight"].dtype == torch.float8_e4m3fn
    model = registry.load(str(lite))
    assert model.name == "toy"
    arguments = ["reconstruct", str(photographs(3)), "-o", str(out), "-m", str(lite), "--attention", "sla", *ON_CPU]
    assert main(arguments) == 0


def test_bench(capsys):
    arguments = "bench -m toy --views 2 --resolution 56x84 --repeats 1 --compare dense-eager,dense,lite --json".split()
    assert main([*arguments, *ON_CPU]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["gate"]["passed"] and {row["model"] for row in document["rows"]} == {"toy"}
    assert all(row["stages"]["heads"] > 0 and row["floor_ms"] > 0 for row in document["rows"])


def test_three_steps_of_distill(checkpoint, photographs, tmp_path):
    student = tmp_path / "student.safetensors"
    arguments = ["distill", str(photographs(4)), "-m", str(checkpoint), "-o", str(student), "--steps", "3",
                 "--views", "2", "--resolution", "56", "--batch", "1", "--keep-ratio", "0.5",
                 "--calibration-batches", "2", *ON_CPU]  # fmt: skip
    assert main(arguments) == 0
    assert "blocks.1.attn.proj_lin.weight" in load_file(student) and registry.load(str(student)).name == "toy"


def test_a_checkpoint_is_opened_once(checkpoint, photographs, tmp_path, monkeypatch):
    opened = []
    original = open_checkpoint.__globals__["open_source"]

    def counted(path):
        opened.append(path)
        return original(path)

    for module in ("lite3r_cli.networks.checkpoint", "lite3r_cli.checkpoints.weights"):
        monkeypatch.setattr(f"{module}.open_source", counted)
    photos = str(photographs(2))
    assert main(["reconstruct", photos, "-o", str(tmp_path / "scene.ply"), "-m", str(checkpoint), *ON_CPU]) == 0
    assert opened == [checkpoint]
    lite = tmp_path / "lite.safetensors"
    arguments = ["convert", str(checkpoint), "-o", str(lite), "--calibrate", photos, "--keep-worst", "1", "-q"]
    assert main(arguments) == 0
    assert opened == [checkpoint] * 2
