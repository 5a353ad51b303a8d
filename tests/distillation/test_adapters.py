"""Low-rank adapters: on the layers with the largest gradients, beside frozen weights, gone when they are written."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors import safe_open
from test_distill import (  # noqa: F401 (a fixture)
    CPU,
    HIGH,
    SMALL,
    Fixed,
    checkpoint,
    command,
    distiller,
    facts_of,
    mini,
    pictures,
)

from lite3r_cli.attention.dense import dense
from lite3r_cli.attention.dispatch import packed_sparse_linear
from lite3r_cli.config.distill_recipe import Recipe
from lite3r_cli.distillation.adapters import adapt, choose_layers, merged_weights, probe, transformer_layers
from lite3r_cli.distillation.data import Data
from lite3r_cli.distillation.linear_branch import fit_linear_branches
from lite3r_cli.distillation.loop import STATE, Distiller, StudentPlan
from lite3r_cli.distillation.outputs import Runner
from lite3r_cli.distillation.students import Arithmetic
from lite3r_cli.errors import UsageError
from lite3r_cli.layers.vit import Block
from lite3r_cli.networks import standin
from lite3r_cli.networks.da3.network import DA3, DA3Config
from lite3r_cli.networks.family import exact_products
from lite3r_cli.networks.sparsify import sparse_modules, sparsify
from lite3r_cli.networks.vggt.network import VGGT, VGGTConfig

LORA = {"adapt": "lora", "rank": 2, "select": "2", "probe_batches": 2}


def network(kind: str) -> torch.nn.Module:
    if kind == "mini":
        return mini()
    model = (
        VGGT(VGGTConfig(dim=32, pairs=4, encoder_depth=1, encoder_heads=2, taps=(0, 1, 2, 3), camera_depth=1,
                        camera_heads=2, **SMALL))
        if kind == "vggt"
        else DA3(DA3Config(dim=32, depth=6, alternate_from=1, taps=(0, 1, 3, 5), camera_heads=2, camera_depth=1,
                           **SMALL))
    )  # fmt: skip
    standin.fill(model, 2)
    return model.eval()


@pytest.mark.parametrize("kind", ["mini", "vggt", "da3"])
def test_what_is_written_is_what_was_trained_and_the_weights_stay(kind):
    model = network(kind)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    config = sparsify(model, 0.5, block=4)
    recipe = Recipe(steps=3, fp8_from=1.0, lr=1e-2, warmup_steps=1, validation_batches=1, **LORA)
    data = Data((Fixed(0, False),), (Fixed(1000, False),), ())
    made = Distiller(StudentPlan(model, config, HIGH), recipe, CPU, data, None, lambda record: None)
    start = Runner(made.student)(pictures(5)).log_depth
    made.adapt()
    assert len(made.adapted) == 2 and set(made.adapted) < set(made.norms)
    torch.testing.assert_close(Runner(made.student)(pictures(5)).log_depth, start)  # B is zero
    made.run()  # the last values, not the best ones, which may be those of the start
    new = made.new_tensors()
    weights = [name for name in new if not name.endswith("proj_lin.weight")]
    assert set(weights) == {
        f"{linear}.weight" for layer in made.adapted for linear in transformer_layers(made.student, HIGH)[layer]
    }
    assert all(not torch.equal(new[name], before[name]) for name in weights)
    own = dict(made.student.named_parameters())
    assert all(torch.equal(own[name], value) for name, value in before.items())
    with torch.no_grad():
        trained = Runner(made.student)(pictures(5)).log_depth
        assert not torch.allclose(trained, start, rtol=1e-4)
        other = network(kind)
        sparsify(other, 0.5, block=4)
        assert not other.load_state_dict(new, strict=False).unexpected_keys
        torch.testing.assert_close(Runner(other)(pictures(5)).log_depth, trained, rtol=1e-5, atol=1e-6)


def test_the_probe_measures_gradients_and_finds_the_largest():
    torch.manual_seed(0)
    blocks = torch.nn.ModuleList(Block(32, 2) for _ in range(4)).requires_grad_(False)
    for block, scale in zip(blocks, (0.1, 0.0, 2.0, 0.5)):
        block.ls1.gamma.fill_(scale)
        block.ls2.gamma.fill_(scale)
    blocks[0].attn.qkv.weight.requires_grad_(True)  # trains by itself, and goes on to
    images = [torch.randn(1, 7, 32) for _ in range(3)]

    def losses(model):
        for image in images:
            x = image
            for block in model:
                x = block(x)
            yield x.sin().sum()

    expected = dict.fromkeys("0123", 0.0)
    twin = copy.deepcopy(blocks).requires_grad_(True)
    for loss in losses(twin):
        twin.zero_grad()
        loss.backward()
        for i, block in enumerate(twin):
            weights = [m.weight for m in block.modules() if isinstance(m, torch.nn.Linear)]
            expected[str(i)] += float(torch.stack([w.grad.norm() for w in weights]).norm()) / 3
    norms = probe(transformer_layers(blocks, ()), losses(blocks))
    assert norms == pytest.approx(expected, rel=1e-4) and norms["1"] == 0
    assert max(norms, key=norms.__getitem__) == "2"
    assert choose_layers(norms, "1") == ("2",)
    assert choose_layers(norms, "all") == ("0", "2", "3")
    assert [p.requires_grad for p in blocks.parameters()].count(True) == 1
    assert all(p.grad is None for p in blocks.parameters())
    with pytest.raises(UsageError, match="--select 4: 3 transformer layers"):
        choose_layers(norms, "4")


def test_the_sum_is_what_is_rounded():
    """In FP8 arithmetic an adapted layer gives what a layer with the merged weight gives."""
    model = mini().requires_grad_(False)
    layers = transformer_layers(model, [*HIGH, "blocks.3.attn.proj.weight"])
    assert "blocks.3.attn.proj" not in layers["blocks.3"] and len(layers["blocks.3"]) == 3
    adapt(model, {"blocks.3": layers["blocks.3"]}, 3, 0)
    for name, parameter in model.named_parameters():
        if name.endswith("lora_b"):
            torch.nn.init.normal_(parameter, std=0.1)
    other = mini()
    other.load_state_dict(merged_weights(model), strict=False)
    for each in (model, other):
        Arithmetic(each, HIGH).round(True)
    with torch.no_grad():
        ours, theirs = (Runner(each)(pictures(1)).log_depth for each in (model, other))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(ours, Runner(mini())(pictures(1)).log_depth, rtol=1e-3)


def test_resuming_gives_the_same_bytes_and_other_options_are_refused(tmp_path):
    def made(folder, **changes):
        (tmp_path / folder).mkdir(exist_ok=True)
        return distiller(tmp_path / folder, steps=4, validate_every=4, **{**LORA, **changes})

    def content(folder):
        with safe_open(tmp_path / folder / STATE, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}

    def stop(text):
        if part.step == 1:
            raise KeyboardInterrupt

    whole, part = made("whole"), made("part")
    for each in (whole, part):
        each.fit_linear_branches()
        each.adapt()
    whole.run()
    with pytest.raises(KeyboardInterrupt):
        part.run(stop)
    part.save()
    resumed = made("part")
    resumed.resume(tmp_path / "part" / STATE)
    assert resumed.step == 1 and resumed.adapted == whole.adapted and resumed.norms == whole.norms
    resumed.run()
    expected, found = content("whole"), content("part")
    assert expected.keys() == found.keys() and any("lora_a" in name for name in found)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    for changes, said in (({"select": "3"}, "select = 2, not 3"), ({"rank": 4}, "rank = 2, not 4")):
        with pytest.raises(UsageError, match=said):
            made("part", **changes).resume(tmp_path / "part" / STATE)
    with pytest.raises(UsageError, match="adapt = lora, not none"):
        distiller(tmp_path / "part").resume(tmp_path / "part" / STATE)


def test_the_checkpoint_has_no_adapters_and_says_what_was_trained(photographs, checkpoint, capsys):
    options = ["--adapt", "lora", "--rank", "2", "--select", "1", "--lr", "0.01", "--json", "--device", "cpu"]
    code, output = command(photographs, checkpoint, *options)
    captured = capsys.readouterr()
    assert code == 0, captured.err
    report = json.loads(captured.out)
    (layer,) = report["adapted"]
    norms = report["gradient_norms"]
    assert layer == max(norms, key=norms.__getitem__) and layer in captured.err
    linears = transformer_layers(mini(), exact_products(mini()))[layer].values()
    assert report["trained"] == 3 * 16 * 16 + sum(2 * (m.in_features + m.out_features) for m in linears)
    with safe_open(checkpoint, "pt") as teacher, safe_open(output, "pt") as student:
        assert not [name for name in student.keys() if "lora" in name]
        recipe = json.loads(student.metadata()["distillation"])
        assert recipe["adapted"] == [layer] and recipe["rank"] == 2
        for name in teacher.keys():
            same = torch.equal(teacher.get_tensor(name).float(), student.get_tensor(name).float())
            assert teacher.get_tensor(name).dtype == student.get_tensor(name).dtype
            assert same or name.startswith(f"{layer}."), name
        changed = f"{layer}.mlp.fc1.weight"
        assert student.get_tensor(changed).dtype == torch.float8_e4m3fn
        assert not torch.equal(teacher.get_tensor(changed).float(), student.get_tensor(changed).float())
    assert facts_of(str(output)).training == "weights"


@pytest.mark.parametrize(
    "words", ["--rank 4", "--select 2", "--adapt lora --rank 0", "--adapt lora --rank 33", "--adapt lora --select few",
              "--adapt lora --select 0", "--adapt lora --select 7", "--adapt dora"]
)  # fmt: skip
def test_what_cannot_be_adapted_is_said(photographs, checkpoint, capsys, words):
    code, output = command(photographs, checkpoint, *words.split())
    assert code == 2 and words.split()[-2] in capsys.readouterr().err and not output.exists()


def test_the_start_over_packed_tokens_is_fitted_to_packed_tokens():
    model = mini()
    sparsify(model, 0.3, packed=True, group=64)
    first = sparse_modules(model)["blocks.1.attn"]
    seen = {}
    shares = fit_linear_branches(model, (Runner(model)(pictures(s)) for s in [5]))
    first.mix = lambda q, k, v, keys=None: seen.update(qkv=(q, k, v)) or v
    with torch.no_grad():
        Runner(model)(pictures(5))
    q, k, v = seen["qkv"]

    def error(weight):
        out = packed_sparse_linear(q, k, v, first.plan, first.formula, weight, None)
        return float((out - dense(q, k, v)).square().sum().detach())

    fitted = first.proj_lin.weight.detach()
    assert first.plan.count(first.formula.keep_ratio) < first.plan.blocks
    assert 1 - error(fitted) / error(torch.zeros_like(fitted)) == pytest.approx(shares["blocks.1.attn"], abs=0.02)
    assert shares["blocks.1.attn"] > 0.01
