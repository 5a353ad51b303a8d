"""The values of a network from its checkpoint, tensor by tensor: the peak is the network and one tensor."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lite3r_cli.checkpoints.sources import Source
from lite3r_cli.checkpoints.weights import read_float
from lite3r_cli.layers.buckets import HALF_PRECISION
from lite3r_cli.networks.base import Network
from lite3r_cli.networks.family import trunk_of
from lite3r_cli.networks.recognise import CheckpointSpec


def load_values(
    model: Network, source: Source, spec: CheckpointSpec, device: torch.device, dtype: torch.dtype
) -> Network:
    """Give the network its values on a device: float32, but the trunk's matrix products in `dtype`
    where that is half precision.
    """
    half = _product_names(model) if dtype in HALF_PRECISION else set()
    users: dict[str, list[str]] = {}
    for name in model.state_dict():
        users.setdefault(spec.sources[name], []).append(name)
    for stored in source.entries:
        if stored not in users:
            continue
        value = read_float(source, stored)
        for name in users[stored]:
            wanted = dtype if name in half else torch.float32
            _assign(model, name, value.to(device=device, dtype=wanted))
        del value
    model.compute_dtype = dtype
    return model.to(device).eval()


def _product_names(model: nn.Module) -> set[str]:
    """Weights and biases of the matrix products in the part of a network that may run in half precision."""
    trunk = trunk_of(model)
    if trunk is None:
        return set()
    parts = {id(m) for m in trunk.modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    return {
        f"{module_name}.{leaf}"
        for module_name, module in model.named_modules()
        if id(module) in parts
        for leaf, _ in module.named_parameters(recurse=False)
    }


def _assign(model: nn.Module, name: str, value: Tensor) -> None:
    parent, _, leaf = name.rpartition(".")
    module = model.get_submodule(parent)
    if leaf in module._parameters:
        module._parameters[leaf] = nn.Parameter(value)
    else:
        module._buffers[leaf] = value
