"""Sparse-linear attention as a part of a network: it takes a dense attention module's place and keeps its weights."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lite3r_cli.attention.reference import BLOCK, sparse_linear_attention
from lite3r_cli.backbones.vit import Attention
from lite3r_cli.errors import UsageError

METADATA_KEY = "attention"  # of a checkpoint: which modules are sparse-linear, and their settings
PROJECTION = "proj_lin.weight"
UNUSED = "lam"  # a scalar of the official checkpoints that their formula never reads


@dataclass(frozen=True)
class SparseConfig:
    layers: tuple[str, ...]  # names of the attention modules
    keep_ratio: float = 1.0  # share of key blocks that get exact attention
    block: int = BLOCK  # tokens
    official: bool = False  # the modules hold the unused scalar of the official checkpoints

    def __post_init__(self) -> None:
        if not 0 < self.keep_ratio <= 1:
            raise UsageError(f"the keep ratio must lie above 0 and at most at 1, not {self.keep_ratio}")
        if self.block < 1:
            raise UsageError(f"a block of attention must have at least one token, not {self.block}")

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SparseConfig:
        return cls(**{**values, "layers": tuple(values["layers"])})


class SparseLinearAttention(Attention):
    """A dense Attention's weights and `proj_lin`, the linear branch's projection: without effect while it is zero."""

    def __init__(self, dense: Attention, config: SparseConfig):
        nn.Module.__init__(self)
        self.heads, self.config = dense.heads, config
        self.qkv, self.proj, self.q_norm, self.k_norm = dense.qkv, dense.proj, dense.q_norm, dense.k_norm
        width = dense.proj.in_features // dense.heads
        like = dense.proj.weight
        self.proj_lin = nn.Linear(width, width, bias=False, device=like.device, dtype=like.dtype)
        if not like.is_meta:
            nn.init.zeros_(self.proj_lin.weight)
        if config.official:
            self.lam = nn.Parameter(torch.zeros((), device=like.device))

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weight = self.proj_lin.weight.to(v.dtype)
        return sparse_linear_attention(q, k, v, weight, self.config.keep_ratio, self.config.block)

    def extra_repr(self) -> str:
        return f"keep_ratio={self.config.keep_ratio}, block={self.config.block}"


def attention_modules(model: nn.Module) -> dict[str, Attention]:
    """Name → module of every attention in a network."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Attention)}


def attach(model: nn.Module, config: SparseConfig) -> None:
    """Put sparse-linear attention in the place of the dense modules named in
    `config.layers`. Raises KeyError for others.
    """
    found = attention_modules(model)
    for name in config.layers:
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, SparseLinearAttention(found[name], config))


def layers_in(names: Iterable[str]) -> tuple[str, ...]:
    """The modules that have a linear branch, from the names of a checkpoint's tensors."""
    return tuple(sorted(name[: -len(PROJECTION) - 1] for name in names if name.endswith(f".{PROJECTION}")))
