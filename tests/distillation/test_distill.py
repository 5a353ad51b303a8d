"""Distillation: the best possible start, learning, stop and resume, and the written checkpoint."""

import dataclasses
import json
import math

import pytest
import torch

from lite3r_cli.attention.dispatch import packed_sparse_linear, sparse_linear
from lite3r_cli.config.distill_recipe import Recipe
from lite3r_cli.distillation.common_answer import Runner
from lite3r_cli.distillation.distill_data import Data, DistillBatch
from lite3r_cli.distillation.distill_loop import STATE, Distiller, StudentPlan
from lite3r_cli.distillation.linear_branch import fit_linear_branches
from lite3r_cli.distillation.objectives import answer_distance, attention_distance, true_losses
from lite3r_cli.distillation.students import Arithmetic, make_pair
from lite3r_cli.errors import UsageError
from lite3r_cli.layers.dense import dense
from lite3r_cli.layers.heads import pose
from lite3r_cli.networks import standin
from lite3r_cli.networks.da3.network import DA3, DA3Config
from lite3r_cli.networks.mini.network import Mini, MiniConfig, cam_from_world
from lite3r_cli.networks.sparsify import sparse_modules, sparsify
from lite3r_cli.networks.vggt.network import VGGT, VGGTConfig
from lite3r_cli.networks.vggt_omega.parts import MaskedBiasLinear, key_bias_mask
from lite3r_cli.training.losses import Targets
from lite3r_cli.training.worker import Worker

SMALL = dict(heads=2, head_features=16, head_stages=(8, 8, 8, 8), position_grid=4)
TINY = MiniConfig(dim=32, depth=6, alternate_from=1, taps=(1, 3, 4, 5), camera_hidden=16, **SMALL)
CPU = Worker(0, 1, torch.device("cpu"))
HIGH = ("patch_embed.*", "head.*", "camera.*", "ray_head.*", "*.proj_lin.*")


def mini(seed: int = 1) -> Mini:
    model = Mini(TINY)
    standin.fill(model, seed)
    return model.eval()


def pictures(seed: int, views: int = 4) -> torch.Tensor:
    return standin.image_batch(views, 56, 70, seed)


def batch(seed: int, targets: bool = False) -> DistillBatch:
    images = pictures(seed)
    truth = None
    if targets:
        K = torch.tensor([[60.0, 0, 35], [0, 60, 28], [0, 0, 1]]).expand(1, 4, 3, 3)
        path = torch.eye(3, 4).repeat(1, 4, 1, 1)
        path[:, :, 0, 3] = torch.arange(4) * 0.2
        truth = Targets(2 + images.mean(2), K, path, torch.zeros(1, dtype=torch.long))
    return DistillBatch(images, torch.tensor([0, 2]), truth)


class Fixed:
    """Batches that follow from their step alone."""

    def __init__(self, seed: int, targets: bool):
        self.seed, self.targets = seed, targets

    def batches(self, first):
        while True:
            yield batch(self.seed + first, self.targets)
            first += 1


def distiller(
    tmp_path, targets: bool = True, keep: float = 0.25, worker: Worker = CPU, seed: int = 0, **changes
) -> Distiller:
    model = mini()
    config = sparsify(model, keep, block=4, **{k: changes.pop(k) for k in ("mix", "summaries") if k in changes})
    usual = {"steps": 8, "validate_every": 4, "log_every": 2, "warmup_steps": 1, "validation_batches": 2}
    recipe = Recipe(**usual | changes)
    data = Data((Fixed(seed, targets),), (Fixed(1000, targets),), ())
    return Distiller(StudentPlan(model, config, HIGH), recipe, worker, data, tmp_path, lambda record: None)


def rebased(cam_from_world: torch.Tensor) -> torch.Tensor:
    """Poses (S, 3, 4) in the frame of view 0."""
    world_from_first = pose.invert_rigid(cam_from_world[0, :, :3], cam_from_world[0, :, 3])
    return cam_from_world @ torch.cat([world_from_first, torch.tensor([[0.0, 0, 0, 1]])])


# -- teacher and student -----------------------------------------------------------------------------------------------


def test_the_teacher_is_the_dense_network_and_shares_what_does_not_train():
    dense, model = mini(), mini()
    config = sparsify(model, 0.25, block=4)
    teacher, student, names = make_pair(model, config, ["blocks.3.attn.proj.*"])
    leaves = ["1.attn.proj_lin.weight", "3.attn.proj.weight", "3.attn.proj.bias", "3.attn.proj_lin.weight"]
    assert names == [f"blocks.{leaf}" for leaf in [*leaves, "5.attn.proj_lin.weight"]]
    ours, theirs = dict(student.named_parameters()), dict(teacher.named_parameters())
    assert all((ours[n] is theirs[n]) == (n not in names) for n in theirs)
    with torch.no_grad():
        torch.testing.assert_close(Runner(teacher)(pictures(0)).log_depth, Runner(dense)(pictures(0)).log_depth)
    with pytest.raises(UsageError, match="--trainable"):
        make_pair(mini(), config, ["nothing.*"])


