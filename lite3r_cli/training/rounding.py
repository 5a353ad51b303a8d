"""Training with the weights that will be stored: FP8 E4M3 in the forward and backward pass, full precision in the update."""

from __future__ import annotations

import contextlib
from typing import Iterator

import torch
from torch import nn

from lite3r_cli.quant.fp8 import round_to_fp8


class RoundedWeights:
    """Context in which every stored-as-FP8 parameter holds its rounded value (a straight-through gradient, Bengio et al. 2013).

    Gradients taken inside are those at the rounded weights; the optimiser, outside, moves the exact ones.
    """

    def __init__(self, model: nn.Module):
        self.parameters = [p for p in model.parameters() if p.ndim >= 2]

    @contextlib.contextmanager
    def __call__(self, enabled: bool) -> Iterator[None]:
        if not enabled:
            yield
            return
        with torch.no_grad():
            exact = [p.detach().clone() for p in self.parameters]
            for p in self.parameters:
                p.copy_(round_to_fp8(p))
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, exact)
