"""Training with the weights that will be stored: FP8 E4M3 in the forward and backward pass, full precision in the
update.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lite3r_cli.quant.fp8 import round_to_fp8


class RoundedWeights:
    """Context in which every stored-as-FP8 parameter holds its rounded value (a straight-through gradient, Bengio et
    al. 2013).

    Gradients taken inside are those at the rounded weights; the optimiser, outside, moves the exact ones.
    """

    def __init__(self, model: nn.Module):
        by_row: dict[torch.Size, list[nn.Parameter]] = defaultdict(
            list
        )  # rows of one shape are rounded in one go: few launches
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
