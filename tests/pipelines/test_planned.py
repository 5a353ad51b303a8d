"""A network run as planned: both engines give one answer, a trained form computes its own formula, and what
`lite3r convert` writes is the form that `--attention sla` runs.
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from lite3r_cli.attention.module import attach, attention_modules
from lite3r_cli.attention.sparse_config import SparseConfig, settle
from lite3r_cli.checkpoints.weights import save_checkpoint
from lite3r_cli.cli import main
from lite3r_cli.commands.sentences import sentence
from lite3r_cli.networks import parity, standin
from lite3r_cli.networks.base import Prediction
from lite3r_cli.networks.checkpoint import open_checkpoint
from lite3r_cli.networks.checkpoint_facts import NetworkFacts
from lite3r_cli.networks.da3.network import DA3, DA3Config
from lite3r_cli.networks.family import global_layers_of
from lite3r_cli.networks.sparsify import sparse_modules, sparsify
from lite3r_cli.networks.vggt.network import VGGT, VGGTConfig
from lite3r_cli.networks.vggt.recompute import vggt_from
from lite3r_cli.pipelines.engine_choice import Asked, Machine, resolve
from lite3r_cli.pipelines.planned import PlannedNetwork, Ran
from lite3r_cli.runtime import Choice

FIXTURES = Path(__file__).parent.parent / "fixtures"
CPU = torch.device("cpu")
MACHINES = {"cpu": Machine(), "cpu with AMX": Machine(amx=True)}
GPU = Machine("cuda", "bfloat16")


def small_vggt() -> tuple[nn.Module, list[torch.Tensor]]:
    """A network of every kind of layer, and three images."""
    heads = dict(head_features=16, head_stages=(8, 8, 16, 16), camera_depth=1, camera_heads=2)
    model = VGGT(VGGTConfig(dim=64, pairs=4, heads=2, encoder_depth=2, encoder_heads=2, taps=(0, 1, 2, 3), **heads))
    standin.fill(model, 1)
    return model.eval(), list(standin.image_batch(3, 112, 154, 1)[0])


@cache
def _of_a_fixture(fixture: str) -> tuple[nn.Module, list[torch.Tensor], dict]:
    config = json.loads(str(np.load(FIXTURES / f"{fixture}.npz")["config"]))
    model = vggt_from(config)
    layers = tuple(attention_modules(model))
    attach(model, SparseConfig(layers, keep_ratio=config["keep_ratio"], official=True))
    standin.fill(model, config["seed"])
    images = standin.image_batch(config["views"], config["height"], config["width"], config["seed"])[0]
    return model.eval(), list(images), config


def of_a_fixture(fixture: str) -> tuple[nn.Module, list[torch.Tensor], dict]:
    """An official network, which may be changed, and the images of its fixture."""
    return copy.deepcopy(_of_a_fixture(fixture))


def planned(model: nn.Module, asked: Asked, machine: Machine = GPU, training: str = "none") -> PlannedNetwork:
    """As `reconstruct` runs it; what is planned for a GPU runs on a CPU in float32, with plain torch for kernels."""
    plan = resolve(asked, replace(NetworkFacts.of_model(model), training=training), machine)
    return PlannedNetwork(model, replace(plan, dtype="float32"), CPU)


def same(found: Prediction, expected: Prediction, tolerance: float = 5e-6) -> None:
    pairs = [(torch.stack(list(found.depth)), torch.stack(list(expected.depth)))]
    pairs += [(found.cam_from_world, expected.cam_from_world), (found.K[:, :2, 2], expected.K[:, :2, 2])]
    for ours, theirs in pairs:
        assert float((ours - theirs).norm() / theirs.norm()) < tolerance
    # random weights give lenses of half a degree, whose focal length divides by a number that cancels: in radians
    assert float((fields_of_view(found.K) - fields_of_view(expected.K)).abs().max()) < tolerance


def fields_of_view(K: torch.Tensor) -> torch.Tensor:
    """(S, 2) radians, of cameras with their principal point in the middle."""
    return 2 * torch.atan2(K[:, :2, 2], K[:, [0, 1], [0, 1]])


@pytest.fixture
def deep(monkeypatch) -> None:
    """The small network stands for a deep one."""
    monkeypatch.setattr("lite3r_cli.attention.sparse_config.SHALLOW", 0)


# -- both engines ------------------------------------------------------------------------------------------------------


def test_the_dense_answer_of_the_fast_engine_is_the_ordinary_one() -> None:
    model, images = small_vggt()
    expected = model.predict(images)
    network = planned(model, Asked(engine="fast"))
    for _ in range(2):  # the second time it is there already
        same(network.predict(images), expected)
    assert network.plan.engine.chosen == "fast" and network.ran[1].skipped == 0


@pytest.mark.parametrize("ratio", [0.3, 1.0])
@pytest.mark.parametrize("official", [True, False], ids=["official", "distilled"])
def test_both_engines_compute_a_trained_form_at_any_length(official: bool, ratio: float, deep) -> None:
    model, images = small_vggt()  # a few hundred tokens: dense attention would be faster
    across = tuple(global_layers_of(model))
    sparse = SparseConfig(across, ratio, official=True) if official else settle(across, None, ratio)
    attach(model, sparse)
    for module in sparse_modules(model).values():
        nn.init.normal_(module.proj_lin.weight, std=0.05)
    dense = model.predict(images) if ratio == 1 else None
    for module in sparse_modules(model).values():
        module.backend = "dense"
    without = model.predict(images)
    answers = [planned(model, Asked(engine=engine), GPU, "branch") for engine in ("ordinary", "auto")]
    found = [network.predict(images) for network in answers]
    assert [network.plan.engine.chosen for network in answers] == ["ordinary", "fast"]
    same(found[1], found[0])
    if dense is not None:
        same(found[0], dense)
    with pytest.raises(AssertionError):  # the linear branch counts
        same(found[0], without, 1e-3)


@pytest.mark.parametrize("where", ["frame_blocks", "patch_embed"])
def test_both_engines_compute_sparse_attention_within_views(where: str) -> None:
    model, images = small_vggt()
    layers = [name for name in attention_modules(model) if where in name]
    attach(model, SparseConfig(tuple(layers), 0.3, linear_over="rest"))
    for module in sparse_modules(model).values():
        nn.init.normal_(module.proj_lin.weight, std=0.05)
    expected = model.predict(images)
    same(planned(model, Asked(), GPU, "branch").predict(images), expected)


def test_no_set_of_images_changes_what_the_next_one_runs_on(deep) -> None:
    """An evaluation of several scenes must not depend on their order."""
    _, images = small_vggt()
    mixed = [*images, images[0][:, :98]]
    alone = {}
    for name, given in (("equal", images), ("mixed", mixed)):
        alone[name] = planned(small_vggt()[0], Asked("sla", 0.5)).predict(given)
    network = planned(small_vggt()[0], Asked("sla", 0.5))
    for name, given in (("mixed", mixed), ("equal", images)):
        for ours, theirs in zip(network.predict(given).depth, alone[name].depth):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert network.choices()["engine"]["chosen"] == "fast" and len(network.ran) == 2


def test_sets_on_either_side_of_the_crossover_are_both_named() -> None:
    """One command, several predictions: what it says it used is not that of the last one."""
    before, after = (Choice("auto", name, f"because of {name}") for name in ("dense", "torch"))
    network = planned(small_vggt()[0], Asked("sla", 0.5))
    network.ran = [Ran(0.0, (before,)), Ran(0.5, (after,)), Ran(0.5, (after,))]
    attention = network.choices()["attention"]
    assert [(each["chosen"], each["times"]) for each in attention["backends"]] == [("dense", 1), ("torch", 2)]
    assert "back end dense 1 ×: because of dense; back end torch 2 ×" in sentence(attention)
    assert "times" not in network.choices(network.ran[1:])["attention"]["backends"][0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_a_machine_without_a_gpu(photographs, tmp_path, capsys) -> None:
    asked = ["reconstruct", str(photographs(2)), "-o", str(tmp_path / "a.ply"), "--engine"]
    assert main([*asked, "fast"]) == 5 and "--engine auto" in capsys.readouterr().err
    assert main([*asked, "slow"]) == 2 and "ordinary" in capsys.readouterr().err


# -- what a checkpoint was trained for ---------------------------------------------------------------------------------


@pytest.mark.parametrize("machine", [*MACHINES, "gpu"])
def test_the_authors_answer_holds_through_the_path_of_reconstruct(machine: str) -> None:
    """The parity fixture of an official checkpoint at its own keep ratio, computed by the authors' code."""
    fixture = FIXTURES / "lite3r_vggt_small_3x140x182.npz"
    model, images, config = of_a_fixture(fixture.stem)
    network = planned(model, Asked(), MACHINES.get(machine, GPU), "weights")
    with parity._threads(parity.THREADS):
        found = network.predict(images)
    step, given = config["subsample"], {k: torch.from_numpy(v) for k, v in np.load(fixture).items() if k != "config"}
    assert parity.relative_error(torch.stack(found.depth)[None, :, ::step, ::step], given["depth"]) < 1e-5
    assert parity.relative_error(found.cam_from_world[None], given["extrinsics"]) < 1e-5
    assert network.plan.attention.chosen == "sla" and "dense" not in {b.chosen for b in network.ran[0].backends}
    assert network.plan.engine.chosen == ("fast" if machine == "gpu" else "ordinary")