@pytest.mark.parametrize("kind", ["mini", "vggt", "da3"])
def test_the_runner_answers_what_the_network_predicts(kind):
    model = {
        "mini": lambda: Mini(TINY),
        "vggt": lambda: VGGT(VGGTConfig(dim=32, pairs=4, encoder_depth=1, encoder_heads=2, taps=(0, 1, 2, 3),
                                        camera_depth=1, camera_heads=2, **SMALL)),
        "da3": lambda: DA3(DA3Config(dim=32, depth=6, alternate_from=1, taps=(0, 1, 3, 5), camera_heads=2,
                                     camera_depth=1, **SMALL)),
    }[kind]()  # fmt: skip
    standin.fill(model, 2)
    model.eval()
    images = pictures(3, views=3)
    with torch.no_grad():
        out = Runner(model)(images, torch.tensor([0, 2]))
    prediction = model.predict(list(images[0]))
    torch.testing.assert_close(out.log_depth[0, 1].exp(), prediction.depth[2], rtol=1e-4, atol=1e-5)
    ours, theirs = (rebased(p) for p in (cam_from_world(out.rotation[0], out.centre[0]), prediction.cam_from_world))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    focal = prediction.K.diagonal(dim1=-2, dim2=-1)[:, :2].log().mean(-1)
    torch.testing.assert_close(out.log_focal[0] + math.log(0.5 * math.hypot(56, 70)), focal, rtol=1e-3, atol=1e-4)


# -- the closed-form start ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mix, summaries", [("sum", False), ("convex", False), ("sum", True)])
def test_the_start_is_the_best_the_branch_can_do_on_what_it_saw(mix, summaries):
    model = mini()
    sparsify(model, 0.3, block=4, mix=mix, summaries=summaries)
    module = sparse_modules(model)["blocks.3.attn"]
    seen = {}
    inner = module.mix

    def spy(q, k, v, keys=None):
        seen["qkv"] = q, k, v
        return inner(q, k, v)

    run = Runner(model)
    shares = fit_linear_branches(model, (run(pictures(s)) for s in [5]))
    assert all(0 <= share <= 1 for share in shares.values()) and max(shares.values()) > 0.05

    module.mix = spy
    # The fit is to the q, k, v of dense attention everywhere: what the first sparse layer's inputs are.
    first = sparse_modules(model)["blocks.1.attn"]
    first.mix, seen["first"] = (lambda q, k, v, keys=None: seen.update(first=(q, k, v)) or v), None
    with torch.no_grad():
        run(pictures(5))
    q, k, v = seen["first"]
    exact = torch.nn.functional.scaled_dot_product_attention(q, k, v)

    def error(value):
        weight, alpha = (value, None) if mix == "sum" else (None, value.sigmoid())
        out, _ = sparse_linear(q, k, v, first.formula, weight, alpha, first.layout)
        return float((out - exact).square().sum())

    fitted = first.proj_lin.weight.detach() if mix == "sum" else first.mix_logit.detach()
    zero = error(torch.zeros_like(fitted) if mix == "sum" else torch.full_like(fitted, 30.0))
    assert 1 - error(fitted) / zero == pytest.approx(shares["blocks.1.attn"], abs=0.02)
    generator = torch.Generator().manual_seed(0)
    for size in (0.03, 0.3):
        for _ in range(5):
            other = fitted + size * fitted.abs().mean() * torch.randn(fitted.shape, generator=generator)
            assert error(fitted) <= error(other) * (1 + 1e-3)


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


def test_the_start_in_half_precision_is_nearly_the_same():
    shares = []
    for dtype in (torch.float32, torch.bfloat16):
        model = mini()
        model.compute_dtype = dtype
        sparsify(model, 0.3, block=4)
        run = Runner(model)
        shares.append(list(fit_linear_branches(model, (run(pictures(s)) for s in (1, 2))).values()))
    torch.testing.assert_close(torch.tensor(shares[1]), torch.tensor(shares[0]), atol=0.05, rtol=0)


def test_a_branch_that_serves_only_what_it_was_fitted_to_stays_out():
    """With values of one scene only, leaving a batch out tells that the fit does not carry over."""
    from lite3r_cli.distillation.linear_branch import Normal, fit

    generator = torch.Generator().manual_seed(4)
    batches = []
    for _ in range(4):
        x, y = (torch.randn(3, n, generator=generator, dtype=torch.float64) for n in (40, 2))  # more unknowns than rows
        batches.append(Normal(x.T @ x, x.T @ y, y.square().sum()))
    theta, share = fit(batches)
    assert share < 0.1 and theta.norm() < 0.5
    alone, explained = fit(batches[:1])
    assert explained > 0.99 and alone.norm() > theta.norm()
    truth = torch.randn(40, 2, generator=generator, dtype=torch.float64)
    good = []
    for _ in range(4):
        x = torch.randn(60, 40, generator=generator, dtype=torch.float64)
        good.append(Normal(x.T @ x, x.T @ (x @ truth), (x @ truth).square().sum()))
    theta, share = fit(good)
    assert share > 0.99
    torch.testing.assert_close(theta, truth, rtol=1e-2, atol=1e-2)


