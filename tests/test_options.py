"""Command-line options are made from configuration fields, and their values reach the fields."""

from __future__ import annotations

from pathlib import Path

import pytest

from lite3r_cli import cli
from lite3r_cli.config import (
    EvaluateConfig,
    FusionConfig,
    InputConfig,
    LiteConfig,
    PredictConfig,
    ReconstructConfig,
)
from lite3r_cli.config.benchmark import BenchConfig
from lite3r_cli.config.conversion import CalibrateConfig, ConvertConfig
from lite3r_cli.config.distill_recipe import DistillConfig, Recipe, SparseChoice
from lite3r_cli.config.synthesis import SynthConfig
from lite3r_cli.config.training_run import LoopConfig, ShapeConfig, TrainConfig
from lite3r_cli.errors import Lite3RError

RECONSTRUCT = (
    "reconstruct a b.jpg -o out/ -f colmap --format glb --preview --no-previews --masks m --max-views 7 --stride 2 "
    "--strict --model x.safetensors -r 280 --device cpu --dtype float32 --seed 5 --cameras c.json --refine "
    "--intrinsics shared --attention sla --keep-ratio 0.5 --fp8-backend off --engine ordinary "
    "--confidence-percentile 0 --no-edge-filter --no-consistency --tolerance 0.1 --voxel-size 0.2 --max-points 9"
)
DISTILL = (
    "distill a procedural -o s.safetensors --layers p --layers q --no-summaries --key-block 16 --trainable t --steps 3 "
    "--attention-weight 0.2 0.1 --distill-layers z --seed 4 --views 2 -r 56 --resume --fp8-from 1"
)
CASES = {
    "reconstruct a": ("reconstruct_scene.reconstruct", ReconstructConfig(InputConfig((Path("a"),)))),
    RECONSTRUCT: (
        "reconstruct_scene.reconstruct",
        ReconstructConfig(
            InputConfig((Path("a"), Path("b.jpg")), Path("m"), max_views=7, stride=2, strict=True),
            PredictConfig(
                model="x.safetensors",
                resolution=280,
                device="cpu",
                dtype="float32",
                seed=5,
                cameras=Path("c.json"),
                refine=True,
                intrinsics="shared",
                lite=LiteConfig("sla", 0.5, "off"),
                engine="ordinary",
            ),
            FusionConfig(0.0, edge_filter=False, consistency=False, tolerance=0.1, voxel=0.2, max_points=9),
            output="out/",
            formats=("colmap", "glb"),
            preview=True,
            previews=False,
        ),
    ),
    "eval s t --views 6 --poses rays": (
        "evaluate_scenes.evaluate",
        EvaluateConfig((Path("s"), Path("t")), PredictConfig(poses="rays"), views=6),
    ),
    "synth -o d --kind desk --scenes 3": ("synthesise.run", SynthConfig(Path("d"), scenes=3, kind="desk")),
    "convert m -o o.safetensors": ("convert_checkpoint.convert", ConvertConfig("m", Path("o.safetensors"))),
    "convert m -o o.safetensors --shard-size 1.5K --keep k --calibrate i --calibrate-views 3 --device cpu": (
        "convert_checkpoint.convert",
        ConvertConfig(
            "m",
            Path("o.safetensors"),
            keep=("k",),
            shard_bytes=1500,
            calibrate=CalibrateConfig((Path("i"),), views=3, device="cpu"),
        ),
    ),
    "distill -o s.safetensors": ("distill_student.run", DistillConfig(Path("s.safetensors"))),
    DISTILL: (
        "distill_student.run",
        DistillConfig(
            Path("s.safetensors"),
            ("a", "procedural"),
            sparse=SparseChoice(("p", "q"), key_block=16, summaries=False),
            recipe=Recipe(
                steps=3,
                trainable=("t",),
                attention_weight=(0.2, 0.1),
                attention_layers=("z",),
                seed=4,
                views=2,
                fp8_from=1,
            ),
            resolution=56,
            resume=True,
        ),
    ),
    "train -o d --optimiser muon --photo-share 0.5 --compile": (
        "train_mini.run",
        TrainConfig(LoopConfig(Path("d"), muon=True, compile=True), ShapeConfig(photos=0.5)),
    ),
}


class Seen(Lite3RError):
    """Raised to end a command as soon as its configuration is known."""


@pytest.mark.parametrize("line", CASES)
def test_the_command_line_becomes_the_configuration(line, monkeypatch):
    name, expected = CASES[line]
    seen = []

    def pipeline(config, *others):
        seen.append(config)
        raise Seen("done")

    monkeypatch.setattr(f"lite3r_cli.pipelines.{name}", pipeline)
    assert cli.main(line.split()) == Seen.exit_code
    assert seen == [expected]


def test_bench_takes_numbers_of_views_in_every_way(monkeypatch):
    seen = []

    def run(config, progress):
        seen.append(config)
        raise Seen("done")

    monkeypatch.setattr("lite3r_cli.bench.run.run", run)
    for line in ("", "--views 2 8 32", "--views 2,8 32 -r 392x518 --compare dense,lite"):
        cli.main(["bench", "--repeats", "3", *line.split()])
    assert seen == [
        BenchConfig(repeats=3),
        BenchConfig(views=(2, 8, 32), repeats=3),
        BenchConfig(views=(2, 8, 32), repeats=3, size=(392, 518), compare=("dense", "lite")),
    ]


def test_home_is_expanded_wherever_a_path_is_given(monkeypatch, tmp_path):
    """A shell does not expand the ~ of --output=~/a.ply; a folder of that name would be made."""
    from lite3r_cli import api
    from lite3r_cli.batch.manifest import find_scenes
    from lite3r_cli.config.keywords import from_keywords

    monkeypatch.setenv("HOME", str(tmp_path))
    seen = []

    def pipeline(config, *others):
        seen.append(config)
        raise Seen("done")

    monkeypatch.setattr("lite3r_cli.pipelines.reconstruct_scene.reconstruct", pipeline)
    options = "--output=~/s.ply --masks=~/m --cameras=~/c --intrinsics=~/k.json --model=~/n.safetensors"
    cli.main(["reconstruct", "~/a", "./b~", "a/~/c", *options.split()])
    [config], home = seen, tmp_path
    assert config.input.inputs == (home / "a", Path("b~"), Path("a/~/c"))
    assert config.output == f"{home}/s.ply" and config.input.masks == home / "m"
    assert config.predict.cameras == home / "c" and config.predict.intrinsics_file == home / "k.json"
    assert config.predict.model == f"{home}/n.safetensors"
    assert from_keywords(PredictConfig, {"cameras": "~/c"}).cameras == f"{home}/c"
    assert api._as_paths(["~/a", Path("~")]) == (home / "a", home)
    (home / "scene").mkdir()
    (home / "list.txt").write_text("~/scene\n")
    assert [scene.path for scene in find_scenes([home / "list.txt"], home / "out")] == [home / "scene"]
