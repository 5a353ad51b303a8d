"""Record the outputs of attention modules during a forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

from torch import Tensor, nn

from lite3r_cli.attention.module import SparseLinearAttention, attention_modules
from lite3r_cli.errors import UsageError

SPARSE = "sparse"  # a pattern that means every sparse-linear module


def select_layers(student: nn.Module, patterns: Sequence[str]) -> tuple[str, ...]:
    """Names of the attention modules that match the patterns. Raises UsageError for a pattern without a match."""
    found = attention_modules(student)
    chosen: set[str] = set()
    for pattern in patterns:
        if pattern == SPARSE:
            hits = [name for name, module in found.items() if isinstance(module, SparseLinearAttention)]
        else:
            hits = [name for name in found if fnmatchcase(name, pattern)]
        if not hits:
            raise UsageError(
                f"--distill-layers {pattern}: no attention module has this name; one of them is {next(iter(found))}"
            )
        chosen.update(hits)
    return tuple(name for name in found if name in chosen)


@contextmanager
def captured(network: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Inside this context, a forward pass stores the output (B, T, C) of each attention module in
    `layers` in the dict.
    """
    outputs: dict[str, Tensor] = {}

    def keep(name: str):
        return lambda module, inputs, output: outputs.__setitem__(name, output)

    hooks = [network.get_submodule(name).register_forward_hook(keep(name)) for name in layers]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
