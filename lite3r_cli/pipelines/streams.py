"""Networks that process a video as a stream: their number of frames, their memory, and one picture at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
import torch
from torch import Tensor

from ..networks.base import Streaming

TOGETHER = 32  # pictures that are copied to a GPU at once


class Inputs(Sequence[Tensor]):
    """Pictures (h, w, 3) uint8 as tensors (3, h, w) in [0, 1] on a device, each made on demand."""

    def __init__(self, pictures: Sequence[np.ndarray], device: torch.device):
        self._pictures, self._device = pictures, device

    def __len__(self) -> int:
        return len(self._pictures)

    @overload
    def __getitem__(self, i: int) -> Tensor: ...

    @overload
    def __getitem__(self, i: slice) -> Inputs: ...

    def __getitem__(self, i: int | slice) -> Tensor | Inputs:
        if isinstance(i, slice):
            return Inputs(self._pictures[i], self._device)
        return _scaled(torch.from_numpy(self._pictures[i]).to(self._device).permute(2, 0, 1))

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def stacked(self, first: int, end: int) -> Tensor:
        """Those of one size from `first` to before `end` as (n, 3, h, w), in few operations, as a GPU needs them. NumPy
        copies them on one core: torch's threads would wait for each other where cores are busy.
        """
        some = torch.from_numpy(np.stack(self._pictures[first:end]))
        return _scaled(some.to(self._device).permute(0, 3, 1, 2))


def _scaled(pixels: Tensor) -> Tensor:
    return pixels.float().div_(255)


def inputs(backbone: object, pictures: Sequence[np.ndarray], device: torch.device) -> Sequence[Tensor]:
    """The argument of `predict`: a list, or for a stream one picture at a time."""
    found = Inputs(pictures, device)
    if isinstance(backbone, Streaming):
        return found
    if device.type == "cpu" or len({rgb.shape for rgb in pictures}) > 1:
        return list(found)
    return [image for first in range(0, len(pictures), TOGETHER) for image in found.stacked(first, first + TOGETHER)]


def notes(backbone: object, pictures: Sequence[np.ndarray]) -> list[str]:
    """Lines on the memory that a stream will need."""
    if not isinstance(backbone, Streaming):
        return []
    height, width = (max(picture.shape[axis] for picture in pictures) for axis in (0, 1))
    size = backbone.stream_memory(height, width, len(pictures)) / 2**30
    return [f"stream of {len(pictures)} frames of {width}x{height} pixels: {size:.2f} GiB for what is kept of them"]
