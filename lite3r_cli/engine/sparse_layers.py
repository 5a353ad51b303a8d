"""Sparse-linear attention of the fast path: the plan, which depends only on the image sizes, and one layer's settings.

Groups of `group` query tiles may share one list of key tiles, chosen by the mean query of the group; matrix products
then have more rows. With one tile per group the formula is exactly that of `attention/dispatch.py`. A checkpoint that
was trained with that formula gets one tile per group.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lite3r_cli.attention.block_map import kept_count
from lite3r_cli.attention.dispatch import mix_packed
from lite3r_cli.attention.module import START_LOGIT, SparseLinearAttention
from lite3r_cli.attention.packed import SUMMARY, PackedPlan, packed_plan
from lite3r_cli.attention.reference import EPSILON
from lite3r_cli.attention.sparse_config import SparseConfig
from lite3r_cli.attention.tiling import TokenTiling, frame_tiling, packed_tiling
from lite3r_cli.engine.operators import Operators
from lite3r_cli.engine.packing import Bucket, Packing
from lite3r_cli.engine.twins import LinearBranch, Summaries, Tiles
from lite3r_cli.layers.view_shards import own_heads

SMALLEST_TILE = 16  # slots: the smallest side of a product in the matrix units


@dataclass(frozen=True, eq=False)
class SparsePlan:
    """The slot of each token, and which tiles are special.

    There are `runs` equal runs of tokens, one after the other; attention stays inside a run, and `tiles` describes one
    run. A run is one view in attention within views, and all tokens in attention across views.
    """

    tiles: Tiles
    place: Tensor  # (tokens of all runs,) int32: the slot of each token
    empty: Tensor  # int32: slots without a token
    protected: Tensor  # (blocks,) bool: key tiles that every query attends to
    frame: Tensor  # (blocks,) the frame of each block, −1 for none
    most_protected: int  # upper limit of the protected key tiles
    exact_groups: int  # number of groups that attend to every key tile
    guards: bool = False  # whether the reference frame is protected, see `guarded`
    runs: int = 1

    @property
    def blocks(self) -> int:
        """The number of tiles of a run."""
        return len(self.tiles.lengths)

    @property
    def groups(self) -> int:
        """The number of groups of query tiles of a run."""
        return len(self.tiles.full_rows)

    @property
    def slots(self) -> int:
        """The number of slots of all runs."""
        return self.runs * self.blocks * self.tiles.width

    def count(self, keep_ratio: float) -> int:
        """How many key tiles an ordinary group keeps, see `attention.block_map.kept_count`."""
        return kept_count(self.groups, self.exact_groups, self.blocks, self.most_protected, keep_ratio)

    def skipped(self, keep_ratio: float) -> float:
        """1 − computed pairs / all pairs of groups and key tiles."""
        ordinary = (self.groups - self.exact_groups) * self.count(keep_ratio)
        return 1 - (ordinary + self.exact_groups * self.blocks) / (self.groups * self.blocks)

    def guarded(self, reference: Tensor | None) -> Tensor:
        """`protected` (blocks,), plus the blocks of the frame `reference` (a scalar tensor) if the
        layout protects it.
        """
        return self.protected | (self.frame == reference) if self.guards else self.protected


class Plans:
    """The plans for one set of image sizes, made on first use and shared by layers with equal settings."""

    def __init__(
        self, packing: Packing, query_tiles: int, crossover: int, device: torch.device, reference: bool = True
    ):
        self.packing, self.query_tiles, self.crossover, self.device = packing, query_tiles, crossover, device
        self.reference = reference  # whether there is a reference view
        self._made: dict[tuple, SparsePlan | PackedPlan] = {}

    def across(self, layer: SparseLayer | None) -> SparsePlan | PackedPlan | None:
        """The plan for attention across all views; None if it is dense."""
        return self._plan(layer, None, self.packing.tokens)

    def within(self, layer: SparseLayer | None, bucket: Bucket) -> SparsePlan | PackedPlan | None:
        """The plan for attention within each view of a bucket; None if it is dense."""
        return self._plan(layer, bucket, bucket.tokens)

    def _plan(self, layer: SparseLayer | None, bucket: Bucket | None, tokens: int) -> SparsePlan | PackedPlan | None:
        if layer is None or tokens < self.crossover:
            return None
        kind = replace(layer.config, layers=(), keep_ratio=1.0, keep_ratios=())
        if (kind, bucket) not in self._made:
            self._made[kind, bucket] = self._make(layer.config, self.query_tiles, bucket)
        return self._made[kind, bucket]

    def _make(self, config: SparseConfig, group: int, bucket: Bucket | None) -> SparsePlan | PackedPlan:
        if bucket is not None:  # within a view, networks call no `set_frames`: blocks are runs of tokens
            return from_layout(packed_tiling(bucket.tokens, config.block), group, 0, self.device, len(bucket.views))
        if config.official:
            return from_layout(packed_tiling(self.packing.tokens, config.block), group, 0, self.device)
        frames = self.packing.frames
        if config.packed:
            return packed_plan(frames, self.device, config.group, config.parts)
        if not config.tiles:
            frames = tuple(replace(part, grid=None) for part in frames)
        layout = frame_tiling(frames, config.block, None, config.protect != "none", walk=config.walk)
        if config.protect != "reference" or not self.reference:
            return from_layout(layout, group, layout.most_protected, self.device)
        largest = int(layout.frame[layout.frame >= 0].bincount().max())  # blocks of one frame
        plan = from_layout(layout, group, layout.most_protected + largest, self.device)
        return replace(plan, guards=True)


def from_layout(
    layout: TokenTiling, group: int, most_protected: int, device: torch.device, runs: int = 1
) -> SparsePlan:
    """The plan of a layout, repeated for `runs` equal runs of tokens."""
    used = layout.index.shape[1]
    width = max(SMALLEST_TILE, 1 << (used - 1).bit_length())
    place = torch.empty(len(layout.occupants), dtype=torch.int32)
    place[layout.occupants] = (layout.slots // used * width + layout.slots % used).int()
    free = torch.ones(layout.blocks * width, dtype=torch.bool)
    free[place.long()] = False
    empty = free.nonzero()[:, 0].int()
    starts = torch.arange(runs, dtype=torch.int32)[:, None] * len(free)
    place, empty = ((slots + starts).flatten() for slots in (place, empty))
    exact = torch.nn.functional.pad(layout.exact, (0, -layout.blocks % group)).view(-1, group).any(1)
    tiles = Tiles.of(width, group, layout.lengths.to(device), exact.to(device))
    place, empty, protected, frame = (t.to(device) for t in (place, empty, layout.protected, layout.frame))
    return SparsePlan(tiles, place, empty, protected, frame, most_protected, int(exact.sum()), runs=runs)


def reason_against_settings(config: SparseConfig) -> str | None:
    """Why the fast path cannot compute these settings; None if it can."""
    if config.feature != "elu":
        return f"the fast path has the feature map elu, not {config.feature}"
    if config.drop_ratio:
        return f"the fast path drops no block, not {config.drop_ratio:g} of them"
    if config.packed:
        return None
    if config.scores != "pooled":
        return f"the fast path keeps blocks by pooled scores, not by {config.scores}"
    if config.key_block not in (None, config.block):
        return f"the fast path has key blocks as long as query blocks ({config.block}), not {config.key_block}"
    return None


class SparseLayer:
    """The settings and mix parameters of one sparse-linear layer."""

    def __init__(self, module: SparseLinearAttention):
        formula = module.formula
        self.formula, self.config = formula, module.config
        convex = module.config.mix == "convex"
        self.alpha: Tensor | None = module.mix_logit.detach().float().sigmoid() if convex else None
        self.weight: Tensor | None = None if convex else module.proj_lin.weight.detach().float()
        mix = module.mix_logit - START_LOGIT if convex else module.proj_lin.weight.detach()
        self.mixes = mix.is_meta or bool(mix.any())  # False: the mix is untrained, the linear branch is left out

    def ratio(self, plan: SparsePlan | PackedPlan) -> float:
        """The keep ratio of the layer under a plan."""
        return self.formula.ratio(plan.views) if isinstance(plan, PackedPlan) else self.formula.keep_ratio

    @classmethod
    def of(cls, attention: nn.Module) -> SparseLayer | None:
        """The layer of an attention module; None if it is dense or set to dense."""
        if isinstance(attention, SparseLinearAttention) and attention.backend != "dense":
            return cls(attention)
        return None

    def attend(self, heads: Tensor, plan: SparsePlan | PackedPlan, ops: Operators, reference: Tensor | None) -> Tensor:
        """Tiles q, k, v (3, H, slots, D) → the mix of both branches (H, slots, D). `reference` as in `guarded`."""
        if isinstance(plan, PackedPlan):
            return self._attend_packed(heads, plan, ops)
        shape, alpha = heads.shape[1:], self._own_alpha()
        if plan.runs > 1:  # treat each run of a head as a head of its own
            heads = heads.unflatten(2, (plan.runs, -1)).flatten(1, 2)
            alpha = None if alpha is None else alpha.repeat_interleave(plan.runs)
        q, k, v = heads
        tiles = plan.tiles
        moments = ops.block_moments(heads.flatten(0, 1), tiles.lengths, tiles.width)
        means, spreads = (t.unflatten(0, (3, -1)) for t in moments)
        scores = _grouped(means[0], plan) @ means[1].transpose(1, 2)
        listed, left = ops.select_blocks(scores, plan.guarded(reference), tiles, plan.count(self.ratio(plan)))
        summaries = Summaries(means[1], spreads[1], means[2]) if self.formula.summaries else None
        square, norm = ops.linear_sums(k, v, tiles.lengths, tiles.width)
        branch = LinearBranch(square, norm, self.formula.linear_over == "rest", self.weight, alpha)
        return ops.sparse_attention(q, k, v, listed, left, tiles, branch, summaries).view(shape)

    def _own_alpha(self) -> Tensor | None:
        return None if self.alpha is None else own_heads(self.alpha)

    def _attend_packed(self, heads: Tensor, plan: PackedPlan, ops: Operators) -> Tensor:
        count = plan.count(self.ratio(plan))
        out = heads.new_empty(heads.shape[1], plan.queries, heads.shape[3])
        step = len(out) if count >= plan.blocks else plan.heads_at_a_time(count, len(out))
        for first in range(0, len(out), step):
            q, k, v = heads[:, first : first + step]
            lists = None
            if count < plan.blocks:
                asked, squares = ops.ask(q, plan)
                spreads = ops.summarise_blocks(k, v, squares, plan)
                lists = ops.list_blocks(ops.block_shares(asked, k, spreads, plan), plan, count)
            ops.gathered_attention(q, k, v, lists, plan, out[first : first + step])
            del lists  # before those of the next heads
        if self.alpha is None and not self.mixes:
            return out
        q, k, v = heads[:, :, : plan.queries]
        square, norm = ops.linear_sums(k.contiguous(), v.contiguous(), plan.lengths, SUMMARY)
        features = torch.nn.functional.elu(q.float()) + 1
        linear = (features @ square) / (features @ norm[..., None] + EPSILON)
        return mix_packed(out.float(), linear, plan, self.ratio(plan), self.weight, self._own_alpha()).to(out.dtype)


def _grouped(means: Tensor, plan: SparsePlan) -> Tensor:
    """Means of query tiles (H, blocks, D) → sums over the queries of each group (H, groups, D). Sums rank the key tiles
    in the same order as means.
    """
    if plan.tiles.group == 1:
        return means
    sums = means * plan.tiles.lengths[:, None]
    sums = torch.nn.functional.pad(sums, (0, 0, 0, -plan.blocks % plan.tiles.group))
    return sums.unflatten(1, (-1, plan.tiles.group)).sum(2)
