"""Conversion: what is rounded and what is not, the same bytes twice, nothing half-written, and every backbone there and
back.
"""

import dataclasses
import hashlib
import json
import math

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lite3r_cli import cli
from lite3r_cli.attention.module import SparseLinearAttention
from lite3r_cli.checkpoints.metadata import SCALE_SUFFIX
from lite3r_cli.checkpoints.weights import save_checkpoint
from lite3r_cli.checkpoints.write import SafetensorsWriter, Slot, split_into_shards
from lite3r_cli.config.conversion import CalibrateConfig, ConvertConfig
from lite3r_cli.console import Progress
from lite3r_cli.errors import OutputError, UsageError, WeightsError
from lite3r_cli.networks import registry, standin
from lite3r_cli.networks.da3.network import DA3, DA3Config
from lite3r_cli.networks.mini.network import Mini, MiniConfig
from lite3r_cli.networks.vggt.network import VGGT, VGGTConfig
from lite3r_cli.pipelines.convert_checkpoint import convert
from lite3r_cli.quant.fp8 import round_to_fp8

VGGT_TINY = VGGTConfig(
    dim=64, pairs=4, heads=1, encoder_depth=1, encoder_heads=1, taps=(0, 1, 2, 3), head_features=16,
    head_stages=(8, 8, 8, 8), camera_depth=1, position_grid=3,
)  # fmt: skip
DA3_TINY = DA3Config(
    dim=32, depth=8, heads=2, alternate_from=2, taps=(1, 3, 5, 7), head_features=16, head_stages=(8, 8, 8, 8),
    position_grid=5, camera_heads=2, camera_depth=1,
)  # fmt: skip
MINI_TINY = MiniConfig(
    dim=32, depth=4, heads=2, alternate_from=1, taps=(0, 1, 2, 3), head_features=16, head_stages=(8, 8, 8, 8),
    camera_hidden=16, position_grid=3,
)  # fmt: skip
KINDS = {
    "vggt": VGGT(VGGT_TINY),
    "da3": DA3(DA3_TINY),
    "swiglu": DA3(dataclasses.replace(DA3_TINY, swiglu=True)),
    "mini": Mini(MINI_TINY),
}
GLOBAL = {
    "vggt": "aggregator.global_blocks.0.attn",
    "da3": "backbone.pretrained.blocks.3.attn",
    "mini": "blocks.1.attn",
}


@pytest.fixture(scope="module", params=KINDS)
def source(request, tmp_path_factory):
    """A dense checkpoint of each kind."""
    model = KINDS[request.param].eval()
    standin.fill(model, 7)
    path = tmp_path_factory.mktemp("source") / f"{request.param}.safetensors"
    metadata = {
        "model": "da3" if request.param == "swiglu" else request.param,
        "config": json.dumps(dataclasses.asdict(model.config)),
    }
    if request.param == "mini":
        save_checkpoint(path, model.state_dict(), metadata)
    else:
        save_file({k: v.clone() for k, v in model.state_dict().items()}, path, metadata=metadata)
    return path


@pytest.fixture(scope="module")
def vggt(tmp_path_factory):
    """A dense checkpoint in torch's own format, with a track head that is not loaded."""
    model = KINDS["vggt"]
    standin.fill(model, 7)
    path = tmp_path_factory.mktemp("source") / "model.pt"
    torch.save({**model.state_dict(), "track_head.x": torch.ones(4)}, path)
    return path


def views():
    return [torch.rand(3, 42, 56, generator=torch.Generator().manual_seed(i)) for i in range(3)]


def depths(path):
    return torch.stack(registry.load(str(path)).predict(views()).depth)


