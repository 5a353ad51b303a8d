"""The interface of every network: images of any sizes in; depth, confidence and cameras of all views out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lite3r_cli.errors import UsageError


@dataclass(frozen=True)
class Prediction:
    """Depth and cameras of S views in one world frame, that of the reference view. `Family.scale` tells the unit."""

    depth: list[Tensor]  # per view (H, W) float32 z-depth, 0 = unknown (sky)
    confidence: list[Tensor]  # per view (H, W) float32, larger is better
    cam_from_world: Tensor  # (S, 3, 4) float32, [R | t]
    K: Tensor  # (S, 3, 3) float32, pixels of the network's input, pixel centres at +0.5


def require_form(found: object, name: str, sizes: Sequence[tuple[int, ...]]) -> None:
    """Raise UsageError unless `found`, the answer of network `name`, is a Prediction for images of these sizes (H, W)
    with positive focal lengths.
    """

    def require(ok: bool, problem: str) -> None:
        if not ok:
            raise UsageError(f"network {name!r}: predict returned {problem} (lite3r_cli/networks/base.py: Prediction)")

    require(isinstance(found, Prediction), f"{type(found).__name__}, not a Prediction")
    assert isinstance(found, Prediction)
    for what, maps in (("depth", found.depth), ("confidence", found.confidence)):
        shapes = [tuple(each.shape) for each in maps]
        wanted = [tuple(size) for size in sizes]
        require(shapes == wanted, f"{what} of shapes {shapes[:3]} for {len(sizes)} images of sizes {wanted[:3]}")
    for what, cameras, columns in (("cam_from_world", found.cam_from_world, 4), ("K", found.K, 3)):
        shape, expected = tuple(cameras.shape), (len(sizes), 3, columns)
        require(shape == expected, f"{what} of shape {shape}; it has to be {expected}")
    focal = found.K[:, [0, 1], [0, 1]]
    require(not bool((focal <= 0).any()), "a focal length in K that is not above 0")


@dataclass(frozen=True)
class KnownCameras:
    """Known cameras and depth for all views of a prediction, in this program's conventions.

    For a network with `Family.partial_cameras`, NaN marks unknown values.
    """

    cam_from_world: Tensor  # (S, 3, 4)
    K: Tensor  # (S, 3, 3), pixels of the network's input, pixel centres at +0.5
    depth: tuple[Tensor | None, ...] = ()  # per view (H, W) z-depth, 0 = unknown, only for views with K; (): none
    metric: bool = False  # depth and positions are in metres


@dataclass(frozen=True)
class RawOutput:
    """The output for training and distillation, with gradients: B scenes of S equally sized views, of which V have
    depth.
    """

    log_depth: Tensor  # (B, V, H, W)
    confidence: Tensor  # (B, V, H, W), above 1
    decoded: Tensor  # (V,) indices of the views with depth
    rotation: Tensor  # (B, S, 3, 3) world_from_cam
    centre: Tensor  # (B, S, 3) camera centres in the reference frame
    log_focal: Tensor  # (B, S), units of half the image diagonal
    rays: Tensor | None  # (B, S, h, w, 6): ray direction R·K⁻¹·(u, v, 1) at the centre of each patch, camera centre
    belongs: Tensor | None = None  # (B, S) logit that a view shows the same place as the reference view


@dataclass(frozen=True)
class FrameAnswer:
    """Depth and camera of one frame of a video stream, in the world frame and scale of the first frames."""

    depth: Tensor  # (H, W) float32 z-depth, 0 = none
    confidence: Tensor  # (H, W) float32, larger is better
    cam_from_world: Tensor  # (3, 4) float32
    K: Tensor  # (3, 3) float32, pixels of the network's input, pixel centres at +0.5


class Network(nn.Module):
    """A multi-view network. `Family.build` creates it, `Checkpoint.load` loads its weights.

    If its family has `options`, it has a method `configure`. If its family takes cameras, `predict` has a parameter
    `cameras: KnownCameras | None`. If it can mask pixels without scene content, `predict` has a parameter
    `unseen: Sequence[Tensor | None] | None`, a mask (H, W) per image that is True for these pixels.
    """

    name: str  # of the model, for example "vggt-1b"
    config: Any  # an instance of its family's `config_class`
    patch_size: int  # image sides must be multiples of it
    compute_dtype: torch.dtype = torch.float32  # of the matrix products of the trunk, set when weights are loaded
    maps_stay = False  # `predict` leaves depth and confidence on the device, for a caller that goes on there

    def placed(self, maps: Tensor) -> Tensor:
        """Depth or confidence where `predict` returns it: on the CPU unless `maps_stay`."""
        return maps if self.maps_stay else maps.cpu()

    def predict(self, images: Sequence[Tensor]) -> Prediction:
        """Depth and cameras of S images, each (3, H, W) float32 RGB in [0, 1]; sizes may differ between images."""
        raise NotImplementedError

    def constants(self) -> dict[str, Tensor]:
        """Untrained tensors of the state dict, with their values in published checkpoints."""
        return {}


@runtime_checkable
class Configurable(Protocol):
    """A network whose family has `options`."""

    def configure(self, **settings: Any) -> None:
        """Set options for later predictions. Raises UsageError for an unsupported value."""
        ...


@runtime_checkable
class Streaming(Protocol):
    """A network that processes the frames of a video one after the other, in bounded memory."""

    def stream(self, frames: Iterable[Tensor], count: int) -> Iterator[FrameAnswer]:
        """Yield one answer per frame, in order. The `count` frames are (3, H, W) float32 RGB in [0, 1], of one size.
        Raises UsageError for frames of another size, and at the end of fewer frames.
        """
        ...

    def stream_memory(self, height: int, width: int, count: int) -> int:
        """Bytes that `stream` keeps for `count` frames of this size, in addition to what one frame needs."""
        ...
