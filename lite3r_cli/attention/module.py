"""Sparse-linear attention as a part of a network: it takes a dense attention module's place and keeps its weights."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lite3r_cli.attention.dispatch import Formula, sparse_linear
from lite3r_cli.attention.layout import Layout, packed_layout
from lite3r_cli.attention.reference import BLOCK, sparse_linear_attention
from lite3r_cli.backbones.vit import Attention
from lite3r_cli.errors import UsageError

METADATA_KEY = "attention"  # of a checkpoint: which modules are sparse-linear, and their settings
PROJECTION = "proj_lin.weight"
MIXES = ("sum", "convex")  # of the two branches, see `dispatch`
START_LOGIT = 6.0  # of α in the convex mix: 0.9975, nearly without effect and still with a gradient
UNUSED = "lam"  # a scalar of the official checkpoints that their formula never reads


@dataclass(frozen=True)
class SparseConfig:
    layers: tuple[str, ...]  # names of the attention modules
    keep_ratio: float = 1.0  # share of key blocks that get exact attention
    block: int = BLOCK  # tokens
    official: bool = False  # the modules hold the unused scalar of the official checkpoints
    keep_ratios: tuple[float, ...] = ()  # of each layer, in the order of `layers`; empty: `keep_ratio` for all
    drop_ratio: float = 0.0  # share of key blocks that nobody sees
    feature: str = "elu"  # φ of the linear branch
    linear_over: str = "all"  # tokens of the linear branch: "all" or "rest"
    mix: str = "sum"  # one of MIXES

    def __post_init__(self) -> None:
        if not 0 < self.keep_ratio <= 1:
            raise UsageError(f"the keep ratio must lie above 0 and at most at 1, not {self.keep_ratio}")
        if self.block < 1:
            raise UsageError(f"a block of attention must have at least one token, not {self.block}")
        if self.mix not in MIXES:
            raise UsageError(f"the branches are mixed by {' or '.join(MIXES)}, not {self.mix!r}")
        if len(self.keep_ratios) not in (0, len(self.layers)):
            raise UsageError(f"{len(self.keep_ratios)} keep ratios were given for {len(self.layers)} sparse layers")
        for layer in self.layers or ("",):
            self.formula(layer)

    def formula(self, layer: str) -> Formula:
        """What the attention module of this name computes."""
        own = dict(zip(self.layers, self.keep_ratios)) if self.keep_ratios else {}
        return Formula(own.get(layer, self.keep_ratio), self.drop_ratio, self.feature, self.linear_over)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SparseConfig:
        sequences = {name: tuple(values[name]) for name in ("layers", "keep_ratios") if name in values}
        return cls(**{**values, **sequences})


class SparseLinearAttention(Attention):
    """A dense Attention's weights and what mixes the linear branch in: `proj_lin`, its projection, without effect while
    it is zero; or, in the convex mix, `mix_logit` (H,) with α = sigmoid(mix_logit).

    `layout` may be set before a forward pass: which tokens form blocks, which are protected; None: runs of tokens.
    After it, `skipped` holds the share of key blocks that were not computed, a scalar tensor.
    """

    def __init__(self, dense: Attention, config: SparseConfig, name: str = ""):
        nn.Module.__init__(self)
        self.heads, self.config, self.formula = dense.heads, config, config.formula(name)
        self.layout: Layout | None = None
        self.backend = "torch"
        self.skipped: Tensor | None = None
        self.qkv, self.proj, self.q_norm, self.k_norm = dense.qkv, dense.proj, dense.q_norm, dense.k_norm
        width = dense.proj.in_features // dense.heads
        like = dense.proj.weight
        if config.mix == "convex":
            self.mix_logit = nn.Parameter(torch.full((dense.heads,), START_LOGIT, device=like.device))
        else:
            self.proj_lin = nn.Linear(width, width, bias=False, device=like.device, dtype=like.dtype)
            if not like.is_meta:
                nn.init.zeros_(self.proj_lin.weight)
        if config.official:
            self.lam = nn.Parameter(torch.zeros((), device=like.device))

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weight = None if self.config.mix == "convex" else self.proj_lin.weight.to(v.dtype)
        alpha = self.mix_logit.sigmoid() if weight is None else None
        if self.layout is None and self.formula == Formula() and weight is not None:  # dense plus the linear branch
            self.skipped = q.new_zeros(())
            return sparse_linear_attention(q, k, v, weight)
        layout = packed_layout(q.shape[2], self.config.block) if self.layout is None else self.layout
        out, blocks = sparse_linear(q, k, v, self.formula, weight, alpha, layout, self.backend)
        self.skipped = q.new_zeros(()) if blocks is None else blocks.skipped
        return out

    def extra_repr(self) -> str:
        mix = f"{self.config.mix}, {self.formula.feature} over {self.formula.linear_over}"
        return f"keep_ratio={self.formula.keep_ratio:.4g}, block={self.config.block}, {mix}"


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
        setattr(model.get_submodule(parent), leaf, SparseLinearAttention(found[name], config, name))


def layers_in(names: Iterable[str]) -> tuple[str, ...]:
    """The modules that have a linear branch, from the names of a checkpoint's tensors."""
    return tuple(sorted(name[: -len(PROJECTION) - 1] for name in names if name.endswith(f".{PROJECTION}")))
