"""Sparse-linear attention as a part of a network: it takes a dense attention module's place and keeps its weights."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lite3r_cli.attention.dispatch import Formula, choose_backend, sparse_linear
from lite3r_cli.attention.reference import BLOCK, sparse_linear_attention
from lite3r_cli.attention.tiling import Frames, Layout, frame_layout, packed_layout
from lite3r_cli.errors import UsageError
from lite3r_cli.layers.vit import Attention
from lite3r_cli.runtime import Choice

METADATA_KEY = "attention"  # of a checkpoint: which modules are sparse-linear, and their settings
PROJECTION = "proj_lin.weight"
MIXES = ("sum", "convex")  # of the two branches, see `dispatch`
PROTECT = ("none", "specials", "reference")  # tokens critical to every query; the last are special ones and a frame
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
    protect: str = "specials"  # one of PROTECT
    tiles: bool = False  # blocks are rectangles of patches, not runs
    walk: bool = False  # nearly so, and all but full: with `tiles`, see `layout.py`
    summaries: bool = False  # blocks that are not kept count in the exact branch as one token each
    key_block: int | None = None  # tokens of a block of keys; None: as many as of queries
    scores: str = "pooled"  # what tells the blocks to keep: "pooled" or "mass", see `block_map`

    def __post_init__(self) -> None:
        if not 0 < self.keep_ratio <= 1:
            raise UsageError(f"the keep ratio must lie above 0 and at most at 1, not {self.keep_ratio}")
        for size in (self.block, self.key_block):
            if size is not None and size < 1:
                raise UsageError(f"a block of attention must have at least one token, not {size}")
        if self.official and self.key_block not in (None, self.block):
            raise UsageError("official checkpoints have key blocks of as many tokens as query blocks")
        if self.mix not in MIXES:
            raise UsageError(f"the branches are mixed by {' or '.join(MIXES)}, not {self.mix!r}")
        if self.protect not in PROTECT:
            raise UsageError(f"protected are {', '.join(PROTECT)}, not {self.protect!r}")
        if len(self.keep_ratios) not in (0, len(self.layers)):
            raise UsageError(f"{len(self.keep_ratios)} keep ratios were given for {len(self.layers)} sparse layers")
        for layer in self.layers or ("",):
            self.formula(layer)

    def formula(self, layer: str) -> Formula:
        """What the attention module of this name computes."""
        own = dict(zip(self.layers, self.keep_ratios)) if self.keep_ratios else {}
        ratio = own.get(layer, self.keep_ratio)
        return Formula(ratio, self.drop_ratio, self.feature, self.linear_over, self.summaries, self.scores)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SparseConfig:
        sequences = {name: tuple(values[name]) for name in ("layers", "keep_ratios") if name in values}
        return cls(**{**values, **sequences})


class SparseLinearAttention(Attention):
    """A dense Attention's weights and what mixes the linear branch in: `proj_lin`, its projection, without effect while
    it is zero; or, in the convex mix, `mix_logit` (H,) with α = sigmoid(mix_logit).

    A network tells the frames of its tokens with `set_frames` before a forward pass; otherwise, and in official
    checkpoints, blocks are runs of tokens. After it, `skipped` holds the share of key blocks that were not computed, a
    scalar tensor, and `choice` the back end and why. `backend` and `crossover` are what `choose_backend` is asked.
    """

    def __init__(self, dense: Attention, config: SparseConfig, name: str = ""):
        nn.Module.__init__(self)
        self.heads = dense.heads
        self.layout: Layout | None = None
        self.backend = "auto"
        self.crossover: int | None = 0
        self.choice: Choice | None = None
        self.skipped: Tensor | None = None
        self.qkv, self.proj, self.q_norm, self.k_norm = dense.qkv, dense.proj, dense.q_norm, dense.k_norm
        width = dense.proj.in_features // dense.heads
        like = dense.proj.weight
        if config.mix == "convex":
            self.mix_logit = nn.Parameter(torch.full((dense.heads,), START_LOGIT, device=like.device))
        else:
            # without torch's random values: zeros follow, or a checkpoint's
            self.proj_lin = nn.utils.skip_init(
                nn.Linear, width, width, bias=False, device=like.device, dtype=like.dtype
            )
            if not like.is_meta:
                nn.init.zeros_(self.proj_lin.weight)
        if config.official:
            self.lam = nn.Parameter(torch.zeros((), device=like.device))
        self.configure(config, name)

    def configure(self, config: SparseConfig, name: str) -> None:
        """Other settings for the same parameters. Raises UsageError for another mix, which has others."""
        if hasattr(self, "mix_logit") != (config.mix == "convex"):
            raise UsageError(f"{name}: was not trained for the {config.mix} mix of its branches")
        self.config, self.formula = config, config.formula(name)
        self._keeps_all = replace(self.formula, summaries=False, scores="pooled") == Formula()

    def set_frames(self, frames: tuple[Frames, ...], reference: Tensor | int, device: torch.device) -> None:
        """The frames of the sequence to come and which of them is the reference: an index, or (B, frames) bool."""
        config = self.config
        if config.official:
            return
        if not config.tiles:
            frames = tuple(replace(group, grid=None) for group in frames)
        if config.protect != "reference":
            reference = None
        known = 0 if isinstance(reference, Tensor) else reference
        layout = frame_layout(
            frames, config.block, known, config.protect != "none", device, config.key_block, config.walk
        )
        self.layout = layout.with_reference(reference) if isinstance(reference, Tensor) else layout

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weight = None if self.config.mix == "convex" else self.proj_lin.weight.to(v.dtype)
        alpha = self.mix_logit.sigmoid() if weight is None else None
        self.choice = choose_backend(self.backend, q.device, q.shape[2], self.crossover, q.shape[3])
        if self.choice.chosen != "dense" and self._keeps_all and weight is not None:
            self.skipped = q.new_zeros(())
            return sparse_linear_attention(q, k, v, weight)  # dense plus the linear branch
        layout = self.layout
        if layout is None:
            layout = packed_layout(q.shape[2], self.config.block, q.device, self.config.key_block)
        elif len(layout.occupants) != q.shape[2]:  # of an earlier forward pass
            raise ValueError(
                f"attention over {q.shape[2]} tokens, but set_frames told of {len(layout.occupants)}: "
                "it goes before every forward pass"
            )
        out, blocks = sparse_linear(q, k, v, self.formula, weight, alpha, layout, self.choice.chosen)
        self.skipped = q.new_zeros(()) if blocks is None else blocks.skipped
        return out

    def extra_repr(self) -> str:
        mix = f"{self.config.mix}, {self.formula.feature} over {self.formula.linear_over}"
        sizes = "×".join(str(size) for size in (self.config.block, self.config.key_block) if size)
        return f"keep_ratio={self.formula.keep_ratio:.4g}, block={sizes}, {mix}"


def attention_modules(model: nn.Module) -> dict[str, Attention]:
    """Name → module of every attention in a network."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Attention)}


def set_frames(
    modules: Iterable[Attention], frames: Iterable[Frames], reference: Tensor | int, device: torch.device
) -> None:
    """Tell the sparse-linear ones among a network's attention modules across views what their tokens are: frames in the
    order of the sequence, and which of them is the reference: an index, or (B, frames) bool.
    """
    frames = tuple(frames)
    for module in modules:
        if isinstance(module, SparseLinearAttention):
            module.set_frames(frames, reference, device)


def attach(model: nn.Module, config: SparseConfig) -> None:
    """Put sparse-linear attention in the place of the modules named in `config.layers`; those that are sparse-linear
    already keep their parameters. Raises KeyError for modules that are not there, UsageError for another mix.
    """
    found = attention_modules(model)
    for name in config.layers:
        if isinstance(found[name], SparseLinearAttention):
            found[name].configure(config, name)
        else:
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, SparseLinearAttention(found[name], config, name))


def layers_in(names: Iterable[str]) -> tuple[str, ...]:
    """The modules that have a linear branch, from the names of a checkpoint's tensors."""
    return tuple(sorted(name[: -len(PROJECTION) - 1] for name in names if name.endswith(f".{PROJECTION}")))
