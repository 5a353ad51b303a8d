"""What goes in and out of the fast path."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """Of one set of images."""

    views: int
    height: int
    width: int

    def grid(self, patch_size: int) -> tuple[int, int]:
        return self.height // patch_size, self.width // patch_size


@dataclass(frozen=True)
class FastOutput:
    """On the device, float32, in this program's conventions; a graph writes the next answer into the same memory."""

    depth: Tensor  # (S, H, W)
    confidence: Tensor  # (S, H, W)
    cam_from_world: Tensor  # (S, 3, 4)
    K: Tensor  # (S, 3, 3)
