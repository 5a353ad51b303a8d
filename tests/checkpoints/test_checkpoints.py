"""Published checkpoints in all their formats, and the error message of each malformed one."""

import dataclasses
import json
import os
import sys
import types

import pytest
import torch
from safetensors.torch import save_file

from lite3r_cli.attention.module import attach, attention_modules
from lite3r_cli.attention.sparse_config import SparseConfig
from lite3r_cli.checkpoints import hub
from lite3r_cli.errors import BackendError, WeightsError
from lite3r_cli.networks import registry, standin
from lite3r_cli.networks.checkpoint import open_checkpoint
from lite3r_cli.networks.da3.network import DA3, SIZES
from lite3r_cli.networks.vggt.network import VGGT, VGGTConfig

# Like VGGT-1B in everything that no tensor tells: head widths of 64, 16 heads in the camera trunk.
TINY = VGGTConfig(
    dim=64, pairs=4, heads=1, encoder_depth=1, encoder_heads=1, taps=(0, 1, 2, 3), head_features=16,
    head_stages=(8, 8, 8, 8), camera_depth=1, position_grid=3,
)  # fmt: skip


def origin_of(name):
    with open_checkpoint(name) as checkpoint:
        return checkpoint.origin


def filled(model, seed=5):
    standin.fill(model, seed)
    return model.eval()


@pytest.fixture(scope="module")
def vggt():
    return filled(VGGT(TINY))


def assert_same(model, expected):
    ours, theirs = model.state_dict(), expected.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def write_shards(folder, state, count=3):
    names = sorted(state)
    parts = {f"model-{i}.safetensors": names[i::count] for i in range(count)}
    for file, part in parts.items():
        save_file({name: state[name] for name in part}, folder / file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {n: f for f, part in parts.items() for n in part}}))
    return index


def write_safetensors(folder, state):
    save_file(state, folder / "model.safetensors")
    return folder / "model.safetensors"


def write_pt(folder, state):
    torch.save({"model": state, "epoch": 1}, folder / "last.pt")
    return folder / "last.pt"


def write_old_pt(folder, state):
    """Write a .pt file in torch's format before version 1.6, which is not a zip archive."""
    torch.save({"state_dict": state}, folder / "old.pth", _use_new_zipfile_serialization=False)
    return folder / "old.pth"


def write_folder(folder, state):
    write_shards(folder, state)
    return folder


@pytest.mark.parametrize("write", [write_safetensors, write_shards, write_pt, write_old_pt, write_folder])
def test_every_form_of_a_checkpoint_gives_the_same_network(vggt, tmp_path, write):
    state = {**vggt.state_dict(), "track_head.fmap_norm.weight": torch.ones(3)}
    path = write(tmp_path, state)
    model = registry.load(str(path))
    assert model.config == TINY and model.name == "vggt"
    assert_same(model, vggt)
    origin = origin_of(str(path))
    assert origin.notices == (
        "not loaded: track head (tracks given points; not needed for depth and cameras), 1 tensors",
    )


@pytest.mark.parametrize("write", [write_safetensors, write_shards, write_pt, write_old_pt])
def test_a_checkpoint_in_a_folder_whose_name_is_no_text(vggt, tmp_path, write):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    path = write(folder, vggt.state_dict())
    path = path.rename(path.with_name(os.fsdecode(b"\xff") + path.name))
    assert_same(registry.load(str(path)), vggt)


def test_da3_is_recognised_by_its_keys_under_the_published_prefix(tmp_path):
    expected = filled(DA3(SIZES["da3-small"]))
    state = {f"model.{name}": tensor.clone() for name, tensor in expected.state_dict().items()}
    shared = "model.head.scratch.output_conv2_aux.{}.2.{}"
    for leaf in ("weight", "bias"):  # one tensor under four names: three may be missing, the last one counts
        del state[shared.format(0, leaf)], state[shared.format(3, leaf)]
        state[shared.format(1, leaf)] += 1
    path = write_safetensors(tmp_path, state)
    model = registry.load(str(path))
    assert model.name == "da3-small" and "Apache-2.0" in origin_of(str(path)).licence
    assert_same(model, expected)


