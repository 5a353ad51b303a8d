"""Training with FP8-rounded weights: E4M3 in the forward and backward pass, full precision in the update."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lite3r_cli.quant.fp8 import round_to_fp8


class RoundedWeights:
    """A context in which every parameter that will be stored as FP8 holds its rounded value.

    Gradients computed inside are applied to the exact values by the optimiser outside: a straight-through estimator
    (Bengio et al., arXiv 1308.3432).
    """

    def __init__(self, model: nn.Module):
        # rows of one shape are rounded together, for fewer kernel launches
        by_row: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
        for p in model.parameters():
            if p.ndim >= 2:
                by_row[p.shape[1:]].append(p)
        self.groups = list(by_row.values())

    @contextlib.contextmanager
    def __call__(self, enabled: bool) -> Iterator[None]:
        if not enabled:
            yield
            return
        with torch.no_grad():
            exact = [torch.cat(tuple(group)) for group in self.groups]
            for group, rows in zip(self.groups, exact):
                _write(group, round_to_fp8(rows))
        try:
            yield
        finally:
            with torch.no_grad():
                for group, rows in zip(self.groups, exact):
                    _write(group, rows)


def _write(group: list[nn.Parameter], rows: Tensor) -> None:
    torch._foreach_copy_(tuple(group), list(rows.split([len(p) for p in group])))