@pytest.mark.parametrize("machine", MACHINES)
def test_an_official_checkpoint_computes_its_formula_on_a_cpu(machine: str) -> None:
    model, images, _ = of_a_fixture("lite3r_vggt_small_3x140x182")
    attach(model, replace(next(iter(sparse_modules(model).values())).config, keep_ratio=0.3))
    for module in sparse_modules(model).values():
        module.backend = "torch"  # at any length
    expected = model.predict(images)
    network = planned(model, Asked(), MACHINES[machine], "weights")
    same(network.predict(images), expected)
    assert network.ran[0].skipped > 0.3


# -- convert, then sparse ----------------------------------------------------------------------------------------------

DEEP = dict(dim=64, heads=2, head_features=16, head_stages=(8, 8, 8, 8), position_grid=7, camera_depth=1)
STAND_INS = {
    "vggt": lambda: VGGT(VGGTConfig(pairs=8, encoder_depth=1, encoder_heads=2, taps=(1, 3, 5, 7), **DEEP)),
    "da3": lambda: DA3(DA3Config(depth=16, alternate_from=2, taps=(3, 7, 11, 15), camera_heads=2, **DEEP)),
}


@pytest.fixture(params=["mini", *STAND_INS])
def source(request, tmp_path) -> str:
    if request.param == "mini":
        return "mini"
    model = STAND_INS[request.param]()
    standin.fill(model, 3)
    path = tmp_path / f"{request.param}.safetensors"
    metadata = {"model": model.name, "config": json.dumps(vars(model.config))}
    save_checkpoint(path, model.state_dict(), metadata, torch.float32)
    return str(path)