# -- what is learned ---------------------------------------------------------------------------------------------------


def test_distances_are_zero_for_the_teacher_and_grow_with_the_error():
    with torch.no_grad():
        out = Runner(mini())(pictures(0))
    assert all(float(v) == 0 for v in answer_distance(out, out).values())
    turned = dataclasses.replace(out, centre=out.centre + 0.1, log_depth=out.log_depth + 0.2)
    distance = answer_distance(turned, out)
    assert float(distance["depth"]) == pytest.approx(0.2, rel=1e-4)
    assert float(distance["rotation"]) == 0 and float(distance["centre"]) > 0.01
    a = {"x": torch.randn(2, 5, 8)}
    for kind in ("mse", "cosine"):
        assert float(attention_distance(a, a, kind)) < 1e-6
    assert float(attention_distance({"x": 2 * a["x"]}, a, "mse")) == pytest.approx(1)
    assert float(attention_distance({"x": 2 * a["x"]}, a, "cosine")) < 1e-6


def test_true_losses_do_not_know_a_foreign_networks_units():
    data = batch(7, targets=True)
    with torch.no_grad():
        out = Runner(mini())(data.images)
    larger = dataclasses.replace(out, log_depth=out.log_depth + 2, centre=out.centre * torch.tensor(2.0).exp())
    same = [true_losses(o, data.targets, unit_scale=False, sky=False)["total"] for o in (out, larger)]
    torch.testing.assert_close(*same, rtol=1e-4, atol=1e-4)
    blind = dataclasses.replace(data.targets, depth=torch.zeros_like(data.targets.depth))
    far = dataclasses.replace(blind, cam_from_world=blind.cam_from_world * torch.tensor([1, 1, 1, 600.0]))
    parts = [true_losses(out, t, unit_scale=True, sky=False) for t in (blind, far)]
    assert set(parts[0]) == {"rotation", "position", "direction", "focal", "total"}
    torch.testing.assert_close(parts[0], parts[1], rtol=1e-3, atol=1e-4)


def test_the_student_comes_closer_to_its_teacher(tmp_path):
    fast = dict(steps=40, lr=3e-2, fp8_from=1.0, start="zero", ema_decay=0.8)
    made = distiller(tmp_path, targets=False, summaries=False, **fast)
    before = made.validate()
    made.run()
    assert float(made.trained.best_score) < 0.9 * before
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if "measured" in r] == list(range(0, 41, 4))
    attention = [r["attention"] for r in records if "attention" in r]
    assert attention[0] > attention[-1]


@pytest.mark.parametrize("mix", ["sum", "convex"])
def test_resuming_continues_bit_for_bit_across_the_start_of_fp8(tmp_path, mix):
    whole = distiller(tmp_path / "whole", mix=mix)
    (tmp_path / "whole").mkdir()
    (tmp_path / "part").mkdir()
    whole.fit_linear_branches()
    whole.run()
    part = distiller(tmp_path / "part", mix=mix)
    part.fit_linear_branches()
    seen = []

    def stop(text):
        seen.append(text)
        if len(seen) == 3:  # before the second stage, which begins at step 4
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        part.run(stop)
    part.save()
    resumed = distiller(tmp_path / "part", mix=mix)
    resumed.resume(tmp_path / "part" / STATE)
    assert resumed.step == 3
    resumed.run()
    for name, value in whole.trained.state_dict().items():
        assert torch.equal(value, resumed.trained.state_dict()[name]), name
    assert all(torch.equal(a, b) for a, b in zip(whole.average.values, resumed.average.values))
    other = distiller(tmp_path / "part", mix=mix, lr=0.5)
    with pytest.raises(UsageError, match="lr = 0.001"):
        other.resume(tmp_path / "part" / STATE)


def test_the_second_stage_computes_in_fp8_and_the_first_does_not(tmp_path):
    made = distiller(tmp_path, steps=4, fp8_from=0.5, validate_every=100)
    linear = made.student.blocks[0].mlp
    kinds = []
    for _ in range(4):
        made.train_step(batch(0))
        kinds.append(type(linear.fc1).__name__)
    assert kinds == ["Linear", "Linear", "FakeQuantLinear", "FakeQuantLinear"]
    assert type(made.student.ray_head).__name__ == "Linear"
    assert all(type(m).__name__ != "FakeQuantLinear" for m in made.teacher_network.modules())


def test_layers_with_a_masked_bias_are_exact_in_the_first_stage():
    module = torch.nn.Sequential(MaskedBiasLinear(16, 48, key_bias_mask(16)), torch.nn.Linear(48, 16))
    arithmetic = Arithmetic(module, ())
    assert [type(each).__name__ for each in module] == ["MaskedBiasLinear", "Linear"]
    arithmetic.round(True)
    assert [type(each).__name__ for each in module] == ["FakeQuantLinear"] * 2
