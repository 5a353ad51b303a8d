"""Stand-in weights and images that depend only on names, shapes and a seed, to compare two implementations."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


def tensor_for(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """The values of one tensor, float32, from standard normal values n of its shape:

    `gamma` 0.3 + n/20; tokens and position embeddings n/5; biases n/50; other vectors 1 + n/10; the rest n / √fan-in.
    """
    generator = np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))
    n = generator.standard_normal(shape, dtype=np.float32) if shape else np.float32(generator.standard_normal())
    return torch.from_numpy(np.asarray(spread_out(name, shape, n), dtype=np.float32).reshape(shape))


def spread_out(name: str, shape: tuple[int, ...], n: Any) -> Any:
    """The formula of `tensor_for`: standard normal values `n` (array or tensor) → values of the tensor `name`."""
    leaf = name.rsplit(".", 1)[-1]
    if "gamma" in leaf:
        return 0.3 + 0.05 * n
    if "token" in leaf or "pos_embed" in leaf:
        return 0.2 * n
    if leaf.startswith("bias"):
        return 0.02 * n
    if len(shape) <= 1:
        return 1 + 0.1 * n
    return n / math.sqrt(math.prod(shape[1:]))


def fill(model: nn.Module, seed: int, constants: Mapping[str, Tensor] = MappingProxyType({})) -> None:
    """Set every tensor of the model's state dict to its stand-in values, or to those in `constants`, in place. The
    model may be on the meta device.
    """
    state = model.state_dict()
    for name, tensor in state.items():
        given = constants.get(name)
        value = tensor_for(name, tuple(tensor.shape), seed) if given is None else given
        state[name] = value.to(tensor.dtype)
    model.load_state_dict(state, assign=True)


def image_batch(views: int, height: int, width: int, seed: int) -> Tensor:
    """Images (1, S, 3, H, W) in [0, 1]: 80 % enlarged low-resolution noise, 20 % pixel noise."""
    generator = np.random.Generator(np.random.PCG64([seed, 7]))
    coarse = generator.random((views, 3, max(2, height // 28), max(2, width // 28)), dtype=np.float32)
    fine = torch.from_numpy(generator.random((views, 3, height, width), dtype=np.float32))
    enlarged = F.interpolate(torch.from_numpy(coarse), (height, width), mode="bilinear", align_corners=False)
    return (0.8 * enlarged + 0.2 * fine)[None]
