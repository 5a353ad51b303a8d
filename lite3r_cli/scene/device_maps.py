"""Keeps depth and confidence on the device of the prediction, so that fusion need not copy them there again."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .surfaces import on_device

SHARE = 0.25  # of the free memory of a device that these maps may use


class DeviceMaps:
    """Arrays of views with a tensor of the same values for each. Other arrays, of views that were moved or refined
    since, are copied on demand.
    """

    def __init__(self) -> None:
        self._held: dict[int, tuple[np.ndarray, Tensor]] = {}  # by id() of the array, which is kept alive

    def hold(self, array: np.ndarray, tensor: Tensor) -> None:
        """Keep a tensor for this array, unless it is on the CPU, where the array is enough."""
        if tensor.device.type != "cpu":
            self._held[id(array)] = array, tensor

    def of(self, array: np.ndarray, device: torch.device | str) -> Tensor:
        """The array as a tensor of the same type and shape on a device."""
        _, held = self._held.get(id(array), (None, None))
        if held is not None and held.device == torch.device(device):
            return held
        return on_device(array, device)

    def drop(self, array: np.ndarray | None) -> None:
        """Free the memory of the tensor for this array, if there is one."""
        self._held.pop(id(array), None)

    def release(self) -> None:
        """Free the memory."""
        self._held.clear()


def has_room(device: torch.device, size: int) -> bool:
    """Whether `size` bytes of maps may stay on a device."""
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return size <= SHARE * (free + unused)
