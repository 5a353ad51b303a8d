"""Before the training, Gaussians are added where the start leaves photographs uncovered."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from lite3r_cli.splats.fit import Shot, draw
from lite3r_cli.splats.gaussian_set import SH0, GaussianSet
from lite3r_cli.splats.likeness import psnr
from lite3r_cli.splats.shapes import Camera
from lite3r_cli.splats.uncovered import beyond, cover, fill

CPU = torch.device("cpu")


def camera(x: float) -> Camera:
    pose = torch.eye(4)[:3].clone()
    pose[0, 3] = -x
    return Camera(torch.tensor([[40.0, 0, 20.5], [0, 40, 15], [0, 0, 1]]), pose, 41, 30)


def left_half(count: int = 900) -> GaussianSet:
    """Opaque red balls on the left half of the plane at depth 2."""
    columns = np.zeros((count, 17))
    columns[:, :2] = np.random.default_rng(0).uniform((-1.6, -1), (0, 1), (count, 2))
    columns[:, 2], columns[:, 9], columns[:, 10:13], columns[:, 13] = 2, 4, np.log(0.06), 1
    columns[:, 6:9] = (np.array([0.8, 0.1, 0.1]) - 0.5) / SH0
    return GaussianSet.of_columns(columns, CPU, 2)


def test_holes_get_gaussians_of_the_right_colour_and_depth() -> None:
    picture = torch.zeros(3, 30, 41)
    picture[0, :, :21], picture[2, :, 20:] = 0.8, 0.9  # red, and blue where the start has nothing
    depth = torch.where(torch.arange(30)[:, None] < 15, 2.0, 0.0).expand(30, 41)  # unknown in the lower half
    shots = [Shot("a.jpg", picture, camera(0.0), depth), Shot("b.jpg", picture, camera(0.0), None)]
    start = left_half()
    before = psnr(draw(start, camera(0.0), 0)[0].detach().clamp(0, 1), picture)
    covered = cover(start, shots, margin=0)
    image, inverse, _ = draw(covered, camera(0.0), 0)
    new = covered.parameters["means"][len(start) :].detach()
    assert psnr(image.detach().clamp(0, 1), picture) > before + 6
    assert 100 < len(new) < 500, "a Gaussian for every second pixel of the holes, once"
    assert (new[:, 0] > -0.2).all() and torch.allclose(new[:, 2], torch.full_like(new[:, 2], 2), atol=0.15)
    assert (inverse[:, 24:38] > 0).float().mean() > 0.95
    assert all(value.requires_grad and len(value) == len(covered) for value in covered.parameters.values())


def test_nothing_is_added_to_what_is_covered_or_cannot_be_placed() -> None:
    empty = GaussianSet.of_columns(np.zeros((0, 17)), CPU, 2)
    picture = torch.zeros(3, 30, 41)
    assert len(cover(empty, [Shot("a.jpg", picture, camera(0.0), None)])) == 0
    shots = [Shot("a.jpg", picture, camera(0.0), None)]
    full = cover(left_half(), shots, margin=0)
    assert len(cover(full, shots, margin=0)) - len(full) < 20
    wider = cover(full, shots)
    assert len(cover(wider, shots)) - len(wider) < 20


def test_surfaces_go_on_outside_of_the_photographs() -> None:
    """A floor and its colour, below the lower border of the only photograph."""
    shot = Shot("a.jpg", torch.full((3, 30, 41), 0.6), camera(0.0), None)
    slope = (torch.arange(30) + 0.5 - 15) / 40 + 0.5  # inverse depth of a plane that comes nearer below
    shot = replace(shot, depth=(1 / slope)[:, None].expand(30, 41))
    nothing = GaussianSet.of_columns(np.zeros((0, 17)), CPU, 2)
    lower = camera(0.0)
    lower = replace(lower, K=lower.K - torch.tensor([[0.0, 0, 0], [0, 0, 8], [0, 0, 0]]))  # shows 8 lines below
    bare, whole = cover(nothing, [shot], margin=0), cover(nothing, [shot])
    assert (draw(bare, lower, 0)[1][-6:] == 0).all()
    picture, inverse, _ = draw(whole, lower, 0)
    assert (picture[:, -6:, 4:-4] - 0.6).abs().max() < 0.25
    wanted = (torch.arange(30) + 8 + 0.5 - 15) / 40 + 0.5
    assert (inverse[-6:, 4:-4] / wanted[-6:, None] - 1).abs().max() < 0.2  # the Gaussians are wide
    assert inverse[-1, 4:-4].min() > 1.1 * slope[-1]


def test_planes_go_on_as_planes_and_nothing_comes_too_near() -> None:
    y, x = torch.meshgrid(torch.arange(-5.0, 14), torch.arange(-5.0, 17), indexing="ij")
    plane = 2 + 0.1 * x - 0.05 * y
    assert torch.allclose(beyond(plane[None, None, 5:-5, 5:-5], 5)[0, 0], plane, atol=1e-5)
    steep = torch.tensor([1.0, 3.0]).expand(1, 1, 4, 2)
    assert beyond(steep, 3).max() == 5 and beyond(steep, 3).min() == 0.5


def test_fill_keeps_known_values_and_invents_between_them() -> None:
    values = torch.zeros(1, 1, 7, 13)
    values[..., 0], values[..., 12] = 1, 3
    known = values > 0
    filled = fill(values, known)
    assert torch.equal(filled[known], values[known]) and filled.min() >= 1 and filled.max() <= 3
    assert (filled[0, 0, :, 1:].diff() >= -1e-5).all()
    assert fill(values, torch.zeros_like(known)).abs().max() == 0