def test_there_and_back_for_every_backbone(source, tmp_path, photographs):
    out = tmp_path / "lite.safetensors"
    report = convert(ConvertConfig(str(source), out))
    before, after = registry.load(str(source)), registry.load(str(out))
    assert type(after) is type(before) and after.config == before.config
    module = after.get_submodule(GLOBAL.get(source.stem, GLOBAL["da3"]))
    assert isinstance(module, SparseLinearAttention) and not module.proj_lin.weight.any()
    change = (depths(out) / depths(source)).log().abs().median()
    assert change < 0.05 and (change > 0 or source.stem == "mini")
    assert report.bytes_after == out.stat().st_size
    assert (
        cli.main(["reconstruct", str(photographs(2)), "-o", str(tmp_path / "s.ply"), "-r", "56", "-m", str(out), "-q"])
        == 0
    )
    run = json.loads((tmp_path / "s" / "run.json").read_text())
    assert run["model"]["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest() and run["model"]["licence"]


def test_float32_and_attached_attention_change_no_bit(source, tmp_path):
    convert(ConvertConfig(str(source), tmp_path / "same.safetensors", weights="float32", attention=("all",)))
    assert torch.equal(depths(tmp_path / "same.safetensors"), depths(source))


def test_each_tensor_is_stored_as_the_plan_says(vggt, tmp_path):
    out = tmp_path / "lite.safetensors"
    report = convert(ConvertConfig(str(vggt), out, attention=("none",)))
    dense, stored = torch.load(vggt), load_file(out)
    assert {k for k in stored if not k.endswith(SCALE_SUFFIX)} == dense.keys() - {"track_head.x"}
    quantised = {k for k, v in stored.items() if v.dtype == torch.float8_e4m3fn}
    assert quantised == {k for k in dense if "blocks." in k and dense[k].ndim == 2 and k.endswith(".weight")}
    for name in (
        "camera_head.trunk.0.attn.qkv.weight",
        "depth_head.scratch.layer1_rn.weight",
        "aggregator.patch_embed.patch_embed.proj.weight",
    ):
        assert stored[name].dtype == torch.bfloat16
    for name in (
        "aggregator.camera_token",
        "aggregator.patch_embed.pos_embed",
        "aggregator.frame_blocks.0.ls1.gamma",
        "camera_head.token_norm.bias",
    ):
        assert torch.equal(stored[name], dense[name])
    name = "aggregator.global_blocks.2.mlp.fc1.weight"
    assert torch.equal(registry.load(str(out)).get_parameter(name), round_to_fp8(dense[name]))
    (layer,) = [layer for layer in report.layers if layer.name == name]
    error = round_to_fp8(dense[name]) - dense[name]
    assert layer.sqnr_db == pytest.approx(10 * math.log10(dense[name].square().sum() / error.square().sum()), rel=1e-4)
    assert layer.largest_error == pytest.approx(error.abs().max().item()) and (layer.before, layer.after) == (
        "float32",
        "fp8",
    )
    assert report.notices == [
        "not loaded: track head (tracks given points; not needed for depth and cameras), 1 tensors"
    ]


def test_patterns_decide(vggt, tmp_path):
    out = tmp_path / "lite.safetensors"
    keep, quantize = ("*.frame_blocks.0.*",), ("camera_head.trunk.*",)
    convert(
        ConvertConfig(
            str(vggt), out, keep=keep, quantize=quantize, attention=("*.frame_blocks.1.attn",), keep_ratio=0.5
        )
    )
    stored = load_file(out)
    assert stored["aggregator.frame_blocks.0.mlp.fc1.weight"].dtype == torch.bfloat16
    assert stored["camera_head.trunk.0.mlp.fc1.weight"].dtype == torch.float8_e4m3fn
    assert [k for k in stored if "proj_lin" in k] == ["aggregator.frame_blocks.1.attn.proj_lin.weight"]
    model = registry.load(str(out))
    assert model.aggregator.frame_blocks[1].attn.config.keep_ratio == 0.5
    for wrong in ({"keep": ("nothing.*",)}, {"quantize": ("x",)}, {"attention": ("*.mlp",)}):
        with pytest.raises(UsageError, match="is called so"):
            convert(ConvertConfig(str(vggt), tmp_path / "x.safetensors", **wrong))


def test_same_input_same_bytes(source, tmp_path):
    for name in ("a.safetensors", "b.safetensors"):
        convert(ConvertConfig(str(source), tmp_path / name))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_converting_twice_changes_nothing_more(source, tmp_path):
    convert(ConvertConfig(str(source), tmp_path / "a.safetensors"))
    report = convert(ConvertConfig(str(tmp_path / "a.safetensors"), tmp_path / "b.safetensors"))
    assert {layer.sqnr_db for layer in report.layers} == {None}
    first, second = load_file(tmp_path / "a.safetensors"), load_file(tmp_path / "b.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[k].view(torch.uint8), second[k].view(torch.uint8)) for k in first if first[k].ndim)


def test_shards_hold_the_same_network(vggt, tmp_path):
    limit = 300_000
    convert(ConvertConfig(str(vggt), tmp_path / "one.safetensors"))
    report = convert(ConvertConfig(str(vggt), tmp_path / "many.safetensors", shard_bytes=limit))
    index, *shards = report.files
    assert index.name == "many.safetensors.index.json" and len(shards) > 3 and report.output == index
    for shard in shards:
        with safe_open(shard, "pt") as file:
            sizes = [file.get_tensor(name).nbytes for name in file.keys()]
        assert sum(sizes) <= limit or len(sizes) == 1
    assert torch.equal(depths(index), depths(tmp_path / "one.safetensors"))


class Interrupt(Progress):
    """Ctrl-C after some tensors."""

    def stage(self, name, total=None, minor=False):
        from contextlib import contextmanager

        @contextmanager
        def stage():
            steps = iter(range(20))

            def step():
                if next(steps, None) is None:
                    raise KeyboardInterrupt

            yield step

        return stage()


def test_an_interrupted_run_leaves_nothing_and_harms_nothing(vggt, tmp_path):
    out = tmp_path / "lite.safetensors"
    with pytest.raises(KeyboardInterrupt):
        convert(ConvertConfig(str(vggt), out), Interrupt())
    assert list(tmp_path.iterdir()) == []
    out.write_bytes(b"precious")
    with pytest.raises(KeyboardInterrupt):
        convert(ConvertConfig(str(vggt), out, overwrite=True), Interrupt())
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"precious"]


def test_what_exists_is_replaced_only_when_asked_and_the_source_never(vggt, tmp_path):
    out = tmp_path / "lite.safetensors"
    out.write_bytes(b"precious")
    with pytest.raises(OutputError, match="--overwrite"):
        convert(ConvertConfig(str(vggt), out))
    assert out.read_bytes() == b"precious"
    convert(ConvertConfig(str(vggt), out, overwrite=True))
    with pytest.raises(OutputError, match="this is the checkpoint that is read"):
        convert(ConvertConfig(str(out), out, overwrite=True))
    with pytest.raises(OutputError, match="not a folder|cannot be written"):
        convert(ConvertConfig(str(vggt), out / "below.safetensors"))


def test_an_unsound_source_is_refused_before_anything_is_written(tmp_path):
    state = {k: v.clone() for k, v in KINDS["vggt"].state_dict().items()}
    state["aggregator.global_blocks.3.mlp.fc2.weight"][0, 0] = float("nan")
    save_file(state, tmp_path / "nan.safetensors")
    with pytest.raises(WeightsError, match="global_blocks.3.mlp.fc2.weight"):
        convert(ConvertConfig(str(tmp_path / "nan.safetensors"), tmp_path / "out.safetensors"))
    assert [path.name for path in tmp_path.iterdir()] == ["nan.safetensors"]


def test_calibration_spares_the_layers_that_matter_most(tmp_path, photographs):
    model = DA3(DA3_TINY)
    standin.fill(model, 7)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    state["backbone.pretrained.blocks.2.ls1.gamma"].zero_()  # nothing of this layer reaches the output
    save_file(state, tmp_path / "da3.safetensors", {"config": json.dumps(dataclasses.asdict(DA3_TINY))})
    calibration = CalibrateConfig((photographs(2),), resolution=56, keep_worst=3, device="cpu")
    out = tmp_path / "lite.safetensors"
    report = convert(ConvertConfig(str(tmp_path / "da3.safetensors"), out, calibrate=calibration))
    found = {layer.name: layer for layer in report.layers if layer.sensitivity is not None}
    assert found["backbone.pretrained.blocks.2.attn.proj.weight"].sensitivity == 0
    assert found["backbone.pretrained.blocks.2.mlp.fc1.weight"].sensitivity > 0
    spared = {name for name, layer in found.items() if layer.after == "bf16"}
    assert spared == set(sorted(found, key=lambda name: -found[name].sensitivity)[:3])


def test_writer_gives_what_the_library_reads(tmp_path):
    tensors = {
        "a": torch.arange(5, dtype=torch.uint8), "é": torch.randn(3, 2), "empty": torch.zeros(0, 4),
        "scalar": torch.tensor(2.5), "h": torch.randn(7).to(torch.bfloat16),
        "f": torch.randn(3, 3).to(torch.float8_e4m3fn),
    }  # fmt: skip
    slots = [Slot(name, t.dtype, tuple(t.shape)) for name, t in tensors.items()]
    with SafetensorsWriter(tmp_path / "x.safetensors", slots, {"b": "1", "a": "ü"}) as out:
        for name in reversed(tensors):
            out.write(name, tensors[name])
    back = load_file(tmp_path / "x.safetensors")
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype and back[name].float().equal(tensor.float())
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata() == {"a": "ü", "b": "1"}
    with pytest.raises(ValueError, match="not written"):
        with SafetensorsWriter(tmp_path / "y.safetensors", slots, {}):
            pass


def test_shards_keep_the_order_and_the_limit():
    slots = [Slot(str(i), torch.uint8, (size,)) for i, size in enumerate((4, 5, 20, 1, 1, 9))]
    parts = split_into_shards(slots, 10)
    assert [[slot.nbytes for slot in part] for part in parts] == [[4, 5], [20], [1, 1], [9]]


@pytest.mark.parametrize(
    "arguments, code, words",
    [
        (["--weights", "int4"], 2, "fp8, bf16, float32"),
        (["--shard-size", "many"], 2, "500M or 2G"),
        (["--keep-ratio", "2"], 2, "--keep-ratio"),
        (["--keep-ratio", "0.5", "--attention", "none"], 2, "--attention none attaches none"),
        (["--attention", "nothing*"], 2, "--attention nothing*"),
        (["--weights", "bf16", "--calibrate", "x"], 2, "--calibrate"),
    ],
)
def test_wrong_options_are_explained(vggt, tmp_path, capsys, arguments, code, words):
    assert cli.main(["convert", str(vggt), "-o", str(tmp_path / "x.safetensors"), *arguments]) == code
    assert words in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_the_command_prints_a_report(vggt, tmp_path, capsys):
    out = str(tmp_path / "x.safetensors")
    assert cli.main(["convert", str(vggt), "-o", out]) == 0
    printed = capsys.readouterr()
    assert "aggregator.frame_blocks.0.attn.qkv.weight" in printed.out and "sparse-linear in 4 modules" in printed.out
    assert "not loaded: track head" in printed.err and "licence" in printed.err
    assert cli.main(["convert", str(vggt), "-o", out, "--overwrite", "--json", "-q"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (
        document["attention"]["layers"]
        and document["layers"][0]["sqnr_db"]
        and document["bytes_after"] < document["bytes_before"]
    )
    assert cli.main(["convert", str(tmp_path / "none.safetensors"), "-o", out]) == 4
    assert cli.main(["convert", str(vggt), "-o", out]) == 7
    assert cli.main(["convert", str(vggt), "-o", str(tmp_path / "x.pt")]) == 2
