"""What a user gets on a GPU: the commands, both engines beside each other, and graphs, by the kernels themselves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest
import torch
from torch import nn

from lite3r_cli.checkpoints.weights import save_checkpoint
from lite3r_cli.cli import main
from lite3r_cli.engine.layers import Settings
from lite3r_cli.networks import standin
from lite3r_cli.networks.checkpoint import open_checkpoint
from lite3r_cli.networks.checkpoint_facts import NetworkFacts
from lite3r_cli.networks.da3.network import DA3, DA3Config
from lite3r_cli.networks.fast_form import fast_runner
from lite3r_cli.networks.recorded import BEFORE, IN_BATCH
from lite3r_cli.networks.sparsify import sparsify
from lite3r_cli.networks.vggt.network import VGGT, VGGTConfig
from lite3r_cli.pipelines.engine_choice import Asked, Machine, resolve
from lite3r_cli.pipelines.planned import PlannedNetwork

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

DESK = Path(__file__).parents[2] / "sample_scenes/desk"
# heads of 64 channels: what the kernels of Hopper GPUs are for
WIDE = dict(dim=128, heads=2, head_features=16, head_stages=(16, 16, 16, 16), position_grid=7, camera_depth=1)
STAND_INS = {
    "vggt": lambda: VGGT(VGGTConfig(pairs=8, encoder_depth=1, encoder_heads=2, taps=(1, 3, 5, 7), **WIDE)),
    "da3": lambda: DA3(DA3Config(depth=16, alternate_from=2, taps=(3, 7, 11, 15), camera_heads=2, **WIDE)),
}


def stand_in(name: str) -> nn.Module:
    model = STAND_INS[name]()
    standin.fill(model, 3)
    return model.eval()


def network(name: str, asked: Asked, dtype: str = "bfloat16", repeats: int = 0) -> PlannedNetwork:
    """As `reconstruct` runs it on this machine."""
    device = torch.device("cuda")
    machine = Machine.of(device, getattr(torch, dtype))
    if name == "mini":
        with open_checkpoint("mini") as opened:
            plan = resolve(asked, opened.facts, machine)
            return PlannedNetwork(opened.load(device, plan.loaded_dtype), plan, device, repeats)
    model = stand_in(name)
    plan = resolve(asked, NetworkFacts.of_model(model), machine)
    return PlannedNetwork(model.to(device, plan.loaded_dtype), plan, device)


def pictures(views: int, seed: int = 0) -> list[torch.Tensor]:
    return list(standin.image_batch(views, 350, 518, seed)[0].cuda())


def apart(found, expected) -> float:
    """Mean distance of two answers' depths, relative."""
    pairs = zip(found.depth, expected.depth)
    return float(torch.stack([(a.cuda() / b.cuda()).float().log().abs().mean() for a, b in pairs]).mean())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("asked", [Asked(), Asked("dense"), Asked("sla")], ids=["auto", "dense", "sla"])
def test_masked_patches_are_no_keys(asked: Asked, dtype: str) -> None:
    """Whatever the patches show that a mask covers, the cameras and the depth elsewhere are the same."""
    images = pictures(4)
    masks = [torch.zeros(picture.shape[1:], dtype=torch.bool) for picture in images]
    masks[1][70:210, 140:350] = True  # whole patches
    other = [torch.where(mask.cuda(), torch.rand_like(picture), picture) for picture, mask in zip(images, masks)]
    planned = network("mini", asked, dtype)
    expected, found = planned.predict(images, masks), planned.predict(other, masks)
    torch.testing.assert_close(found.cam_from_world, expected.cam_from_world, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found.depth[3], expected.depth[3], atol=1e-3, rtol=1e-2)
    bare = planned.predict(images).cam_from_world, planned.predict(other).cam_from_world
    assert not torch.allclose(*bare, atol=1e-3, rtol=1e-3)
    assert planned.choices(planned.ran[:1])["masked"]["chosen"] == "left out"


@pytest.mark.parametrize("name", ["mini", *STAND_INS])
def test_the_dense_answers_of_both_engines_are_alike(name: str) -> None:
    images = pictures(5)
    ordinary = network(name, Asked("dense", engine="ordinary"), "float32").predict(images)
    fast = network(name, Asked("dense", engine="fast"))
    assert apart(fast.predict(images), ordinary) < 0.03
    both = [*images[:3], *(picture[:, :280] for picture in images[3:])]  # sizes that differ
    expected = network(name, Asked("dense", engine="ordinary"), "float32").predict(both)
    assert apart(fast.predict(both), expected) < 0.03
    assert apart(fast.predict(images), ordinary) < 0.03  # again: nothing of the run between stays


