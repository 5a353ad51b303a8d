"""Sparse-linear attention as an nn.Module: it replaces a dense attention module and keeps its weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from lite3r_cli.attention.dispatch import choose_backend, packed_sparse_linear, sparse_linear
from lite3r_cli.attention.packed import PackedPlan, packed_plan
from lite3r_cli.attention.reference import dense_and_linear
from lite3r_cli.attention.sparse_config import Formula, SparseConfig
from lite3r_cli.attention.tiling import Frames, TokenTiling, frame_tiling, packed_tiling
from lite3r_cli.errors import UsageError
from lite3r_cli.layers.seen import Seen
from lite3r_cli.layers.view_shards import current, in_packed_order, own_heads
from lite3r_cli.layers.vit import Attention
from lite3r_cli.runtime import Choice

PROJECTION = "proj_lin.weight"
START_LOGIT = 6.0  # initial logit of α in the convex mix: α = 0.9975 has almost no effect but still a gradient
UNUSED = "lam"  # a scalar in the official checkpoints that their formula does not use


class SparseLinearAttention(Attention):
    """The weights of a dense Attention plus the parameters of the mix (see `dispatch.py`): for the sum `proj_lin`
    (D, D), zero at first; for the convex mix `mix_logit` (H,) with α = sigmoid(mix_logit).

    Before a forward pass, `set_frames` says which tokens belong to which frame. Without it, and in official
    checkpoints, blocks are runs of tokens. After the pass, `skipped` is the share of key blocks that were not computed
    (a scalar tensor), and `choice` the back end with its reason. `backend` and `crossover` are the arguments of
    `choose_backend`.
    """

    def __init__(self, dense: Attention, config: SparseConfig, name: str = ""):
        nn.Module.__init__(self)
        self.heads = dense.heads
        self.layout: TokenTiling | None = None
        self.plan: PackedPlan | None = None
        self.backend = "auto"
        self.crossover = 0  # below this many tokens attention is dense, see `pipelines/engine_choice.py`
        self.choice: Choice | None = None
        self.skipped: Tensor | None = None
        self.qkv, self.proj, self.q_norm, self.k_norm = dense.qkv, dense.proj, dense.q_norm, dense.k_norm
        width = dense.proj.in_features // dense.heads
        like = dense.proj.weight
        if config.mix == "convex":
            self.mix_logit = nn.Parameter(torch.full((dense.heads,), START_LOGIT, device=like.device))
        else:
            # skip torch's random initialisation: zeros or a checkpoint's values follow
            self.proj_lin = nn.utils.skip_init(
                nn.Linear, width, width, bias=False, device=like.device, dtype=like.dtype
            )
            if not like.is_meta:
                nn.init.zeros_(self.proj_lin.weight)
        if config.official:
            self.lam = nn.Parameter(torch.zeros((), device=like.device))
        self.configure(config, name)

    def configure(self, config: SparseConfig, name: str) -> None:
        """Change the settings. Raises UsageError for another mix, because its parameters are different."""
        if hasattr(self, "mix_logit") != (config.mix == "convex"):
            raise UsageError(f"{name}: was not trained for the {config.mix} mix of its branches")
        self.config, self.formula = config, config.formula(name)
        self._keeps_all = replace(self.formula, summaries=False, scores="pooled", keep_views=None) == Formula()

    def set_frames(self, frames: tuple[Frames, ...], reference: Tensor | int | None, device: torch.device) -> None:
        """The frames of the next sequence. `reference` is the index of the reference frame, or a mask (B, frames)."""
        config = self.config
        if config.official:
            return
        if config.packed:
            self.plan = packed_plan(frames, device, config.group, config.parts)
            return
        if not config.tiles:
            frames = tuple(replace(group, grid=None) for group in frames)
        if config.protect != "reference":
            reference = None
        known = 0 if isinstance(reference, Tensor) else reference
        layout = frame_tiling(
            frames, config.block, known, config.protect != "none", device, config.key_block, config.walk
        )
        self.layout = layout.with_reference(reference) if isinstance(reference, Tensor) else layout

    def mix(self, q: Tensor, k: Tensor, v: Tensor, keys: Tensor | None = None) -> Tensor:
        """Sparse-linear attention of q, k, v (B, H, N, D) → (B, H, N, D) with the back end chosen for this call.

        `keys` (M,) are indices of the only tokens that take part; None for all. Raises ValueError if `set_frames` was
        called for another number of tokens.
        """
        if keys is not None:
            return self._mix_some(q, k, v, keys)
        weight = None if self.config.mix == "convex" else self.proj_lin.weight.to(v.dtype)
        alpha = own_heads(self.mix_logit.sigmoid()) if weight is None else None
        self.choice = choose_backend(self.backend, q.device, q.shape[2], self.crossover, q.shape[3])
        if self.choice.chosen != "dense" and self._keeps_all and weight is not None:
            self.skipped = q.new_zeros(())
            return dense_and_linear(q, k, v, weight)
        if self.choice.chosen != "dense" and self.config.packed and self.plan is not None:
            return self._packed(q, k, v, weight, alpha)
        layout = self.layout
        if layout is None:
            layout = packed_tiling(q.shape[2], self.config.block, q.device, self.config.key_block)
        elif len(layout.occupants) != q.shape[2]:  # the layout is from an earlier forward pass
            raise ValueError(
                f"attention over {q.shape[2]} tokens, but set_frames was called for {len(layout.occupants)}: "
                "call it before every forward pass"
            )
        out, blocks = sparse_linear(q, k, v, self.formula, weight, alpha, layout, self.choice.chosen)
        self.skipped = q.new_zeros(()) if blocks is None else blocks.skipped
        return out

    def meet(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """As in Attention: exact attention over every key. The linear branch is added if it covers all tokens."""
        summed = self.config.mix == "sum" and (self.formula.feature, self.formula.linear_over) == ("elu", "all")
        if self.backend == "dense" or not summed:
            return super().meet(q, k, v)
        return dense_and_linear(q, k, v, self.proj_lin.weight.to(v.dtype))

    def _mix_some(self, q: Tensor, k: Tensor, v: Tensor, keys: Tensor) -> Tensor:
        """`mix` among the tokens `keys` only, the ones passed to `set_frames`; the output of the others is zero."""
        self.choice = choose_backend(self.backend, q.device, q.shape[2], self.crossover, q.shape[3])
        if self.choice.chosen == "dense":
            self.skipped = q.new_zeros(())
            return super().mix(q, k, v, keys)
        found = self.mix(q[:, :, keys], k[:, :, keys], v[:, :, keys])
        return torch.zeros_like(q).index_copy(2, keys, found)

    def _packed(self, q: Tensor, k: Tensor, v: Tensor, weight: Tensor | None, alpha: Tensor | None) -> Tensor:
        assert self.plan is not None
        self.skipped = q.new_full((), self.plan.skipped(self.formula.ratio(self.plan.views)), dtype=torch.float32)
        return packed_sparse_linear(q, k, v, self.plan, self.formula, weight, alpha)

    def extra_repr(self) -> str:
        mix = f"{self.config.mix}, {self.formula.feature} over {self.formula.linear_over}"
        sizes = "×".join(str(size) for size in (self.config.block, self.config.key_block) if size)
        return f"keep_ratio={self.formula.keep_ratio:.4g}, block={sizes}, {mix}"


def attention_modules(model: nn.Module) -> dict[str, Attention]:
    """Name → module of every attention module in a network."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Attention)}


