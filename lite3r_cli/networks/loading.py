"""The values of a network from its checkpoint, tensor by tensor: the peak is the network and a few tensors."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor, nn

from lite3r_cli.checkpoints.tensor_sources import Source
from lite3r_cli.checkpoints.weights import on_device, parts_of, require_sound
from lite3r_cli.layers.buckets import HALF_PRECISION
from lite3r_cli.networks.base import Network
from lite3r_cli.networks.family import trunk_of
from lite3r_cli.networks.recognise import CheckpointSpec

READERS = 4  # threads that read a checkpoint
AHEAD = 1 << 26  # bytes read before they are needed


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
    extremes: dict[str, Tensor] = {}
    for stored, parts in _read_ahead(source, [stored for stored in source.entries if stored in users]):
        value, extremes[stored] = on_device(source, stored, parts, device)
        for name in users[stored]:
            wanted = dtype if name in half else torch.float32
            _assign(model, name, value.to(wanted))
        del value, parts
    require_sound(source, extremes)
    model.compute_dtype = dtype
    return model.to(device).eval()


def _read_ahead(source: Source, names: Sequence[str]) -> Iterator[tuple[str, tuple[Tensor, Tensor | None]]]:
    """Tensors as stored, in order, read by threads while others are brought to the device. Raises WeightsError."""
    waiting: deque[tuple[str, Future[tuple[Tensor, Tensor | None]]]] = deque()
    held = 0  # bytes
    with ThreadPoolExecutor(READERS, thread_name_prefix="weights") as pool:
        try:
            for name in names:
                while waiting and held + source.entries[name].nbytes > AHEAD:
                    first, future = waiting.popleft()
                    held -= source.entries[first].nbytes
                    yield first, future.result()
                waiting.append((name, pool.submit(parts_of, source, name)))
                held += source.entries[name].nbytes
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


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