@pytest.mark.parametrize("name", ["mini", *STAND_INS])
def test_the_sparse_answers_of_both_engines_are_alike(name: str) -> None:
    images = pictures(7)
    asked = Asked("sla", 0.3, fp8_backend="off")
    exact = network(name, replace(asked, engine="ordinary"), "float32")
    expected = exact.predict(images)
    fast = network(name, replace(asked, engine="fast"))
    found = fast.predict(images)
    dense = network(name, Asked("dense", engine="ordinary"), "float32").predict(images)
    assert fast.ran[0].skipped == pytest.approx(exact.ran[0].skipped, abs=0.01) and fast.ran[0].skipped > 0.65
    assert apart(found, expected) < 0.03 < 3 * apart(expected, dense) + 0.03
    eights = network(name, replace(asked, fp8_backend="scaled-mm", engine="fast")).predict(images)
    assert apart(eights, expected) < 0.15
    everything = network(name, Asked("sla", 1.0, fp8_backend="off", engine="fast")).predict(images)
    assert apart(everything, dense) < 0.03


def test_a_graph_computes_what_its_input_says() -> None:
    model = stand_in("vggt").cuda()
    sparsify(model, 0.25)
    runner = fast_runner(model, Settings(fp8=True), torch.device("cuda"))
    for seed in (1, 2, 3):
        images = torch.stack(pictures(6, seed))
        expected = runner.eager(images).depth[0].clone()
        found = runner(images).depth[0]
        assert float((found / expected).log().abs().mean()) < 0.02
    assert runner.skipped(next(iter(runner._graphs))[0]) > 0.7


@pytest.mark.parametrize("views", [1, 8, 11])
def test_predictions_that_repeat_are_recorded_with_the_same_bits(views: int) -> None:
    """Another thread uses the GPU meanwhile, as fusion does in a batch; and an answer outlives the next ones."""
    plain, repeated = network("mini", Asked()), network("mini", Asked(), repeats=IN_BATCH)
    ended, matrix = Event(), torch.eye(300, device="cuda")

    def busy() -> None:
        while not ended.is_set():
            (matrix @ matrix).clone().sum().item()

    thread = Thread(target=busy)
    thread.start()
    try:
        sets = [pictures(views, seed) for seed in range(BEFORE + 3)]
        answers = [(repeated.predict(images), plain.predict(images)) for images in sets]
    finally:
        ended.set()
        thread.join()
    for found, expected in answers:
        assert torch.equal(torch.stack(found.depth), torch.stack(expected.depth))
        assert torch.equal(torch.stack(found.confidence), torch.stack(expected.confidence))
        assert torch.equal(found.cam_from_world, expected.cam_from_world) and torch.equal(found.K, expected.K)
    assert repeated.ran == plain.ran


@pytest.mark.parametrize("name", ["mini", *STAND_INS])
def test_reconstruct_and_eval_on_the_fast_engine(name: str, tmp_path) -> None:
    model = name
    if name != "mini":
        made, model = stand_in(name), str(tmp_path / f"{name}.safetensors")
        metadata = {"model": made.name, "config": json.dumps(vars(made.config))}
        save_checkpoint(Path(model), made.state_dict(), metadata, torch.float32)
    common = ["--model", model, "--device", "cuda"]
    output = tmp_path / "fast.ply"
    given = [*common, "--keep-ratio", "0.25", "--fp8-backend", "scaled-mm", "--engine", "fast"]
    assert main(["reconstruct", str(DESK / "images"), "-o", str(output), "--save-npy", *given]) == 0
    told = json.loads((tmp_path / "fast/run.json").read_text())
    assert told["runtime"]["engine"]["chosen"] == "fast", told["runtime"]
    assert told["runtime"]["fp8"]["chosen"] == "scaled-mm" and told["attention"]["skipped_share"] > 0.7
    plain = tmp_path / "plain.ply"
    assert main(["reconstruct", str(DESK / "images"), "-o", str(plain), "--save-npy", *common]) == 0
    depths = [sorted((tmp_path / folder / "depth").glob("*.npy")) for folder in ("fast", "plain")]
    assert len(depths[0]) == len(depths[1]) > 3
    for ours, theirs in zip(*depths):
        found, expected = np.load(ours), np.load(theirs)
        known = (found > 0) & (expected > 0)
        assert known.mean() > 0.5
        assert np.abs(np.log(found[known] / expected[known])).mean() < (0.03 if name == "mini" else 0.3)
    assert main(["eval", str(DESK), *given]) == 0
