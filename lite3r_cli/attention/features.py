"""Feature maps φ of the linear branch: positive, so that its weights are an average's."""

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
    """In float32 or better: sums over all tokens lose too much in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