def test_official_lite3r_checkpoint_gets_its_attention(tmp_path):
    model = VGGT(dataclasses.replace(TINY, point_head=False))
    attach(model, SparseConfig(tuple(attention_modules(model)), keep_ratio=0.3, official=True))
    expected = filled(model)
    assert expected.state_dict()["camera_head.trunk.0.attn.proj_lin.weight"].shape == (8, 8)
    loaded = registry.load(str(write_pt(tmp_path, expected.state_dict())))
    assert_same(loaded, expected)
    view = [torch.rand(3, 42, 56, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    assert torch.equal(loaded.predict(view).depth[1], expected.predict(view).depth[1])


def test_half_precision_holds_only_the_trunks_products(vggt, tmp_path):
    path = write_safetensors(tmp_path, vggt.state_dict())
    model = registry.load(str(path), dtype=torch.bfloat16)
    half = {name for name, p in model.named_parameters() if p.dtype == torch.bfloat16}
    assert (
        "aggregator.frame_blocks.0.attn.qkv.weight" in half and "aggregator.patch_embed.patch_embed.proj.weight" in half
    )
    assert not any("norm" in n or "token" in n or "gamma" in n or "head" in n or "pos_embed" in n for n in half)
    assert torch.isfinite(model.predict([torch.rand(3, 42, 56)]).depth[0]).all()


class Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("size", [3, 400, 20_000])
def test_a_truncated_file_of_the_old_format_is_damaged(vggt, tmp_path, size):
    path = write_old_pt(tmp_path, vggt.state_dict())
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(WeightsError, match="damaged or truncated"):
        registry.load(str(path))


@pytest.mark.parametrize("new_format", [True, False])
def test_a_pickle_that_runs_code_is_refused_unopened(tmp_path, new_format):
    path, crater = tmp_path / "model.pt", tmp_path / "crater"
    content = {"model": {"w": torch.zeros(2)}, "x": Bomb(crater)}
    torch.save(content, path, _use_new_zipfile_serialization=new_format)
    with pytest.raises(WeightsError, match="refused") as caught:
        registry.load(str(path))
    assert not crater.exists() and "weights_only" not in str(caught.value) and "\n" not in str(caught.value)


def malformed(kind, state, folder):
    state = dict(state)
    name = "aggregator.frame_blocks.0.attn.qkv.weight"
    if kind == "wrong shapes":
        state = {k: v[:1] if "attn.qkv" in k else v for k, v in state.items()}
    elif kind == "lacking":
        state = {k: v for k, v in state.items() if "frame_blocks" not in k or "norm1" not in k}
    elif kind == "more":
        state |= {f"extra.{i}": torch.zeros(1) for i in range(9)}
    elif kind == "nan":
        state[name] = state[name].clone().fill_(float("inf"))
    elif kind == "integers":
        state[name] = state[name].to(torch.int32)
    elif kind == "fp8 without scales":
        state[name] = state[name].to(torch.float8_e4m3fn)
    elif kind == "no shard":
        index = write_shards(folder, state)
        (folder / "model-1.safetensors").unlink()
        return index
    elif kind == "shard truncated":
        index = write_shards(folder, state)
        shard = folder / "model-1.safetensors"
        shard.write_bytes(shard.read_bytes()[:-100])
        return index
    elif kind == "index astray":
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../b.safetensors"}}))
        return folder
    elif kind.startswith("index: "):
        index = write_shards(folder, state)
        text, weight_map = index.read_text(), json.loads(index.read_text())["weight_map"]
        if kind == "index: names itself":
            text = json.dumps({"weight_map": {"a": index.name}})
        elif kind == "index: deep":
            text = '{"weight_map": ' + "[" * 100_000
        elif kind == "index: long names":
            text = json.dumps({"weight_map": weight_map | {"a": "x" * 5000}})
        elif kind == "index: too many files":
            text = json.dumps({"weight_map": {str(i): f"{i}.safetensors" for i in range(5000)}})
        elif kind == "index: numbers":
            text = json.dumps({"weight_map": dict.fromkeys(weight_map, 3)})
        index.write_text(text)
        if kind == "index: too large":
            os.truncate(index, 1 << 40)
        elif kind == "index: pipe":
            index.unlink()
            os.mkfifo(index)
        return index
    elif kind == "no dict":
        torch.save([torch.zeros(3)], folder / "x.pt")
        return folder / "x.pt"
    elif kind == "pt truncated":
        path = write_pt(folder, state)
        path.write_bytes(path.read_bytes()[:5000])
        return path
    elif kind == "empty folder":
        return folder
    return write_safetensors(folder, state)


@pytest.mark.parametrize(
    "kind, words",
    [
        ("wrong shapes", "wrong shape: aggregator"),
        ("lacking", "missing: aggregator.frame_blocks.0.norm1.bias"),
        ("more", "unknown: extra.0, extra.1, extra.2, extra.3, extra.4 and 4 more"),
        ("nan", "infinite values in aggregator.frame_blocks.0.attn.qkv.weight"),
        ("integers", "not real numbers"),
        ("fp8 without scales", "without one scale"),
        ("no shard", "model-1.safetensors: missing"),
        ("shard truncated", "model-1.safetensors: damaged or truncated"),
        ("index astray", "does not name files beside it"),
        ("index: names itself", "does not name files beside it"),
        ("index: deep", "not an index of safetensors shards"),
        ("index: long names", "a name of more than 255"),
        ("index: too many files", "5000 files"),
        ("index: numbers", "not an index of safetensors shards"),
        ("index: too large", "larger than 64 MB"),
        ("index: pipe", "a pipe or a socket, not a checkpoint"),
        ("no dict", "not a state dict"),
        ("pt truncated", "truncated"),
        ("empty folder", "a folder without"),
    ],
)
def test_a_malformed_checkpoint_is_named_with_its_fault(vggt, tmp_path, kind, words):
    path = malformed(kind, vggt.state_dict(), tmp_path)
    with pytest.raises(WeightsError, match=words) as caught:
        registry.load(str(path))
    message = str(caught.value)
    assert str(tmp_path) in message and "\n" not in message
    assert message.count("aggregator.") + message.count("extra.") <= 5


@pytest.mark.parametrize(
    "entry, value",
    [
        ("config", {"depth": 10**9}),
        ("config", {"dim": -3}),
        ("config", {"dim": 10**30}),
        ("config", {"heads": "six"}),
        ("config", {"heads": 0}),
        ("config", {"taps": [0, 10**7]}),
        ("config", {"taps": 3}),
        ("config", {"x" * 9000: 3}),
        ("attention", {"layers": ["blocks.1.attn", "y" * 9000]}),
        ("attention", {"layers": 5}),
        ("distillation", [1]),
    ],
)
def test_odd_metadata_is_named_at_once(tmp_path, entry, value):
    """Sizes out of the metadata are looked at before a network is built by them."""
    with open_checkpoint("mini") as checkpoint:
        state = {name: checkpoint.source.read(name) for name in checkpoint.source.entries}
        metadata = dict(checkpoint.metadata)
    attention = {"layers": ["blocks.1.attn"]}
    metadata |= {"attention": json.dumps(attention), "distillation": "{}"}
    metadata[entry] = json.dumps(value if isinstance(value, list) else json.loads(metadata[entry]) | value)
    save_file(state, tmp_path / "a.safetensors", metadata)
    with pytest.raises(WeightsError) as caught, open_checkpoint(tmp_path / "a.safetensors") as checkpoint:
        checkpoint.build()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1500


# -- the hub -----------------------------------------------------------------------------------------------------------


class FakeHub(types.ModuleType):
    """The functions of the hub's client that the package uses; it serves a folder."""

    def __init__(self, folder, offline=False):
        super().__init__("huggingface_hub")
        self.folder, self.asked = folder, []
        self.constants = types.SimpleNamespace(HF_HUB_OFFLINE=offline)

    def HfApi(self):
        return self

    def model_info(self, repository, revision, files_metadata):
        self.asked.append((repository, revision))
        files = [types.SimpleNamespace(rfilename=p.name, size=p.stat().st_size) for p in sorted(self.folder.iterdir())]
        return types.SimpleNamespace(sha="c0ffee", siblings=files)

    def hf_hub_download(self, repository, name, revision):
        assert revision == self.asked[-1][1]
        return str(self.folder / name)


@pytest.fixture
def no_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_download_announces_size_licence_and_revision(vggt, tmp_path, no_cache, monkeypatch):
    folder = tmp_path / "remote"
    folder.mkdir()
    write_shards(folder, vggt.state_dict())
    fake = FakeHub(folder)
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    said = []
    with open_checkpoint("vggt-1b", said.append) as checkpoint:
        assert_same(checkpoint.load(), vggt)
    size = sum(p.stat().st_size for p in folder.glob("*.safetensors")) / 1e9
    assert fake.asked == [("facebook/VGGT-1B", registry.MODELS["vggt-1b"].revision)]
    for words in ("VGGT research licence", f"{size:.2f} GB", "commit c0ffee, "):
        assert words in said[0]
    registry.resolve("hf:someone/else", said.append)
    assert fake.asked[-1] == ("someone/else", "main") and "revision not pinned" in said[1]
    registry.load("hf:someone/else@v2")
    assert fake.asked[-1] == ("someone/else", "v2")


def test_without_the_hubs_package_the_install_line_is_given(no_cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(BackendError, match=r"pip install 'lite3r\[hub\]'"):
        registry.resolve("da3-small")


def test_offline_means_no_download(tmp_path, no_cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", FakeHub(tmp_path, offline=True))
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE"):
        registry.resolve("da3-small")


def test_a_hub_that_does_not_answer_or_refuses_is_one_line(tmp_path, no_cache, monkeypatch):
    fake = FakeHub(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    gated = RuntimeError("403 Client Error\nmore")
    gated.response = types.SimpleNamespace(status_code=403)
    for error, words in ((RuntimeError("no route\nto host"), "cannot be reached"), (gated, "grant access")):
        monkeypatch.setattr(fake, "model_info", lambda *a, error=error, **k: (_ for _ in ()).throw(error))
        with pytest.raises(WeightsError, match=words) as caught:
            registry.resolve("da3-small")
        assert "\n" not in str(caught.value)


def test_what_was_downloaded_before_is_found_without_the_package(no_cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert registry.find_checkpoint("da3-large") is None
    folder = no_cache / "models--depth-anything--DA3-LARGE"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    snapshot = folder / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    assert registry.find_checkpoint("da3-large") is None
    (snapshot / "model.pt").write_bytes(b"x")
    assert registry.resolve("da3-large") == snapshot / "model.pt"


@pytest.mark.parametrize("files, chosen", [
    (["a.txt", "model.pt", "model.safetensors"], "model.safetensors"),
    (["model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json"], "model.safetensors.index.json"),
    (["weights.safetensors", "x.pt"], "weights.safetensors"),
    (["a.pt", "b.pt"], None),
    ([], None),
])  # fmt: skip
def test_choice_among_a_repositorys_files(files, chosen):
    assert hub.choose_file(files) == chosen


def test_a_misspelt_hub_name_is_refused():
    with pytest.raises(WeightsError, match="hf:OWNER/NAME"):
        registry.resolve("hf:nobody")
