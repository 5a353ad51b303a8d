"""The same work for each view of a set."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch

from ..layers.lone_threads import lone_threads

T = TypeVar("T")


def each_view(views: Iterable[int], device: torch.device, work: Callable[[int], T]) -> dict[int, T]:
    """`work` of each view, by its number. On a CPU views are beside each other, each on one core: operations on small
    maps do not gain from more.
    """
    numbers = list(views)
    if device.type != "cpu":
        return {i: work(i) for i in numbers}
    found = lone_threads(torch.get_num_threads()).map(torch.inference_mode()(work), numbers)
    return dict(zip(numbers, found, strict=True))
