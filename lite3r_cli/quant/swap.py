"""Which FP8 arithmetic a device has, and putting it in the place of a network's linear layers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from lite3r_cli.errors import UsageError
from lite3r_cli.quant import te
from lite3r_cli.quant.linear import FakeQuantLinear, FP8Linear

MULTIPLE = 16  # of both sides of a weight, for FP8 kernels

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
    """Whether FP8 kernels take a layer of this size."""
    return module.in_features % MULTIPLE == 0 and module.out_features % MULTIPLE == 0


def swap_linears(model: nn.Module, backend: str, keep: Filter | None = None) -> dict[str, str]:
    """Replace the linear layers of `model`, in place, by those of `backend`: "emulate", "scaled-mm", "te", or
    "fake-quant" for training. `keep(name, layer)` returns True for layers that must not be replaced.

    Returns for each layer that was not replaced its name and the reason. Subclasses of Linear are not replaced either,
    except those that mask their bias.
    """
    makers: dict[str, Callable[[nn.Linear], nn.Module]] = {
        "emulate": lambda layer: FP8Linear(layer, "emulate"),
        "scaled-mm": lambda layer: FP8Linear(layer, "scaled-mm"),
        "te": te.TELinear,
        "fake-quant": FakeQuantLinear.of,
    }
    if backend not in makers:
        raise UsageError(f"linear layers can become {', '.join(makers)}, not {backend!r}")
    stay: dict[str, str] = {}
    for name, layer in [(n, m) for n, m in model.named_modules() if type(m) is nn.Linear or hasattr(m, "bias_mask")]:
        if keep is not None and keep(name, layer):
            stay[name] = "kept in high precision"
        elif not fits(layer):
            stay[name] = f"{layer.in_features} × {layer.out_features} is not a multiple of {MULTIPLE}"
        elif name == "":
            raise UsageError("a single linear layer has no parent to be swapped in")
        else:
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, makers[backend](layer).train(layer.training))
    return stay
