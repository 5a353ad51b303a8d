"""Networks without values, for those that get theirs from a checkpoint or are looked at for their sizes alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

# On the meta device torch computes all of these by way of its compiler, whose import takes seconds.
FACTORIES = {torch.randn, torch.rand}
INITIALISERS = {"uniform_", "normal_", "trunc_normal_", "kaiming_uniform_", "xavier_uniform_"}
SCALINGS = {"mul", "mul_", "__mul__", "__rmul__"}


class _Undrawn(TorchFunctionMode):
    """Random factories give tensors without values; initialisers and products with numbers leave a tensor as it is."""

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in INITIALISERS:
            return args[0] if args else kwargs["tensor"]
        if name in SCALINGS and isinstance(args[1], float):
            return args[0]
        return (torch.empty if func in FACTORIES else func)(*args, **kwargs)


@contextmanager
def unfilled() -> Iterator[None]:
    """Within, modules are built on the meta device: with names and shapes, without memory and values."""
    with torch.device("meta"), _Undrawn():
        yield