def photographs(height: int, width: int) -> list[torch.Tensor]:
    folder = Path(__file__).parents[2] / "sample_scenes/facade/images"
    read = (cv2.imread(str(path))[..., ::-1] for path in sorted(folder.iterdir())[:3])
    return [
        torch.from_numpy(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)).permute(2, 0, 1) / 255
        for rgb in read
    ]


def run(checkpoint: str, asked: Asked, images: list[torch.Tensor]) -> tuple[torch.Tensor, PlannedNetwork]:
    with open_checkpoint(checkpoint) as opened:
        plan = resolve(asked, opened.facts, Machine())
        network = PlannedNetwork(opened.load(CPU, plan.loaded_dtype), plan, CPU)
    return torch.stack(network.predict(images).depth), network


def test_what_convert_writes_is_as_accurate_as_what_it_converts(source: str, tmp_path) -> None:
    """convert → --attention sla → predict: the same form as without converting, within the same distance of dense."""
    plain, kept = tmp_path / "plain.safetensors", tmp_path / "kept.safetensors"
    for path, options in ((plain, []), (kept, ["--keep-ratio", "0.25"])):
        assert main(["convert", source, "-o", str(path), "--weights", "float32", *options]) == 0
    images = photographs(224, 308) if source == "mini" else list(standin.image_batch(5, 154, 210, 1)[0])
    dense, _ = run(source, Asked(), images)
    expected, network = run(source, Asked("sla", 0.25), images)
    for path, asked in ((plain, Asked("sla", 0.25)), (plain, Asked("sla")), (kept, Asked("sla")), (kept, Asked())):
        found, converted = run(str(path), asked, images)
        if asked.wish == "auto":  # nothing is trained: dense attention where it is faster
            assert "faster" in converted.plan.attention.reason
            torch.testing.assert_close(found, dense, rtol=1e-4, atol=1e-5)
        else:
            assert converted.plan.sparse == network.plan.sparse and converted.ran[0].skipped == network.ran[0].skipped
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert network.ran[0].skipped > 0.5
    known = (dense > 0) & (expected > 0)
    limit = 0.025 if source == "mini" else 0.1  # of stand-in weights the blocks to keep are hard to tell
    assert float((expected[known] / dense[known]).log().abs().mean()) < limit
    torch.testing.assert_close(run(str(plain), Asked(), images)[0], dense)


def test_sparsify_is_the_same_form(deep) -> None:
    model, images = small_vggt()
    found = planned(model, Asked("sla", 0.5, engine="ordinary"), Machine()).predict(images)
    other = small_vggt()[0]
    sparsify(other, 0.5)
    same(other.predict(images), found)
