"""Which FP8 back ends a device has, and replacing a network's linear layers by FP8 ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from lite3r_cli.errors import UsageError
from lite3r_cli.quant import te
from lite3r_cli.quant.linear import FakeQuantLinear, FP8Linear

MULTIPLE = 16  # FP8 kernels need both sides of a weight to be multiples of this

Filter = Callable[[str, nn.Linear], bool]


def scaled_mm_reason(device: torch.device) -> str | None:
    """Why torch._scaled_mm with row-wise scales cannot run on `device`; None if it can."""
    if device.type != "cuda":
        return f"a {device.type.upper()} has no FP8 arithmetic"
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) < (9, 0):
        return f"compute capability {major}.{minor}, row-wise scales need 9.0"
    return None


def fits(module: nn.Linear) -> bool:
    """Whether FP8 kernels support the size of this layer."""
    return module.in_features % MULTIPLE == 0 and module.out_features % MULTIPLE == 0


def swap_linears(model: nn.Module, backend: str, skip: Filter | None = None) -> dict[str, str]:
    """Replace the linear layers of `model` in place. `backend` is "emulate", "scaled-mm", "te", or "fake-quant" for
    training. `skip(name, layer)` returns True for layers that must not be replaced.

    Returns name → reason for each layer that was not replaced. Subclasses of Linear are left alone silently, except
    those with a `bias_mask`. Raises UsageError for an unknown back end or if `model` itself is a linear layer.
    """
    makers: dict[str, Callable[[nn.Linear], nn.Module]] = {
        "emulate": lambda layer: FP8Linear(layer, "emulate"),
        "scaled-mm": lambda layer: FP8Linear(layer, "scaled-mm"),
        "te": te.TELinear,
        "fake-quant": FakeQuantLinear.of,
    }
    if backend not in makers:
        raise UsageError(f"linear layers can become {', '.join(makers)}, not {backend!r}")
    kept: dict[str, str] = {}
    for name, layer in [(n, m) for n, m in model.named_modules() if type(m) is nn.Linear or hasattr(m, "bias_mask")]:
        if skip is not None and skip(name, layer):
            kept[name] = "kept in high precision"
        elif not fits(layer):
            kept[name] = f"{layer.in_features} × {layer.out_features} is not a multiple of {MULTIPLE}"
        elif name == "":
            raise UsageError("a single linear layer has no parent to be swapped in")
        else:
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, makers[backend](layer).train(layer.training))
    return kept
