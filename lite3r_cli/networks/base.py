"""What every backbone takes and gives: images of any sizes in, depth, confidence and cameras for all views out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor


@dataclass(frozen=True)
class Prediction:
    """The network's answer for S views, all in one world frame (that of the reference view) and one arbitrary scale."""

    depth: list[Tensor]  # per view (H, W) float32 z-depth, 0 = none (sky)
    confidence: list[Tensor]  # per view (H, W) float32, larger is better
    cam_from_world: Tensor  # (S, 3, 4) float32, [R | t]
    K: Tensor  # (S, 3, 3) float32, pixels of the network's input, pixel centres at +0.5


@runtime_checkable
class Backbone(Protocol):
    """A multi-view network. Image sides must be multiples of `patch_size`."""

    name: str
    patch_size: int

    def predict(self, images: Sequence[Tensor]) -> Prediction:
        """Depth and cameras of S images, each (3, H, W) float32 RGB in [0, 1]; sizes may differ between images."""
        ...
