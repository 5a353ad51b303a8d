"""What every network takes and gives: images of any sizes in, depth, confidence and cameras for all views out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Prediction:
    """The network's answer for S views, all in one world frame (that of the reference view) and one arbitrary scale."""

    depth: list[Tensor]  # per view (H, W) float32 z-depth, 0 = none (sky)
    confidence: list[Tensor]  # per view (H, W) float32, larger is better
    cam_from_world: Tensor  # (S, 3, 4) float32, [R | t]
    K: Tensor  # (S, 3, 3) float32, pixels of the network's input, pixel centres at +0.5


@dataclass(frozen=True)
class KnownCameras:
    """Cameras measured otherwise, in this program's conventions, for all views of a prediction, and depth.

    For a network that takes `partial_cameras` (its family says so) values of views that are not known are NaN.
    """

    cam_from_world: Tensor  # (S, 3, 4)
    K: Tensor  # (S, 3, 3), pixels of the network's input, pixel centres at +0.5
    depth: tuple[Tensor | None, ...] = ()  # per view (H, W) z-depth, 0 = unknown; of views with K; (): of none
    metric: bool = False  # depth and positions are in metres


@dataclass(frozen=True)
class RawOutput:
    """What training and distillation read, for equally sized views: B scenes, S views, depth for the V views in
    `decoded`.
    """

    log_depth: Tensor  # (B, V, H, W)
    confidence: Tensor  # (B, V, H, W), above 1
    decoded: Tensor  # (V,) indices of the views with depth
    rotation: Tensor  # (B, S, 3, 3) world_from_cam
    centre: Tensor  # (B, S, 3) camera centres in the reference frame
    log_focal: Tensor  # (B, S), units of half the image diagonal
    rays: Tensor | None  # (B, S, h, w, 6): direction R·K⁻¹·(u, v, 1) and camera centre at each patch's middle
    belongs: Tensor | None = None  # (B, S) logit that a view shows the same place as the reference view


@dataclass(frozen=True)
class FrameAnswer:
    """The answer for one frame of a stream, in the frame and the scale of the first frames."""

    depth: Tensor  # (H, W) float32 z-depth, 0 = none
    confidence: Tensor  # (H, W) float32, larger is better
    cam_from_world: Tensor  # (3, 4) float32
    K: Tensor  # (3, 3) float32, pixels of the network's input, pixel centres at +0.5


class Network(nn.Module):
    """A multi-view network as `Family.build` makes it and `Checkpoint.load` fills it.

    Beside what stands here it has a method `configure` where its family has `options`, and `predict` takes
    `cameras: KnownCameras | None` where its family says so, and `unseen: Sequence[Tensor | None] | None` where it can
    leave pixels that show no scene, (H, W) bool of each image, out of attention.
    """

    name: str  # of the model, "vggt-1b"
    config: Any  # its family's configuration
    patch_size: int  # image sides have to be multiples of it
    compute_dtype: torch.dtype = torch.float32  # of the transformer's matrix products, set by those who load it

    def predict(self, images: Sequence[Tensor]) -> Prediction:
        """Depth and cameras of S images, each (3, H, W) float32 RGB in [0, 1]; sizes may differ between images."""
        raise NotImplementedError

    def constants(self) -> dict[str, Tensor]:
        """Tensors of its state dict that nobody trained, with the values that published checkpoints have."""
        return {}


@runtime_checkable
class Configurable(Protocol):
    """A network whose family has `options`."""

    def configure(self, **settings: Any) -> None:
        """Set them before predicting. Raises UsageError."""
        ...


@runtime_checkable
class Streaming(Protocol):
    """A network that sees the frames of a video one after the other, in bounded memory."""

    def stream(self, frames: Iterable[Tensor], count: int) -> Iterator[FrameAnswer]:
        """`count` frames in, each (3, H, W) float32 RGB in [0, 1] of one size, as many answers out, in order."""
        ...

    def stream_memory(self, height: int, width: int, count: int) -> int:
        """Bytes that `stream` keeps of so many frames of this size, beside what one frame takes."""
        ...


@runtime_checkable
class Backbone(Protocol):
    """A multi-view network. Image sides must be multiples of `patch_size`."""

    name: str
    patch_size: int

    def predict(self, images: Sequence[Tensor]) -> Prediction:
        """Depth and cameras of S images, each (3, H, W) float32 RGB in [0, 1]; sizes may differ between images."""
        ...
