"""Load a network's weights from a checkpoint, tensor by tensor: peak memory is the network plus a few tensors."""

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
AHEAD = 1 << 26  # bytes to read ahead


def load_values(
    model: Network, source: Source, spec: CheckpointSpec, device: torch.device, dtype: torch.dtype
) -> Network:
    """Load the weights into `model`, on `device`, and return it in evaluation mode. Weights are float32, except those
    of the trunk's matrix products if `dtype` is half precision. Raises WeightsError.
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
    """Yield the stored tensors in order; threads read ahead meanwhile. Raises WeightsError."""
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
    """Names of the weights and biases of the matrix products in the trunk."""
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
