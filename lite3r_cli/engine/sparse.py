"""Sparse-linear attention of the fast path: what of it is known before the images are, and one layer's settings.

Query tiles may share one list of key tiles (`group` of them): a matrix product then has twice the rows, and the list is
chosen by the mean query of the group. With one tile a group this is exactly `attention/dispatch.py`'s formula.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from lite3r_cli.attention.module import SparseConfig, SparseLinearAttention
from lite3r_cli.attention.tiling import Frames, Layout, frame_layout, packed_layout
from lite3r_cli.engine.twins import Far, LinearBranch, Tiles
from lite3r_cli.errors import BackendError

SMALLEST_TILE = 16  # slots, for the matrix units


@dataclass(frozen=True, eq=False)
class SparsePlan:
    """Where each token goes, and which tiles are special."""

    tiles: Tiles
    place: Tensor  # (tokens,) int32: the slot of each token
    empty: Tensor  # int32: the slots of no token
    protected: Tensor  # (blocks,) bool: as keys, seen by all
    frame: Tensor  # (blocks,) the frame of each block, −1 for none
    most_protected: int
    exact_groups: int

    @property
    def blocks(self) -> int:
        return len(self.tiles.lengths)

    @property
    def groups(self) -> int:
        return len(self.tiles.exact)

    @property
    def slots(self) -> int:
        return self.blocks * self.tiles.width

    def count(self, keep_ratio: float) -> int:
        """Key tiles of an ordinary group, so that with those that see all it is `keep_ratio` of all pairs."""
        share = keep_ratio * self.blocks
        if self.exact_groups:
            share = (
                (keep_ratio * self.groups - self.exact_groups) * self.blocks / max(1, self.groups - self.exact_groups)
            )
        return min(self.blocks, max(1, int(share), self.most_protected))

    def skipped(self, keep_ratio: float) -> float:
        """1 − computed / all pairs of groups and key tiles."""
        ordinary = (self.groups - self.exact_groups) * self.count(keep_ratio)
        return 1 - (ordinary + self.exact_groups * self.blocks) / (self.groups * self.blocks)

    def guarded(self, reference: Tensor | None) -> Tensor:
        """`protected`, with the frame of a reference (a scalar tensor on the device) if the layout protects one."""
        return self.protected if reference is None else self.protected | (self.frame == reference)


def plan_for(
    config: SparseConfig,
    views: int,
    tokens: int,
    specials: int,
    grid: tuple[int, int],
    group: int,
    device: torch.device,
) -> SparsePlan:
    """The plan of a checkpoint's settings for equally sized views; the reference frame is left to `guarded`."""
    if config.official:
        return from_layout(packed_layout(views * tokens, config.block), group, 0, device)
    frames = (Frames(views, tokens, specials, grid if config.tiles else None),)
    layout = frame_layout(frames, config.block, None, config.protect != "none", walk=config.walk)
    pieces = int((layout.frame == 0).sum()) if config.protect == "reference" else 0
    return from_layout(layout, group, layout.most_protected + pieces, device)


def from_layout(layout: Layout, group: int, most_protected: int, device: torch.device) -> SparsePlan:
    used = layout.index.shape[1]
    width = max(SMALLEST_TILE, 1 << (used - 1).bit_length())
    place = torch.empty(len(layout.occupants), dtype=torch.int32)
    place[layout.occupants] = (layout.slots // used * width + layout.slots % used).int()
    free = torch.ones(layout.blocks * width, dtype=torch.bool)
    free[place.long()] = False
    exact = torch.nn.functional.pad(layout.exact, (0, -layout.blocks % group)).view(-1, group).any(1)
    tiles = Tiles.of(width, group, layout.lengths.to(device), exact.to(device))
    placed = (t.to(device) for t in (place, free.nonzero()[:, 0].int(), layout.protected, layout.frame))
    return SparsePlan(tiles, *placed, most_protected, int(exact.sum()))


def reason_against(module: SparseLinearAttention) -> str | None:
    """Why the fast path cannot compute a layer's formula; None if it can."""
    formula, config = module.formula, module.config
    if formula.feature != "elu":
        return f"the fast path has the feature map elu, not {formula.feature}"
    if formula.drop_ratio:
        return f"the fast path drops no block, not {formula.drop_ratio:g} of them"
    if formula.scores != "pooled":
        return f"the fast path keeps blocks by pooled scores, not by {formula.scores}"
    if config.key_block not in (None, config.block):
        return f"the fast path has key blocks as long as query blocks ({config.block}), not {config.key_block}"
    return None


class SparseLayer:
    """The mix and the ratio of one layer."""

    def __init__(self, module: SparseLinearAttention, name: str):
        formula = module.formula
        if (reason := reason_against(module)) is not None:
            raise BackendError(f"{name}: {reason}; use --attention dense")
        self.formula, self.config = formula, module.config
        convex = module.config.mix == "convex"
        self.alpha = module.mix_logit.detach().float().sigmoid() if convex else None
        self.weight = None if convex else module.proj_lin.weight.detach().float()
        self.reference: Tensor | None = None  # set in a forward pass where the layout protects the reference frame

    @property
    def keep_ratio(self) -> float:
        return self.formula.keep_ratio

    @classmethod
    def of(cls, attention: nn.Module, name: str) -> SparseLayer | None:
        """None for attention that is dense, or told to be."""
        is_sparse = isinstance(attention, SparseLinearAttention) and attention.backend != "dense"
        return cls(attention, name) if is_sparse else None

    def attend(self, heads: Tensor, plan: SparsePlan, ops: SimpleNamespace) -> Tensor:
        """Tiles q, k, v (3, H, slots, D) → both branches, mixed (H, slots, D)."""
        q, k, v = heads
        tiles = plan.tiles
        moments = ops.block_moments(heads.flatten(0, 1), tiles.lengths, tiles.width)
        means, spreads = (t.unflatten(0, (3, -1)) for t in moments)
        scores = _grouped(means[0], plan) @ means[1].transpose(1, 2)
        listed, left = ops.select_blocks(scores, plan.guarded(self.reference), tiles, plan.count(self.keep_ratio))
        far = Far(means[1], spreads[1], means[2]) if self.formula.summaries else None
        sums = ops.linear_sums(k, v, tiles.lengths, tiles.width)
        branch = LinearBranch(*sums, self.formula.linear_over == "rest", self.weight, self.alpha)
        return ops.sparse_attention(q, k, v, listed, left, tiles, branch, far)


def _grouped(means: Tensor, plan: SparsePlan) -> Tensor:
    """Means of query tiles (H, blocks, D) → of groups (H, groups, D), times a number that no order depends on."""
    if plan.tiles.group == 1:
        return means
    sums = means * plan.tiles.lengths[:, None]
    sums = torch.nn.functional.pad(sums, (0, 0, 0, -plan.blocks % plan.tiles.group))
    return sums.unflatten(1, (-1, plan.tiles.group)).sum(2)
