"""The rasteriser's kernels against their twin in plain torch, and the twin against finite differences."""

from __future__ import annotations

import pytest
import torch

from lite3r_cli.splats.gaussian_set import GaussianSet
from lite3r_cli.splats.rasteriser import bin_ellipses, rasterise_torch
from lite3r_cli.splats.shapes import Camera, ellipses

CUDA = torch.cuda.is_available()


def scene(count: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[GaussianSet, Camera]:
    """Gaussians of all sizes before, beside and behind a camera of 37 × 21 pixels."""
    random = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=random).to(dtype)  # noqa: E731
    means = normal(count, 3) * torch.tensor([1.5, 1.0, 2.0], dtype=dtype) + torch.tensor([0, 0, 3.0], dtype=dtype)
    values = {
        "means": means, "scales": normal(count, 3) * 0.7 - 2, "quaternions": normal(count, 4),
        "opacity": normal(count) * 3, "sh0": normal(count, 3), "shn": 0.2 * normal(count, 8, 3),
    }  # fmt: skip
    K = torch.tensor([[30.0, 0, 18], [0, 31, 11], [0, 0, 1]], dtype=dtype)
    pose = torch.eye(4, dtype=dtype)[:3] + torch.tensor([[0, 0, 0, 0.1], [0, 0, 0, -0.2], [0, 0, 0, 0.1]], dtype=dtype)
    return GaussianSet({name: value.requires_grad_() for name, value in values.items()}), Camera(K, pose, 37, 21)


@pytest.mark.kernel
@pytest.mark.parametrize("count", [1, 40])
def test_kernels_draw_what_their_twin_draws(count: int) -> None:
    from lite3r_cli.splats.raster_kernels import Rasterised

    splats, camera = scene(count, seed=3)
    splats.parameters["opacity"].data[::2] += 6  # opaque ones: the limit and the early end take part
    rows, boxes = (value.detach() for value in ellipses(splats, camera, 2))
    device = "cuda" if CUDA else "cpu"
    results = []
    for draw, place in ((rasterise_torch, "cpu"), (Rasterised.apply, device)):
        mine = rows.clone().to(place).requires_grad_()
        out = draw(mine, bin_ellipses(boxes.to(place), rows[:, 9].to(place), 37, 21), 37, 21)
        torch.manual_seed(1)
        out.backward(torch.randn(out.shape).to(place))
        assert mine.grad is not None
        results.append((out.detach().cpu(), mine.grad.cpu()))
    (twin, twin_gradient), (out, gradient) = results
    assert (out[..., 4] > 0.5).any() and torch.allclose(out, twin, atol=2e-5, rtol=1e-4)
    assert torch.allclose(gradient, twin_gradient, atol=2e-4 * float(twin_gradient.abs().max()), rtol=1e-3)


def test_gradients_are_those_of_finite_differences() -> None:
    splats, camera = scene(4, seed=5, dtype=torch.float64)
    splats.parameters["opacity"].data.clamp_(-1, 2)

    def picture(*values: torch.Tensor) -> torch.Tensor:
        moved = GaussianSet(dict(zip(splats.parameters, values)))
        rows, boxes = ellipses(moved, camera, 2)
        near = bin_ellipses(boxes + boxes.new_tensor([-99, -99, 99, 99]), rows[:, 9], 37, 21)
        return torch.log1p(rasterise_torch(rows, near, 37, 21)[5:14:4, 9:30:5]).sum((0, 1))

    torch.autograd.gradcheck(picture, tuple(splats.parameters.values()), eps=1e-7, atol=2e-3, rtol=1e-2)


def test_one_round_gaussian_is_where_the_camera_sees_it() -> None:
    columns = torch.zeros(1, 17)
    columns[0, :3], columns[0, 9:13] = torch.tensor([0.2, -0.1, 2.0]), torch.tensor([3.0, -3, -3, -3])
    columns[0, 6:9], columns[0, 13] = torch.tensor([1.0, 0, -1]), 1
    splats = GaussianSet.of_columns(columns.numpy(), torch.device("cpu"))
    camera = Camera(torch.tensor([[40.0, 0, 20], [0, 40, 12], [0, 0, 1]]), torch.eye(4)[:3], 37, 21)
    rows, boxes = ellipses(splats, camera, 0)
    out = rasterise_torch(rows, bin_ellipses(boxes, rows[:, 9], 37, 21), 37, 21).detach()
    row, column = divmod(int(out[..., 4].argmax()), 37)
    assert (column + 0.5, row + 0.5) in ((23.5, 9.5), (23.5, 10.5), (24.5, 9.5), (24.5, 10.5))
    assert out[row, column, 3] / out[row, column, 4] == pytest.approx(2.0)
    assert torch.allclose(out[row, column, :3] / out[row, column, 4], torch.tensor([0.7821, 0.5, 0.2179]), atol=1e-3)