def set_frames(
    modules: Iterable[Attention],
    frames: Iterable[Frames],
    reference: Tensor | int | None,
    device: torch.device,
    seen: Seen | None = None,
) -> None:
    """Call `set_frames` on the sparse-linear ones among these cross-view attention modules.

    `frames` are in the order of the sequence; `reference` is the index of the reference frame, or a mask (B, frames).
    If only some patches take part (`seen`), blocks are runs of those tokens.
    """
    frames = tuple(frames)
    shards = current()
    if shards is not None:  # this process holds some views, but attention is among the tokens of all views
        few, seen = frames[0].specials, shards.seen
        frames = tuple(
            Frames(len(group), few + grid[0] * grid[1], few, grid) for group, grid in zip(shards.groups, shards.grids)
        )
        reference = in_packed_order(reference, shards) if isinstance(reference, Tensor) else reference
    if seen is not None:
        specials = [group.specials for group in frames for _ in range(group.count)]
        frames = tuple(Frames(1, few + count, few) for few, count in zip(specials, seen.counts, strict=True))
    for module in modules:
        if isinstance(module, SparseLinearAttention):
            module.set_frames(frames, reference, device)


def attach(model: nn.Module, config: SparseConfig) -> None:
    """Replace the modules named in `config.layers` by sparse-linear attention, in place. Modules that are sparse-linear
    already keep their parameters. Raises KeyError for a missing module, UsageError for another mix.
    """
    found = attention_modules(model)
    for name in config.layers:
        present = found[name]
        if isinstance(present, SparseLinearAttention):
            present.configure(config, name)
        else:
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, SparseLinearAttention(present, config, name))


def layers_in(names: Iterable[str]) -> tuple[str, ...]:
    """Names of the modules with a linear branch, sorted, from the tensor names of a checkpoint."""
    return tuple(sorted(name[: -len(PROJECTION) - 1] for name in names if name.endswith(f".{PROJECTION}")))
