"""From a checkpoint to a network ready to run, strictly, tensor by tensor: the peak is the network and one tensor."""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lite3r_cli.attention import module as attention
from lite3r_cli.checkpoints.metadata import SCALE_SUFFIX
from lite3r_cli.checkpoints.sources import Source
from lite3r_cli.checkpoints.weights import read_float, require_names
from lite3r_cli.errors import Lite3RError, WeightsError
from lite3r_cli.layers.buckets import HALF_PRECISION
from lite3r_cli.layers.unfilled import unfilled
from lite3r_cli.networks.family import trunk_of
from lite3r_cli.networks.recognise import Layout, recognise

OFFICIAL_KEEP_RATIO = 0.3  # of Lite3R's published checkpoints, which do not say it themselves


def layout_of(source: Source) -> Layout:
    """Which network a checkpoint holds. Raises WeightsError."""
    shapes = {name: entry.shape for name, entry in source.entries.items() if not name.endswith(SCALE_SUFFIX)}
    return recognise(shapes, source.metadata, source.path)


def sparse_config_of(source: Source, layout: Layout) -> attention.SparseConfig | None:
    """The sparse-linear attention of a checkpoint: from its metadata, else (official ones) from its tensors."""
    layers = attention.layers_in(layout.sources)
    if not layers and attention.METADATA_KEY not in source.metadata:
        return None
    try:
        if attention.METADATA_KEY in source.metadata:
            return attention.SparseConfig.from_dict(json.loads(source.metadata[attention.METADATA_KEY]))
        official = f"{layers[0]}.{attention.UNUSED}" in layout.sources
        return attention.SparseConfig(layers, OFFICIAL_KEEP_RATIO if official else 1.0, official=official)
    except (ValueError, KeyError, TypeError, Lite3RError) as error:
        raise WeightsError(
            f"{source.path}: its metadata holds no readable `{attention.METADATA_KEY}` ({error})"
        ) from error


def build(source: Source, layout: Layout) -> nn.Module:
    """The network of a checkpoint without its values. Raises WeightsError if the tensors do not fit it."""
    with unfilled():
        model = layout.build()
        sparse = sparse_config_of(source, layout)
        if sparse is not None:
            try:
                attention.attach(model, sparse)
            except (KeyError, AttributeError) as error:
                raise WeightsError(
                    f"{source.path}: sparse-linear attention for {error}, which {layout.name} has not"
                ) from error
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: source.entries[stored].shape for name, stored in layout.sources.items()}
    require_names(expected, found, source.path, layout.name)
    return model


def load_values(
    model: nn.Module, source: Source, layout: Layout, device: torch.device, dtype: torch.dtype
) -> nn.Module:
    """Give the network its values on a device: float32, but the trunk's matrix products in `dtype`
    where that is half precision.
    """
    half = _product_names(model) if dtype in HALF_PRECISION else set()
    users: dict[str, list[str]] = {}
    for name in model.state_dict():
        users.setdefault(layout.sources[name], []).append(name)
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


def load_model(source: Source, device: torch.device, dtype: torch.dtype) -> tuple[nn.Module, Layout]:
    """A network in evaluation mode and what its checkpoint was. Raises WeightsError."""
    layout = layout_of(source)
    return load_values(build(source, layout), source, layout, device, dtype), layout


def left_out_notices(left_out: Mapping[str, list[str]]) -> list[str]:
    """One line for each kind of tensor that is not loaded on purpose."""
    return [f"not loaded: {why}, {len(names)} tensors" for why, names in left_out.items()]
