"""Training: it learns, stops and resumes at the same step, and writes a usable checkpoint."""

import json
from dataclasses import replace

import pytest
import torch

from lite3r_cli.config.training_run import LoopConfig
from lite3r_cli.data.procedural.augment import augment
from lite3r_cli.errors import Lite3RError, OutputError
from lite3r_cli.networks import registry
from lite3r_cli.networks.mini.network import Mini, MiniConfig
from lite3r_cli.training import train_loop
from lite3r_cli.training.losses import Targets
from lite3r_cli.training.rounding import RoundedWeights
from lite3r_cli.training.shape_schedule import ShapeSchedule
from lite3r_cli.training.state import saved_as_it_stops
from lite3r_cli.training.train_loop import Batch, Trainer
from lite3r_cli.training.worker import Worker

TINY = MiniConfig(dim=32, depth=4, heads=2, alternate_from=1, taps=(0, 1, 2, 3), head_features=16,
                  head_stages=(8, 8, 8, 8), camera_hidden=16, position_grid=3)  # fmt: skip
CPU = Worker(0, 1, torch.device("cpu"))


def batches(step):
    """The same two scenes for ever, whatever the step."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 2, 3, 28, 42, generator=generator)
    depth = 1 + images.mean(2)
    K = torch.tensor([[40.0, 0, 21], [0, 40, 14], [0, 0, 1]]).expand(2, 2, 3, 3)
    pose = torch.eye(3, 4).repeat(2, 2, 1, 1)
    pose[:, 1, 0, 3] = torch.tensor([0.3, -0.2])
    while True:
        yield Batch(images, Targets(depth, K, pose, torch.zeros(2, dtype=torch.long)))


def trainer(folder, steps, **changes):
    torch.manual_seed(0)
    config = LoopConfig(folder, budget_minutes=60, max_steps=steps, lr=3e-3, warmup_steps=2, log_every=10, **changes)
    records = []
    made = Trainer(Mini(TINY), config, CPU, records.append)
    return made, records


def test_it_overfits_two_scenes_and_leaves_a_checkpoint_that_loads(tmp_path):
    made, records = trainer(tmp_path, 63)
    made.run(batches)
    assert made.step == 63
    assert records[-1]["total"] < 0.5 * records[0]["total"]
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == records
    model = registry.load(str(tmp_path / "average.safetensors"))
    assert model.config == TINY and not list(tmp_path.glob("*.tmp"))


def test_resuming_continues_bit_for_bit(tmp_path):
    whole, _ = trainer(tmp_path, 12)
    first_half = iter(batches(0))
    for _ in range(6):
        whole.train_step(next(first_half), rounded=False)
    whole.save()
    resumed, _ = trainer(tmp_path, 12)
    resumed.resume(tmp_path / "state.safetensors")
    assert resumed.step == 6
    for _ in range(3):
        for each in (whole, resumed):
            each.train_step(next(batches(0)), rounded=True)
    for (name, a), (_, b) in zip(whole.model.named_parameters(), resumed.model.named_parameters()):
        assert torch.equal(a, b), name


def test_where_there_is_no_room_for_the_state_no_weights_stay(tmp_path, monkeypatch):
    made, _ = trainer(tmp_path, 3)

    def full(*arguments, **more):
        raise OutputError("the disk is full")

    monkeypatch.setattr(train_loop, "save_training_state", full)
    with pytest.raises(OutputError), saved_as_it_stops(made, CPU, lambda text: None):
        made.run(batches)
    assert not list(tmp_path.glob("*.safetensors"))


def test_divergence_is_an_error_and_not_a_checkpoint_of_nothing(tmp_path):
    made, _ = trainer(tmp_path, 30)
    batch = next(batches(0))
    poisoned = Batch(torch.full_like(batch.images, float("nan")), batch.targets)
    with pytest.raises(Lite3RError, match="--lr"):
        made.run(lambda step: iter([poisoned] * 30))
    assert not (tmp_path / "average.safetensors").exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_no_step_waits_for_the_gpu(tmp_path):
    gpu = torch.device("cuda")
    made = Trainer(Mini(TINY).to(gpu), LoopConfig(tmp_path, muon=True), Worker(0, 1, gpu), print)
    batch = next(batches(0))
    targets = {name: value.to(gpu) for name, value in vars(batch.targets).items() if isinstance(value, torch.Tensor)}
    decoded = torch.tensor([1], device=gpu)
    batch = Batch(batch.images.to(gpu), replace(batch.targets, **targets), decoded)
    generator = torch.Generator(gpu).manual_seed(0)
    try:
        for mode in ("default", "error"):  # the first step prepares what is kept
            torch.cuda.set_sync_debug_mode(mode)
            for rounded in (False, True):
                made.train_step(replace(batch, images=augment(batch.images, generator)), rounded)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_rounded_weights_are_rounded_inside_only():
    model = Mini(TINY)
    weight = model.blocks[0].attn.qkv.weight
    before = weight.detach().clone()
    with RoundedWeights(model)(True):
        assert not torch.equal(weight, before)
        assert (weight - before).abs().max() <= before.abs().max() * 2**-4
    assert torch.equal(weight, before)


def test_shapes_are_a_function_of_the_step_and_fit_the_patches():
    schedule = ShapeSchedule(tokens=8192, low_resolution_steps=50, photos=0.2, seed=3)
    shapes = [schedule(i) for i in range(400)]
    assert shapes == [schedule(i) for i in range(400)]
    assert all(s.height % 14 == 0 and s.width % 14 == 0 and 2 <= s.views <= 24 for s in shapes)
    frames = [s.batch * s.views for s in shapes]
    assert all(n * (1 + s.height * s.width // 196) <= 8192 for n, s in zip(frames, shapes) if n > 12)
    assert len({(n, s.height, s.width) for n, s in zip(frames, shapes)}) < 40
    assert max(max(s.height, s.width) for s in shapes[:50]) <= 280 < max(max(s.height, s.width) for s in shapes[50:])
    portrait = sum(s.height > s.width for s in shapes) / 400
    assert 0.15 < portrait < 0.4 and 0.1 < sum(s.photos for s in shapes) / 400 < 0.3


def test_a_budget_must_be_positive(tmp_path):
    with pytest.raises(Exception, match="--budget-minutes"):
        LoopConfig(tmp_path, budget_minutes=0)
