"""A training on a CPU with few Gaussians: it learns, ends where held-out pictures say so, and grows."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from lite3r_cli.io.gaussians import write_splats
from lite3r_cli.scene.posed_view import View
from lite3r_cli.splats.fit import RATES, Recipe, Shot, draw, fit, left_out, look_at
from lite3r_cli.splats.gaussian_set import GaussianSet
from lite3r_cli.splats.growth import Growth
from lite3r_cli.splats.likeness import psnr, ssim
from lite3r_cli.splats.rasteriser import rasterise
from lite3r_cli.splats.shapes import Camera, ellipses
from lite3r_cli.splats.shots import held_out, inverse, moved_columns, shots_of, size_one

CPU = torch.device("cpu")


def columns_of(count: int, seed: int) -> np.ndarray:
    """Small opaque balls of many colours on a plane at depth 2."""
    random = np.random.default_rng(seed)
    columns = np.zeros((count, 17))
    columns[:, :2], columns[:, 2] = random.uniform(-1, 1, (count, 2)), 2
    columns[:, 6:9] = random.normal(size=(count, 3))
    columns[:, 9], columns[:, 10:13], columns[:, 13] = 2, math.log(0.12), 1
    return columns


def camera(x: float) -> Camera:
    pose = torch.eye(4)[:3].clone()
    pose[0, 3] = -x
    return Camera(torch.tensor([[24.0, 0, 14.5], [0, 24, 11], [0, 0, 1]]), pose, 29, 22)


def shots(columns: np.ndarray) -> list[Shot]:
    truth = GaussianSet.of_columns(columns, CPU)
    made = []
    for i, x in enumerate((-0.3, -0.1, 0.1, 0.3)):
        with torch.no_grad():
            picture, inverse_depth, _ = draw(truth, camera(x), 0)
        depth = torch.where(inverse_depth > 0, 1 / inverse_depth.clamp(min=0.1), torch.zeros_like(inverse_depth))
        made.append(Shot(f"{i}.jpg", picture.clamp(0, 1), camera(x), depth))
    return made


def test_what_was_not_seen_gets_better_and_the_best_is_kept() -> None:
    columns = columns_of(60, 0)
    seen = shots(columns)
    start = columns + np.random.default_rng(1).normal(size=columns.shape) * ([0.03] * 3 + [0] * 3 + [0.5] * 3 + [0] * 8)
    told: list[int] = []
    recipe = Recipe(steps=40, look_every=10, degree_every=20)
    splats = GaussianSet.of_columns(start, CPU)
    fitted = fit(splats, [*seen[:2], seen[3]], seen[2:3], recipe, lambda step, look: told.append(step))
    assert told == list(range(1, told[-1] + 1)) and fitted.best is not None
    assert fitted.best.psnr == max(look.psnr for look in fitted.looks) > fitted.looks[0].psnr - 1e-9
    with torch.no_grad():
        before = psnr(draw(GaussianSet.of_columns(start, CPU), camera(0.1), 0)[0].clamp(0, 1), seen[2].picture)
        after = draw(fitted.splats, camera(0.1), min(fitted.step // 20, 2))[0].clamp(0, 1)
    assert psnr(after, seen[2].picture) == pytest.approx(fitted.best.psnr, abs=1e-3) and fitted.best.psnr > before + 1


def test_it_ends_where_nothing_gains(monkeypatch) -> None:
    monkeypatch.setattr("lite3r_cli.splats.fit.GAIN", 100.0)
    seen = shots(columns_of(5, 0))
    fitted = fit(GaussianSet.of_columns(columns_of(5, 0), CPU), seen[:2], seen[2:3], Recipe(steps=50, look_every=2))
    assert [look.step for look in fitted.looks] == [2, 4, 6, 8] and fitted.step == 2


def test_the_running_mean_is_what_is_validated_and_kept() -> None:
    columns = columns_of(30, 0)
    seen = shots(columns)
    recipe = Recipe(steps=12, look_every=12, grow=False, average=0.9)
    splats = GaussianSet.of_columns(columns + 0.02, CPU)
    passed: list[torch.Tensor] = []
    fitted = fit(
        splats, seen[:2], seen[2:3], recipe, lambda step, look: passed.append(splats.parameters["sh0"].detach().clone())
    )
    mean = torch.stack(passed[:10]).mean(0)  # ten steps count equally, later ones push the past back
    for new in passed[10:]:
        mean = 0.9 * mean + 0.1 * new
    assert torch.allclose(fitted.splats.parameters["sh0"], mean, atol=1e-6) and not torch.allclose(passed[-1], mean)
    assert fitted.best is not None and look_at(fitted.splats, seen[2:3], 0, 12) == fitted.best


def test_gaussians_that_a_step_leaves_out_are_not_drawn() -> None:
    columns = columns_of(40, 0)
    splats = GaussianSet.of_columns(columns, CPU)
    factor = left_out(40, 0.3, torch.Generator().manual_seed(0))
    assert factor is not None and left_out(40, 0.0, torch.Generator()) is None
    there = factor > 0
    assert 4 < int((~there).sum()) < 20 and torch.allclose(factor[there], torch.tensor(1 / 0.7))
    rows, boxes = ellipses(splats, camera(0), 0, factor)
    few, few_boxes = ellipses(GaussianSet.of_columns(columns[there.numpy()], CPU), camera(0), 0, factor[there])
    assert torch.equal(rasterise(rows, boxes, 29, 22), rasterise(few, few_boxes, 29, 22))
    recipe = Recipe(steps=20, look_every=10, grow=False, drop=0.5)
    first, again, without = (
        fit(GaussianSet.of_columns(columns + 0.02, CPU), shots(columns)[:2], [], each).splats.parameters["opacity"]
        for each in (recipe, recipe, replace(recipe, drop=0.0))
    )
    assert torch.equal(first, again) and not torch.allclose(first, without)


def test_growth_doubles_splits_and_drops_with_the_moments() -> None:
    columns = columns_of(4, 0)
    columns[0, 10:13] = math.log(0.001)  # small and coarse: doubled
    columns[2, 9] = -9  # faded: dropped
    splats = GaussianSet.of_columns(columns, CPU)
    optimisers = {name: torch.optim.Adam([splats.parameters[name]], lr=rate) for name, rate in RATES.items()}
    sum(value.sum() for value in splats.parameters.values()).backward()
    for optimiser in optimisers.values():
        optimiser.step()
    growth = Growth(splats, optimisers, 100)
    growth.add(torch.tensor([[1.0, 0], [0, 1], [0, 0], [0, 0]]), 30, 20)
    growth.grow(torch.Generator().manual_seed(0))
    assert len(splats) == 5  # 0, 3, the double of 0, two halves of 1
    scale = torch.exp(splats.parameters["scales"][:, 0])
    assert torch.allclose(scale[3:], torch.tensor(0.12 / 1.6), rtol=0.05) and scale[2] == scale[0] < 0.01
    for name, optimiser in optimisers.items():
        [parameter] = optimiser.param_groups[0]["params"]
        assert parameter is splats.parameters[name] and parameter.requires_grad
        moment = optimiser.state[parameter]["exp_avg"]
        assert moment.shape == parameter.shape and (moment[:2] != 0).any() and not moment[2:].any()


def test_pictures_become_small_and_the_scene_of_size_one() -> None:
    pose = lambda x: np.array([[1.0, 0, 0, -x], [0, 1, 0, 0], [0, 0, 1, 0]])  # noqa: E731
    K = np.array([[50.0, 0, 30], [0, 50, 20], [0, 0, 1]])
    views = [View(f"{x}", 60, 40, K, pose(x), np.full((20, 30), 8.0, np.float32), None) for x in (0.0, 4.0)]
    frame = size_one(views)
    picture = np.full((40, 60, 3), 51, np.uint8)
    first, _ = shots_of(views, [picture, picture], frame, 30, CPU)
    assert first.picture.shape == (3, 20, 30) and first.depth is not None and first.depth.shape == (20, 30)
    assert torch.allclose(first.picture, torch.tensor(0.2)) and torch.allclose(first.depth, torch.tensor(8 / 2.2))
    assert torch.allclose(first.camera.K, torch.tensor([[25.0, 0, 15], [0, 25, 10], [0, 0, 1]]))
    columns = columns_of(7, 3)
    assert np.allclose(moved_columns(moved_columns(columns, frame), inverse(frame)), columns)
    assert held_out(5) == [] and held_out(11) == [2, 6] and held_out(8) == [2, 6]


def test_files_have_the_harmonics_colour_by_colour(tmp_path) -> None:
    from plyfile import PlyData

    splats = GaussianSet.of_columns(columns_of(3, 0), CPU)
    splats.parameters["shn"].data += torch.arange(24.0).view(8, 3)
    write_splats(tmp_path / "a.ply", *splats.columns())
    vertices = PlyData.read(tmp_path / "a.ply")["vertex"].data
    assert [float(vertices[f"f_rest_{k}"][0]) for k in (0, 1, 8, 16)] == [0, 3, 1, 2]
    assert vertices.dtype.names[8:10] == ("f_dc_2", "f_rest_0") and vertices.dtype.names[33] == "opacity"
    assert np.allclose(vertices["scale_1"], math.log(0.12))


def test_ssim_of_equal_and_of_other_pictures() -> None:
    a, b = torch.rand(3, 30, 20), torch.rand(3, 30, 20)
    assert float(ssim(a, a)) == pytest.approx(1) and abs(float(ssim(a, b))) < 0.4 and psnr(a, a) == pytest.approx(120)
