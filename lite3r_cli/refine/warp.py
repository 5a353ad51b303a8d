"""Pictures with known cameras, and where the pixels of one lie in another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_TINY = 1e-9


@dataclass(frozen=True)
class Picture:
    """A view as stereo needs it: grey values and the camera at their size."""

    grey: Tensor  # (h, w) float32 in 0..1
    K: Tensor  # (3, 3) float64
    cam_from_world: Tensor  # (3, 4) float64
    scene: Tensor | None = None  # (h, w) float32, 1 where it shows the scene and 0 where it does not; None: everywhere

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
    """From the pixels of one picture, at an inverse depth each, into another picture."""

    def __init__(self, source: Picture, target: Picture) -> None:
        height, width = source.grey.shape
        rotation = target.cam_from_world[:, :3] @ source.cam_from_world[:, :3].T
        translation = target.cam_from_world[:, 3] - rotation @ source.cam_from_world[:, 3]
        v, u = (torch.arange(n, device=source.grey.device, dtype=torch.float64) + 0.5 for n in (height, width))
        a, b, c = (target.K @ rotation @ torch.linalg.inv(source.K)).T  # columns
        grid = a[:, None, None] * u + b[:, None, None] * v[:, None] + c[:, None, None]
        self.far = grid.float()  # (3, h, w): homogeneous pixel at infinite depth
        self.shift = (target.K @ translation).float()  # (3,): what a unit of inverse depth adds
        self.size = target.grey.shape

    def __call__(self, inverse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where pixels with inverse depths (…, h, w) lie: column and row in −1..1 from border to border of the target,
        and depth there over depth here; beyond ±2 where it is behind the target."""
        ratio = self.far[2] + inverse * self.shift[2]
        scale = ratio.clamp_min(_TINY).reciprocal()
        x = (self.far[0] + inverse * self.shift[0]) * scale * (2 / self.size[1]) - 1
        y = (self.far[1] + inverse * self.shift[1]) * scale * (2 / self.size[0]) - 1
        x = torch.where(ratio > _TINY, x, 3.0)
        return x, y, ratio


def sample(values: Tensor, x: Tensor, y: Tensor, mode: str = "bilinear") -> Tensor:
    """values (h, w) at places (…, h', w') in −1..1; those outside take the border's."""
    grid = torch.stack([x, y], dim=-1).clamp_(-2, 2).reshape(1, -1, x.shape[-1], 2)
    found = F.grid_sample(values[None, None], grid, mode=mode, padding_mode="border", align_corners=False)
    return found[0, 0].reshape(x.shape)


def inside(picture: Picture, x: Tensor, y: Tensor) -> Tensor:
    """Which places lie in the picture, and show the scene there."""
    within = (x.abs() < 1) & (y.abs() < 1)
    return within if picture.scene is None else within & (sample(picture.scene, x, y, "nearest") > 0)
