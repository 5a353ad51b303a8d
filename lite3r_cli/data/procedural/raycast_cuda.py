"""The CUDA ray caster: compiles raycast.cu with CuPy (NVRTC) and runs it on torch tensors and torch's stream."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

import numpy as np
import torch

from lite3r_cli.data.procedural.scene import MAX_PRIMITIVES, SceneBatch
from lite3r_cli.errors import BackendError

TILE = 16


INCLUDE = re.compile(r'^#include "(\w+\.cuh)"$', re.MULTILINE)


def kernel_source(name: str = "raycast.cu", seen: set[str] | None = None) -> str:
    """The text of raycast.cu with each of its headers inserted once, so that NVRTC needs no include path."""
    seen = set() if seen is None else seen
    if name in seen:
        return ""
    seen.add(name)
    text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8").replace("#pragma once\n", "")
    return INCLUDE.sub(lambda match: kernel_source(match[1], seen), text)


@cache
def _kernel(device: int):
    """CuPy and the kernel, compiled once per process and device. Raises BackendError without CuPy."""
    try:
        import cupy
    except ImportError as error:
        raise BackendError(
            "the CUDA ray caster needs CuPy: pip install 'lite3r[train]' (or render on --device cpu)"
        ) from error
    source = kernel_source()
    with cupy.cuda.Device(device):
        return cupy, cupy.RawKernel(source, "raycast", options=("--std=c++14",))


def raycast(
    batch: SceneBatch,
    atlas: torch.Tensor,
    cameras: torch.Tensor,
    height: int,
    width: int,
    samples: int,
    bias: float,
    seed: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As raycast_torch.raycast, for contiguous tensors on a CUDA device; asynchronous on torch's current stream.

    Raises BackendError without CuPy, ValueError for tensors elsewhere or more than MAX_PRIMITIVES primitives.
    """
    device = batch.device.index if batch.device.index is not None else torch.cuda.current_device()
    b, s = cameras.shape[:2]
    primitives = batch.geometry.shape[1]
    if primitives > MAX_PRIMITIVES:
        raise ValueError(f"{primitives} primitives in a scene; the kernel holds at most {MAX_PRIMITIVES}")
    tensors = [batch.geometry, batch.material, batch.environment, cameras, batch.counts, atlas]
    if any(t.device != batch.device or not t.is_contiguous() for t in tensors):
        raise ValueError("scenes, cameras and atlas must be contiguous tensors on one device")
    cupy, kernel = _kernel(device)
    image = torch.empty((b, s, 3, height, width), device=batch.device)
    depth = torch.empty((b, s, height, width), device=batch.device)
    arguments: list[np.generic] = [np.uintp(t.data_ptr()) for t in (*tensors, image, depth)]
    arguments += [np.int32(x) for x in (primitives, s, height, width, samples)]
    arguments += [np.float32(bias), np.uint32(seed & 0xFFFFFFFF)]
    grid = (-(-width // TILE), -(-height // TILE), b * s)
    with cupy.cuda.Device(device), cupy.cuda.ExternalStream(torch.cuda.current_stream(device).cuda_stream):
        kernel(grid, (TILE, TILE), tuple(arguments))
    return image, depth
