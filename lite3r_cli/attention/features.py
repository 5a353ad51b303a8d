"""Feature maps φ of the linear branch. They are non-negative, so that the output is a weighted mean of the values."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

FEATURES: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda x: x.softmax(dim=-1),
    "elu": lambda x: F.elu(x) + 1,
    "relu": F.relu,
}


def widened(x: Tensor) -> Tensor:
    """x in float32, or in float64 if it is float64: sums over all tokens lose too much in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
