"""Sparse attention over packed tokens: the plan, which depends only on the image sizes, and each step in plain torch.

The patches of each frame are ordered along a Hilbert curve, so that any run of them is compact in the image. Frames
follow one another; every other frame is reversed. A group of 128 or 64 consecutive queries shares one list of keys.
Keys are chosen in blocks of 16. No block has empty slots: tokens that do not fill a block are listed one by one. A
block that is not chosen counts as one token: its mean key and mean value, weighted by its 16 tokens. The best of these
blocks, `parts` for each chosen one, count as four such means of 4 tokens. If none of 64 neighbouring tokens is in a
chosen or parted block, one mean of all 64 takes their place. k̄ is the mean key of n = 4, 16 or 64 tokens:

    share(block) = Σ over sampled queries of a group: softmax over blocks of (q · k̄ / √D + log n + s)
    s            = ½ Σ_c m_c var_c(k) / D,   m = mean square of a head's sampled queries
    O            = softmax(q · k / √D over chosen keys, q · k̄ / √D + log n over means) · (v, v̄)

Every eighth query is sampled. The denominator of the shares uses means of 64, which is cheaper: it only weighs the
queries against each other, since only the order of the blocks matters. O leaves the variance term s out; by Jensen's
inequality a mean then never gets more weight than its keys would. Special tokens attend to all tokens, and all tokens
attend to them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lite3r_cli.attention.features import widened
from lite3r_cli.attention.hilbert import hilbert
from lite3r_cli.attention.tiling import Frames
from lite3r_cli.layers.view_shards import ranks_across

GROUPS = (128, 64)  # queries that share a list
KEYS = 16  # tokens of a block
PART = 4  # tokens of the means of a parted block
SUMMARY = 64  # tokens of a coarse mean
SAMPLE_STRIDE = 8  # one query in 8 is sampled for the shares
IGNORED = 15  # lowest mantissa bits of a share that are ignored when blocks are compared; eight bits remain
LARGEST = 40.0  # upper limit of a log share: its approximate denominator may be too small
CHUNK = 2**24  # elements that `gathered_attention` holds at a time
LISTED = 2**30  # bytes of shares and lists at a time; further heads are computed later


@dataclass(frozen=True, eq=False)
class PackedPlan:
    """The slot of each token of a sequence. A head's table of keys or values has `slots` rows: [0, `queries`) tokens,
    [`queries`, `fine`) means of 4 tokens, none without parted blocks, [`fine`, `coarse`) means of 16 tokens,
    [`coarse`, `slots`) means of 64 tokens.
    """

    tokens: int
    views: int
    specials: int  # special tokens of all frames
    group: int  # queries that share a list, one of GROUPS
    queries: int  # token slots, a multiple of `group`: special tokens from 0 on, patches from `first` on
    first: int  # slot of the first patch, a multiple of `group`
    blocks: int  # blocks of 16 patches
    parts: float  # parted blocks for each chosen one
    place: Tensor  # (tokens,) int32, the slot of each token
    empty: Tensor  # int32, rows that hold no token: zeros until means are written
    asked: Tensor  # (groups − exact, group / 8) slots of the sampled queries of each ordinary group
    lengths: Tensor  # (queries / 64,) int32, tokens in each 64 slots; they occupy the first ones
    loose: Tensor  # int32, slots of tokens in no block: they are in every list
    all_blocks: Tensor  # int32, ids of all blocks, for the groups that attend to everything

    @property
    def groups(self) -> int:
        """The number of query groups, each with one list of keys."""
        return self.queries // self.group

    @property
    def exact(self) -> int:
        """The number of groups of special tokens; these come first and attend to everything."""
        return self.first // self.group

    @property
    def patches(self) -> int:
        """The number of patch tokens."""
        return self.tokens - self.specials

    @property
    def special_blocks(self) -> int:
        """The number of full blocks of special tokens."""
        return self.specials // KEYS

    @property
    def supers(self) -> int:
        """The number of coarse means (64 tokens each)."""
        return self.blocks * KEYS // SUMMARY

    @property
    def fine(self) -> int:
        """The row of the first block mean."""
        return self.queries + (self.blocks * (KEYS // PART) if self.parts else 0)

    @property
    def coarse(self) -> int:
        """The row of the first coarse mean."""
        return self.fine + self.blocks

    @property
    def slots(self) -> int:
        """Rows of the tables of keys and values: tokens, block means, coarse means."""
        return self.coarse + self.supers

    def count(self, keep_ratio: float) -> int:
        """How many blocks a group chooses so that at most `keep_ratio` of all token pairs are computed; at least 1."""
        if keep_ratio >= 1:
            return self.blocks
        keys = (keep_ratio * self.tokens - self.specials) * self.tokens / max(1, self.patches) - self.specials
        keys -= self.patches % KEYS  # these patches fill no block and are in every list
        return max(1, min(int(keys / KEYS), self.blocks))

    def skipped(self, keep_ratio: float) -> float:
        """1 − computed token pairs / all token pairs; means are not counted."""
        count = self.count(keep_ratio)
        if count >= self.blocks:
            return 0.0
        seen = self.specials + count * KEYS + self.patches - self.blocks * KEYS
        return 1 - (self.specials * self.tokens + self.patches * seen) / self.tokens**2

    def parted(self, count: int) -> int:
        """How many blocks of a group that chooses `count` count as means of 4 tokens."""
        return min(int(self.parts * count), self.blocks - count)

    def room(self, count: int) -> int:
        """Capacity of a group's list of single rows: loose tokens and means."""
        parted = self.parted(count)
        partly = min(3 * (count + parted), self.blocks - count - parted)
        means = KEYS // PART * parted + self.supers + partly + self.blocks % (SUMMARY // KEYS)
        return len(self.loose) + means

    def heads_at_a_time(self, count: int, heads: int) -> int:
        """How many of `heads` heads are computed together, so that their shares and lists fit in LISTED bytes, of all
        processes that share the heads. All parts have nearly the same size: four heads are 2 + 2 rather than 3 + 1.
        """
        row = 4 * (self.blocks + self.special_blocks + count + self.room(count))
        most = max(1, LISTED // ranks_across() // max(1, row * (self.groups - self.exact)))
        return -(-heads // -(-heads // most))


@lru_cache(maxsize=32)
def packed_plan(
    frames: tuple[Frames, ...], device: torch.device | None = None, group: int = GROUPS[0], parts: float = 0.0
) -> PackedPlan:
    """The plan for `frames` in the order of the sequence, with `group` queries per list, which has `parts` parted
    blocks for each chosen one. Cached.

    The patches of a frame without a grid keep their order.
    """
    specials: list[int] = []
    patches: list[int] = []
    start = number = 0
    for part in frames:
        count = part.tokens - part.specials
        cells = hilbert(*part.grid) if part.grid else list(range(count))
        for _ in range(part.count):
            specials += range(start, start + part.specials)
            ordered = cells[::-1] if number % 2 else cells
            patches += [start + part.specials + c for c in ordered]
            start, number = start + part.tokens, number + 1
    with torch.inference_mode(False):
        plan = _plan(specials, patches, number, group, parts)
        return plan if device is None else _moved(plan, device)


def _plan(specials: list[int], patches: list[int], views: int, group: int, parts: float) -> PackedPlan:
    first = -(-len(specials) // group) * group
    queries = first + -(-len(patches) // group) * group
    blocks = len(patches) // KEYS
    order = torch.tensor(specials + patches)
    slot = torch.cat([torch.arange(len(specials)), first + torch.arange(len(patches))])
    place = torch.empty(len(order), dtype=torch.int32)
    place[order] = slot.int()
    means = blocks * (KEYS // PART) if parts else 0
    free = torch.ones(queries + means + blocks + blocks * KEYS // SUMMARY, dtype=torch.bool)
    free[slot] = False
    known = ~free[:queries]
    per_group = known.view(-1, group).sum(1)[first // group :]
    asked = torch.arange(group // SAMPLE_STRIDE)[None] * per_group[:, None] // (group // SAMPLE_STRIDE)
    asked += first + group * torch.arange(len(per_group))[:, None]
    whole = torch.cat([torch.arange(len(specials) // KEYS), first // KEYS + torch.arange(blocks)])
    loose = torch.cat(
        [
            torch.arange(len(specials))[len(specials) // KEYS * KEYS :],
            first + torch.arange(len(patches))[blocks * KEYS :],
        ]
    )
    return PackedPlan(
        tokens=len(order), views=views, specials=len(specials), group=group, queries=queries, first=first,
        blocks=blocks, parts=parts,
        place=place, empty=free.nonzero()[:, 0].int(), asked=asked, lengths=known.view(-1, SUMMARY).sum(1,
        dtype=torch.int32), loose=loose.int(), all_blocks=whole.int(),
    )  # fmt: skip


def _moved(plan: PackedPlan, device: torch.device) -> PackedPlan:
    parts = {name: getattr(plan, name) for name in plan.__dataclass_fields__}
    moved: dict[str, Any] = {name: part.to(device) for name, part in parts.items() if isinstance(part, Tensor)}
    return replace(plan, **moved)


@dataclass(frozen=True, eq=False)
class Lists:
    """The keys of the ordinary groups, int32: block ids `blocks` (H, groups, n) of 16 table rows each, and single table
    rows `rows` (H, groups, room), of which the first `lengths` (H, groups) are valid.
    """

    blocks: Tensor
    rows: Tensor
    lengths: Tensor


# -- the steps, in plain torch -----------------------------------------------------------------------------------------


def ask(q: Tensor, plan: PackedPlan) -> tuple[Tensor, Tensor]:
    """Sample queries from q (H, slots, D): the sampled queries of all groups (H, groups · group / 8, D), and their mean
    square (H, D) float32.
    """
    asked = q[:, plan.asked.flatten()]
    return asked, widened(asked).square().mean(1)


def _means_of(plan: PackedPlan) -> tuple[tuple[int, int, int], ...]:
    """Tokens of a mean, the first row and the end of the rows, for each kind of means."""
    ends = plan.queries, plan.fine, plan.coarse, plan.slots
    return tuple((size, *rows) for size, rows in zip((PART, KEYS, SUMMARY), pairwise(ends)))


def weights_of(rows: Tensor, plan: PackedPlan) -> Tensor:
    """The number of tokens that each table row stands for, float32."""
    sizes = torch.tensor([1.0, PART, KEYS, SUMMARY], device=rows.device)
    return sizes[sum((rows >= start).long() for start in (plan.queries, plan.fine, plan.coarse))]


def summarise_blocks(keys: Tensor, values: Tensor, squares: Tensor, plan: PackedPlan) -> Tensor:
    """Write the means into the tables of keys and values (H, slots, D), in place. Returns the variance term s of each
    block and coarse mean, (H, blocks + supers) float32. `squares` (H, D) are the mean squares of `ask`.
    """
    spreads = []
    for size, first, last in _means_of(plan):
        tokens = slice(plan.first, plan.first + (last - first) * size)
        for table in (keys, values):
            table[:, first:last] = widened(table[:, tokens]).unflatten(1, (-1, size)).mean(2).to(table.dtype)
        if size == PART:
            continue
        runs = widened(keys[:, tokens]).unflatten(1, (-1, size))
        spread = (runs - runs.mean(2, keepdim=True)).square().mean(2)  # var() would warn if there are no runs
        spreads.append((spread * squares[:, None]).sum(-1) / (2 * keys.shape[-1]))
    return torch.cat(spreads, dim=1)


def block_shares(asked: Tensor, keys: Tensor, spreads: Tensor, plan: PackedPlan) -> Tensor:
    """The share of each block for each ordinary group (H, groups, blocks), summed over its sampled queries."""
    covered = plan.supers * (SUMMARY // KEYS)
    x = widened(asked) * asked.shape[-1] ** -0.5
    fine, coarse = (x @ widened(keys[:, a:b]).mT for a, b in ((plan.fine, plan.coarse), (plan.coarse, plan.slots)))
    fine = fine + spreads[:, None, : plan.blocks] + math.log(KEYS)
    coarse = coarse + spreads[:, None, plan.blocks :] + math.log(SUMMARY)
    total = torch.cat([coarse, fine[..., covered:]], dim=-1).logsumexp(-1, keepdim=True)
    result: Tensor = (fine - total).clamp(max=LARGEST).exp().unflatten(1, (-1, plan.asked.shape[1])).sum(2)
    return result


def list_blocks(shares: Tensor, plan: PackedPlan, count: int) -> Lists:
    """The lists of each group: the blocks of special tokens, then the `count` blocks with the highest shares; as single
    rows, the loose tokens, the means of the parted blocks, and the means of all other blocks.
    """
    heads, groups, _ = shares.shape
    device = shares.device
    parted = plan.parted(count)
    best = shares.topk(count + parted, -1).indices
    none = torch.zeros_like(shares, dtype=torch.bool)
    picked, parts = (none.scatter(-1, at, True) for at in (best[..., :count], best[..., count:]))
    chosen = picked.nonzero()[:, 2].view(heads, groups, count)
    split = parts.nonzero()[:, 2].view(heads, groups, parted)
    special = torch.arange(plan.special_blocks, device=device).expand(heads, groups, -1)
    per = SUMMARY // KEYS
    listed = picked | parts
    touched = listed[..., : plan.supers * per].unflatten(-1, (-1, per)).any(-1)  # (H, groups, supers)
    partly = torch.ones_like(picked)
    partly[..., : plan.supers * per] = touched.repeat_interleave(per, -1)
    wanted = torch.cat([~listed & partly, ~touched], dim=-1)
    ranked = wanted.to(torch.uint8).sort(dim=-1, descending=True, stable=True).indices
    each = KEYS // PART
    small = (plan.queries + split[..., None] * each + torch.arange(each, device=device)).flatten(-2)
    ranked = ranked[..., : plan.room(count) - len(plan.loose) - small.shape[-1]]
    rows = torch.cat([plan.loose.expand(heads, groups, -1), small, plan.fine + ranked], dim=-1)
    lengths = wanted.sum(-1) + len(plan.loose) + small.shape[-1]
    return Lists(torch.cat([special, chosen + plan.first // KEYS], -1).int(), rows.int(), lengths.int())


def gathered_attention(
    q: Tensor, keys: Tensor, values: Tensor, lists: Lists | None, plan: PackedPlan, out: Tensor | None = None
) -> Tensor:
    """Attention of q (H, slots, D) over tables of keys and values (H, slots, D) → (H, queries, D), written into `out`
    if given. Without lists every query attends to every token.
    """
    heads, _, dim = q.shape
    heads *= ranks_across()  # the same chunks, and so the same rounding, in one process and in several
    whole = plan.all_blocks.long()[:, None] * KEYS + torch.arange(KEYS, device=q.device)
    known = torch.cat([whole.flatten(), plan.loose.long()])
    exact = plan.groups if lists is None else plan.exact
    parts = []
    step = max(plan.group, CHUNK // (heads * plan.tokens))
    for first in range(0, exact * plan.group, step):
        x = q[:, first : min(first + step, exact * plan.group)]
        weights = (widened(x) @ widened(keys[:, known]).mT * dim**-0.5).softmax(-1)
        parts.append((weights @ widened(values[:, known])).to(q.dtype))
    if lists is not None:
        step = max(1, CHUNK // (heads * (lists.blocks.shape[2] * KEYS + lists.rows.shape[2]) * dim))
        for first in range(0, plan.groups - plan.exact, step):
            parts.append(_some_groups(q, keys, values, lists, plan, slice(first, first + step)))
    found = torch.cat(parts, dim=1)
    return found if out is None else out.copy_(found)


def _some_groups(q: Tensor, keys: Tensor, values: Tensor, lists: Lists, plan: PackedPlan, part: slice) -> Tensor:
    heads, _, dim = q.shape
    blocks, rows, lengths = lists.blocks[:, part].long(), lists.rows[:, part].long(), lists.lengths[:, part]
    groups = blocks.shape[1]
    tokens = (blocks[..., None] * KEYS + torch.arange(KEYS, device=q.device)).flatten(2)
    inside = torch.arange(rows.shape[2], device=q.device) < lengths[..., None]
    bias = torch.where(inside, weights_of(rows, plan).log(), -torch.inf)
    every = torch.cat([tokens, rows.where(inside, rows.new_zeros(()))], dim=-1)  # (H, groups, keys)
    at = (every + torch.arange(heads, device=q.device)[:, None, None] * keys.shape[1]).flatten()
    k, v = (t.flatten(0, 1).index_select(0, at).view(heads, groups, -1, dim) for t in (keys, values))
    start = plan.first + part.start * plan.group
    x = q[:, start : start + groups * plan.group].unflatten(1, (groups, plan.group))
    bias = torch.cat([bias.new_zeros(tokens.shape), bias], dim=-1)[:, :, None]
    if q.device.type == "cpu":  # four times as fast, and keeps no logits for gradients
        mask = bias.to(torch.float64 if q.dtype == torch.float64 else torch.float32).expand(-1, -1, plan.group, -1)
        return F.scaled_dot_product_attention(x, k, v, attn_mask=mask).flatten(1, 2)
    logits = widened(x) @ widened(k).mT * dim**-0.5
    result: Tensor = ((logits + bias).softmax(-1) @ widened(v)).flatten(1, 2).to(q.dtype)
    return result


def packed_attention(q: Tensor, k: Tensor, v: Tensor, plan: PackedPlan, keep_ratio: float) -> Tensor:
    """All steps: q, k, v (B, H, N, D) in the order of the sequence → (B, H, N, D). Differentiable."""
    batch, place = q.shape[0], plan.place.long()
    empty = q.new_zeros(batch * q.shape[1], plan.slots, q.shape[3])
    tables = [empty.index_copy(1, place, t.flatten(0, 1)) for t in (q, k, v)]
    count, lists = plan.count(keep_ratio), None
    if count < plan.blocks:
        means = [t.clone() for t in tables[1:]]
        with torch.no_grad():
            asked, squares = ask(tables[0], plan)
            spreads = summarise_blocks(means[0].detach(), means[1].detach(), squares, plan)
            lists = list_blocks(block_shares(asked, means[0], spreads, plan), plan, count)
        tables[1:] = [_with_means(t, plan) for t in tables[1:]]
    out = gathered_attention(tables[0], tables[1], tables[2], lists, plan)
    result: Tensor = out.index_select(1, place).unflatten(0, (batch, -1))
    return result


def _with_means(table: Tensor, plan: PackedPlan) -> Tensor:
    """A table (H, slots, D) with its means, as `summarise_blocks` writes them, but differentiable."""
    parts = [table[:, : plan.queries]]
    for size, first, last in _means_of(plan):
        tokens = widened(table[:, plan.first : plan.first + (last - first) * size])
        parts.append(tokens.unflatten(1, (-1, size)).mean(2).to(table.dtype))
    return torch.cat(parts, dim=1)
