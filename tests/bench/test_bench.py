"""`lite3r bench`: complete and comparable measurements; no speed-up is printed after a failed check."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from conftest import on_the_disk_in_order
from torch import nn

from lite3r_cli.bench import gate, variants
from lite3r_cli.bench.floor import Rates, floor_ms, work_of
from lite3r_cli.bench.measure import alternate, spread
from lite3r_cli.bench.run import run
from lite3r_cli.bench.speed_plot import draw, label_of
from lite3r_cli.bench.subjects import network
from lite3r_cli.cli import main
from lite3r_cli.config import LiteConfig
from lite3r_cli.config.benchmark import BenchConfig, numbers, size
from lite3r_cli.engine.check import OperatorCheck
from lite3r_cli.errors import UsageError
from lite3r_cli.networks import standin
from lite3r_cli.networks.mini.network import Mini
from lite3r_cli.networks.pi3.network import PI3, PI3X, Pi3
from lite3r_cli.networks.vggt.network import VGGT, VGGTConfig
from lite3r_cli.pipelines.engine_choice import CROSSOVERS, Crossover, Machine

TINY = dict(views=(2,), size=(56, 84), repeats=2, device="cpu")


def test_runs_alternate():
    order = []
    runs = {name: (lambda turn, name=name: order.append((turn, name))) for name in "ab"}
    times = alternate(torch.device("cpu"), runs, 2)
    assert order == [(0, "a"), (0, "b"), (1, "a"), (1, "b")]
    assert {name: len(found) for name, found in times.items()} == {"a": 2, "b": 2}
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == 1.0


@pytest.mark.parametrize("text, expected", [(None, None), ("518", (518, None)), ("392x518", (392, 518))])
def test_sizes(text, expected):
    assert size(text) == expected


@pytest.mark.parametrize(
    "make", [lambda: size("big"), lambda: numbers(("2", "x")), lambda: BenchConfig(views=(0,)),
             lambda: BenchConfig(compare=("dense", "dense")), lambda: BenchConfig(compare=("fast",))],
)  # fmt: skip
def test_impossible_requests(make):
    with pytest.raises(UsageError):
        make()


def test_the_floor_counts_what_the_architecture_says():
    with torch.device("meta"):
        model = Mini()
    two, four = (work_of(model, views, 350, 518) for views in (2, 4))
    assert two.across == 5 * 4 * (2 * 926) ** 2 * 384 and four.across == 4 * two.across
    assert two.linear == 2 * 2 * 926 * 12 * 12 * 384**2 and four.rest == pytest.approx(2 * two.rest)
    rates = Rates(1e12, 2e12, 1e12, "")
    everything = floor_ms(two, rates, 0, fp8=False, skipped=0)
    assert everything - floor_ms(two, rates, 0, fp8=False, skipped=0.5) == pytest.approx(1e3 * two.across / 2 / 1e12)
    assert everything - floor_ms(two, rates, 0, fp8=True, skipped=0) == pytest.approx(1e3 * two.linear / 2 / 1e12)


def test_the_floor_counts_no_blocks_that_do_not_run():
    """Pi3X is π³ with other heads, and with an encoder of depth that was not given."""
    with torch.device("meta"):
        with_depth, without = (Pi3(config, name) for config, name in ((PI3X, "pi3x"), (PI3, "pi3")))
    more, less = (work_of(model, 1, 392, 518) for model in (with_depth, without))
    assert more.linear == less.linear and more.across == less.across
    assert more.rest > less.rest + 2.9e11  # its convolutions


def test_every_variant_of_mini_on_a_cpu():
    result = run(BenchConfig(**TINY, dtype="float32"))
    document = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert document["gate"]["passed"], document["gate"]["complaints"]
    rows = {row["variant"]: row for row in document["rows"]}
    assert list(rows) == ["dense-eager", "dense", "lite"]
    for row in rows.values():
        assert (row["model"], row["views"], row["height"], row["width"]) == ("mini", 2, 56, 84)
        assert row["median_ms"] > 0 and row["peak_gib"] > 0 and row["floor_ms"] > 0
        assert sum(row["stages"].values()) > 0 and row["stages"]["global attention"] > 0
    assert rows["dense-eager"]["speedup"] == 1 and rows["dense"]["depth_difference"] < 1e-4
    assert rows["dense"]["skipped"] == 0 and rows["lite"]["depth_difference"] > 0


def test_a_failed_check_takes_the_ratios_away(monkeypatch, capsys):
    monkeypatch.setattr(gate, "operator_checks", lambda *given: [OperatorCheck("norm_quant", 0.5, 0.01)])
    arguments = "bench --views 2 --resolution 56x84 --repeats 1 --device cpu --compare dense-eager,dense --json -q"
    assert main(arguments.split()) == 5
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert not document["gate"]["passed"] and all(row["speedup"] is None for row in document["rows"])
    assert "norm_quant" in printed.err


def test_views_may_follow_one_another(monkeypatch, capsys, tmp_path):
    plot = tmp_path / "plot.png"
    arguments = f"bench --views 1 2 --resolution 56x84 --repeats 1 --device cpu --compare dense --plot {plot}"
    assert main(arguments.split()) == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()[2:4]] == [["1", "dense"], ["2", "dense"]]
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("words", ["--views 99999999999999999999", "--views 100001", f"--views {'9' * 5000}",
                                   "--views 0", "-r 99999999999999999999"])  # fmt: skip
def test_sizes_that_nothing_can_have(capsys, words):
    assert main(["bench", *words.split()]) == 2
    assert words.split()[0].replace("-r", "--resolution") in capsys.readouterr().err


@pytest.mark.parametrize("arguments", ["bench --images", "convert mini -o {}/new.safetensors --calibrate"])
def test_missing_photos_are_told_before_weights_are_read(tmp_path, monkeypatch, capsys, arguments):
    def late(*_, **__):
        raise AssertionError("too late")

    monkeypatch.setattr("lite3r_cli.bench.run.build", late)
    monkeypatch.setattr("lite3r_cli.pipelines.convert_checkpoint.open_checkpoint", late)
    missing = tmp_path / "missing"
    assert main([*arguments.format(tmp_path).split(), str(missing)]) in (2, 3)
    assert str(missing) in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["exists", "link", "folder closed"])
def test_what_is_in_the_way_of_the_plot_is_said_before_anything_is_measured(tmp_path, monkeypatch, capsys, kind):
    def measured(*arguments):
        raise AssertionError("too late")

    monkeypatch.setattr("lite3r_cli.bench.run.run", measured)
    plot = tmp_path / "plot.png"
    if kind == "exists":
        plot.write_bytes(b"mine")
    elif kind == "link":
        plot.symlink_to(tmp_path / "elsewhere")
    else:
        (tmp_path / "file").touch()
        plot = tmp_path / "file" / "plot.png"
    before = sorted(tmp_path.iterdir())
    assert main(["bench", "--plot", str(plot)]) == 7 and "plot.png" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_the_plot_does_not_replace_what_is_measured(tmp_path, capsys):
    photos, model = tmp_path / "photos", tmp_path / "m.png"
    photos.mkdir()
    for path in (photos / "00.png", model):
        path.write_bytes(b"mine")
    (tmp_path / "link").symlink_to(photos)
    for words in (
        ("--images", photos, "--plot", tmp_path / "link/00.png"),
        ("--images", photos / "00.png", "--plot", photos / "00.png"),
        ("--model", model, "--plot", model),
    ):
        assert main([str(word) for word in ("bench", *words, "--overwrite")]) == 2, words
        assert "png: is " in capsys.readouterr().err
    assert model.read_bytes() == (photos / "00.png").read_bytes() == b"mine"


@pytest.fixture
def small_vggt(monkeypatch):
    """Make the networks of bench a small VGGT, and the fast path run on a CPU."""
    heads = dict(head_features=16, head_stages=(16, 16, 16, 16), camera_depth=1, camera_heads=2)
    config = VGGTConfig(dim=128, pairs=4, heads=2, encoder_depth=2, encoder_heads=2, taps=(0, 1, 2, 3), **heads)

    def make(name: str, device: torch.device, seed: int) -> tuple[nn.Module, str]:
        model = VGGT(config)
        standin.fill(model, 1)
        return model.eval().to(device), "random values"

    monkeypatch.setattr(variants, "network", make)
    gpu = Machine("cuda", "bfloat16", scaled_mm="not here")  # the kernels' twins stand for the kernels
    monkeypatch.setattr(Machine, "of", lambda device, dtype: gpu)
    monkeypatch.setitem(CROSSOVERS, "cuda", (Crossover(1, 0, "for this test"),))
    monkeypatch.setattr(
        "lite3r_cli.attention.sparse_config.SHALLOW", 0
    )  # the settings of the deep networks it stands for


def test_the_fast_path_is_measured_like_the_others(small_vggt):
    result = run(BenchConfig(**{**TINY, "views": (3,)}, model="vggt-1b", dtype="bfloat16"))
    assert result.gate["passed"], result.gate["complaints"]
    eager, dense, lite = result.rows
    assert eager.depth_difference == 0 and 0 < dense.depth_difference < 0.05 and 0 < lite.skipped < 0.9
    assert len(result.gate["operators"]) >= 16 and all(row.stages["heads"] > 0 for row in result.rows)


def test_dense_columns_are_dense_for_every_checkpoint(tmp_path):
    checkpoint = tmp_path / "converted.safetensors"
    assert main(["convert", "mini", "-o", str(checkpoint), "--keep-ratio", "0.25", "-q"]) == 0
    result = run(BenchConfig(**TINY | {"repeats": 1}, model=str(checkpoint), dtype="float32", lite=LiteConfig("sla")))
    eager, dense, lite = result.rows
    assert eager.skipped == dense.skipped == 0 and dense.depth_difference < 1e-4
    assert (eager.attention, dense.attention, lite.attention) == ("dense", "dense", "sparse") and lite.skipped > 0
    words = {name: entry["description"] for name, entry in result.environment["variants"].items()}
    assert words["dense"].startswith("dense attention") and "% of packed tokens, lists of 64" in words["lite"]
    computed = [entry for key, entry in result.environment["variants"]["dense"].items() if key.endswith(" views")]
    assert computed and all(text.startswith("torch: ") and "flash-attention-4" in text for text in computed)


def test_below_the_crossover_the_lite_column_says_that_it_is_dense(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(CROSSOVERS, "cpu float32", (Crossover(1, 7000, "measured"),))
    assert main("bench --views 2 -r 56x84 --repeats 1 --device cpu --compare dense,lite --dtype float32".split()) == 0
    printed = capsys.readouterr().out
    assert "lite (dense attention)" in printed and "below 7,000 tokens" in printed.replace("\n", " ")
    figures = {"variant": "lite", "median_ms": 2.0, "floor_ms": 1.0, "peak_gib": 1.0}
    rows = [SimpleNamespace(**figures, views=n, attention="dense" if n < 8 else "sparse") for n in (2, 4, 8)]
    assert label_of(rows[:2]) == "lite (dense attention)" and label_of(rows) == "lite (dense to 4 views)"
    assert label_of(rows[2:]) == "lite"  # of the plot, which has no column for it
    with on_the_disk_in_order(tmp_path):
        draw(
            rows, tmp_path / "plot.png", "$\\frac$ \udce9 \u56fe.safetensors"
        )  # names are no formulas, and may be no text


def test_a_lite_form_far_from_dense_gets_no_ratio(monkeypatch, capsys):
    monkeypatch.setattr(gate, "STAND_IN_LIMIT", 1e-9)
    config = BenchConfig(**TINY | {"repeats": 1}, dtype="float32", lite=LiteConfig("sla"), compare=("dense", "lite"))
    dense, lite = run(config).rows
    assert dense.speedup == 1 and lite.speedup is None and "limit" in lite.withheld
    far = gate.reason_against_ratio
    assert far("lite", 0.05, 0.75, False) and far("lite", 0.09, 0.9, False) and not far("lite", 0.05, 0.9, False)
    assert far("dense", 0.05, 0, False) is None


def test_fp8_arithmetic_without_the_fast_path():
    config = BenchConfig(**TINY, dtype="float32", lite=LiteConfig("sla", 0.5, "emulate"), compare=("dense", "lite"))
    result = run(config)
    _dense, lite = result.rows
    assert 0 < lite.depth_difference < 1 and "layer by layer" in result.environment["variants"]["lite"]["description"]


def test_random_weights_follow_the_stand_in_rule(monkeypatch):
    monkeypatch.setattr("lite3r_cli.networks.registry.find_checkpoint", lambda name: None)
    model, origin = network("mini", torch.device("cpu"), 0)
    assert "random" in origin
    weight = model.blocks[0].attn.qkv.weight
    assert float(weight.detach().std()) == pytest.approx(384**-0.5, rel=0.05)
    assert float(model.blocks[0].ls1.gamma.detach().mean()) == pytest.approx(0.3, abs=0.02)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_graphs_follow_their_input(small_vggt):
    result = run(BenchConfig(**{**TINY, "views": (3,), "device": "cuda"}, model="vggt-1b", dtype="bfloat16"))
    assert result.gate["passed"], result.gate["complaints"]
