"""Build networks without values, when a checkpoint provides the values or when only the shapes are needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

# On the meta device torch computes all of these with its compiler, whose import takes seconds.
FACTORIES = {torch.randn, torch.rand}
LIKE = {torch.empty_like, torch.zeros_like, torch.ones_like, torch.full_like, torch.rand_like, torch.randn_like}
INITIALISERS = {"uniform_", "normal_", "trunc_normal_", "kaiming_uniform_", "xavier_uniform_"}
ARITHMETIC = {"mul", "div", "truediv", "pow", "add", "sub"}


class _Undrawn(TorchFunctionMode):
    """Factories return tensors without values; initialisers and arithmetic with scalars return the tensor unchanged."""

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in INITIALISERS:
            return args[0] if args else kwargs["tensor"]
        if func in LIKE:
            asked = {key: value for key, value in kwargs.items() if key in ("device", "dtype")}
            given = {"dtype": args[0].dtype} | asked
            return torch.empty(args[0].shape, **given)
        if func is torch.arange and "out" not in kwargs:
            given = {key: value for key, value in kwargs.items() if key in ("device", "dtype")}
            return torch.empty(len(range(*args)) if all(isinstance(n, int) for n in args) else _steps(*args), **given)
        bare = name.strip("_")
        if bare in ARITHMETIC or bare.removeprefix("r") in ARITHMETIC:
            tensors = [value for value in args if isinstance(value, torch.Tensor)]
            if len(args) == 2 and len(tensors) == 1:
                return tensors[0]
        return (torch.empty if func in FACTORIES else func)(*args, **kwargs)


def _steps(start: float, end: float | None = None, step: float = 1.0) -> int:
    """The number of values of `torch.arange`."""
    start, end = (0.0, start) if end is None else (start, end)
    return max(0, math.ceil((end - start) / step))


@contextmanager
def unfilled() -> Iterator[None]:
    """Inside this context, modules are built on the meta device: with names and shapes, without memory or values."""
    with torch.device("meta"), _Undrawn():
        yield
