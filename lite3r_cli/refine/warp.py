"""Pictures with known cameras, and the projection of pixels from one into another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_TINY = 1e-9
_LARGE = 1e30  # times the distance from a border: at least 1


@dataclass(frozen=True)
class Picture:
    """A view for stereo: grey values and the camera at their size."""

    grey: Tensor  # (h, w) float32 in 0..1
    K: Tensor  # (3, 3) float64
    cam_from_world: Tensor  # (3, 4) float64
    scene: Tensor | None = None  # (h, w) float32, 1 = scene, 0 = masked; None: all scene

    def shrunk(self, factor: float) -> Picture:
        """The picture smaller by about `factor`, K with it."""
        if factor == 1:
            return self
        height, width = self.grey.shape
        size = (max(8, round(height / factor)), max(8, round(width / factor)))
        grey = F.interpolate(self.grey[None, None], size=size, mode="bilinear", antialias=True, align_corners=False)
        ratio = torch.tensor([size[1] / width, size[0] / height, 1.0]).to(self.K)
        scene = self.scene
        if scene is not None:
            scene = F.interpolate(scene[None, None], size=size, mode="nearest-exact")[0, 0]
        return Picture(grey[0, 0], self.K * ratio[:, None], self.cam_from_world, scene)


class Projection:
    """Projection of the pixels of one picture, with inverse depths, into another picture."""

    def __init__(self, source: Picture, target: Picture) -> None:
        height, width = source.grey.shape
        rotation = target.cam_from_world[:, :3] @ source.cam_from_world[:, :3].T
        translation = target.cam_from_world[:, 3] - rotation @ source.cam_from_world[:, 3]
        v, u = (torch.arange(n, device=source.grey.device, dtype=torch.float64) + 0.5 for n in (height, width))
        self.size = target.grey.shape
        borders = torch.tensor([2 / self.size[1], 2 / self.size[0], 1.0]).to(target.K)[:, None] * target.K
        a, b, c = (borders @ rotation @ torch.linalg.inv(source.K)).T  # columns
        grid = a[:, None, None] * u + b[:, None, None] * v[:, None] + c[:, None, None]
        self.far = grid.float()  # (3, h, w): homogeneous position, 0..2 between the borders, at infinite depth
        self.shift: list[float] = (borders @ translation).tolist()  # (3,): shift per unit of inverse depth

    def __call__(self, inverse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Positions of pixels with inverse depths (…, h, w): column and row in −1..1 from border to border of the
        target, and the ratio of depths in target and source. Behind the target they are far outside.
        """
        x, y, ratio = (torch.add(far, inverse, alpha=shift) for far, shift in zip(self.far, self.shift, strict=True))
        scale = ratio.clamp_min(_TINY).reciprocal_()
        return x.mul_(scale).sub_(1), y.mul_(scale).sub_(1), ratio


def sample(values: Tensor, x: Tensor, y: Tensor, mode: str = "bilinear") -> Tensor:
    """Values (h, w) sampled at (…, h', w') in −1..1, clamped to the border."""
    grid = torch.view_as_real(torch.complex(x, y)).reshape(1, -1, x.shape[-1], 2)  # several times faster than `stack`
    found = F.grid_sample(values[None, None], grid, mode=mode, padding_mode="border", align_corners=False)
    return found[0, 0].reshape(x.shape)


def inside(picture: Picture, x: Tensor, y: Tensor) -> Tensor:
    """1 where a position is inside the picture and shows the scene, otherwise 0. Masks of bool take several times as
    long on a CPU.
    """
    within = torch.maximum(x.abs(), y.abs()).neg_().add_(1).mul_(_LARGE).clamp_(0, 1)
    return within if picture.scene is None else within.mul_(sample(picture.scene, x, y, "nearest"))
