"""Sparse attention over packed tokens: what is known before the images are, and each step in plain torch.

The patches of each frame are ordered along a Hilbert curve, so that any run of them is compact, and the frames follow
one another, every other one backwards. Queries share lists of keys in groups of 128 or 64; keys are chosen in blocks of
16. No block has an empty slot: what does not fill one stands in the lists row by row. A block that is not chosen counts
as one token, its mean key and value with the weight of its 16 tokens; where none of 64 neighbouring tokens is chosen,
those do.

    share(block) = mean over queries of a group of softmax over blocks of q · k̄ / √D + s,   s = ½ Σ_c m_c var_c(k)
    / D O            = softmax over chosen keys of q · k / √D and over means of q · k̄ / √D + log n, times v

where every eighth query tells the shares, and m is the mean square of a head's queries: what a block's spread adds to
its share. By Jensen's inequality a mean never counts more in O than its keys. Special tokens see and are seen by all.
The divisor of the shares comes from means of 64: it weighs queries, and only the order of the blocks counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lite3r_cli.attention.features import widened
from lite3r_cli.attention.tiling import Frames
from lite3r_cli.layers.view_shards import ranks_across

GROUPS = (128, 64)  # queries that share a list
KEYS = 16  # of a block
SUMMARY = 64  # tokens of a coarse mean
EVERY = 8  # so many queries have one among them that tells the shares
IGNORED = 15  # lowest bits of a share that do not count when blocks are compared: eight of the mantissa do
LARGEST = 40.0  # logarithm of a share: its divisor is approximate
CHUNK = 2**24  # elements of what `gathered_attention` holds at a time
LISTED = 2**30  # bytes of shares and lists at a time: more heads wait


def hilbert(rows: int, columns: int) -> list[int]:
    """The cells of a grid of any size (row-major numbers) along a generalised Hilbert curve: nearly all neighbours
    touch.
    """
    path: list[int] = []

    def step(x: int) -> int:
        return (x > 0) - (x < 0)

    def fill(x: int, y: int, ax: int, ay: int, bx: int, by: int) -> None:
        """The rectangle from (x, y) spanned by a, along which the curve leads, and b."""
        width, height = abs(ax + ay), abs(bx + by)
        dax, day, dbx, dby = step(ax), step(ay), step(bx), step(by)
        if height == 1:
            path.extend((y + i * day) * columns + x + i * dax for i in range(width))
            return
        if width == 1:
            path.extend((y + i * dby) * columns + x + i * dbx for i in range(height))
            return
        hax, hay, hbx, hby = int(ax / 2), int(ay / 2), int(bx / 2), int(by / 2)
        if 2 * width > 3 * height:  # long: two halves in a row
            if abs(hax + hay) % 2 and width > 2:
                hax, hay = hax + dax, hay + day
            fill(x, y, hax, hay, bx, by)
            fill(x + hax, y + hay, ax - hax, ay - hay, bx, by)
            return
        if abs(hbx + hby) % 2 and height > 2:
            hbx, hby = hbx + dbx, hby + dby
        fill(x, y, hbx, hby, hax, hay)
        fill(x + hbx, y + hby, ax, ay, bx - hbx, by - hby)
        fill(x + ax - dax + hbx - dbx, y + ay - day + hby - dby, -hbx, -hby, hax - ax, hay - ay)

    if columns >= rows:
        fill(0, 0, columns, 0, 0, rows)
    else:
        fill(0, 0, 0, rows, columns, 0)
    return path


@dataclass(frozen=True, eq=False)
class PackedPlan:
    """Where each token of a sequence goes. Rows of a head's table: `queries` tokens, means of 16 from `fine` on, of
    64 from `coarse` on, `slots` in all.
    """

    tokens: int
    views: int
    specials: int
    group: int  # queries that share a list, one of GROUPS
    queries: int  # slots of tokens, a multiple of `group`: special ones from 0 on, the others from `first` on
    first: int  # a multiple of `group`
    blocks: int  # of 16 patches
    place: Tensor  # (tokens,) int32, the slot of each token
    empty: Tensor  # int32, rows that hold zeros until they are filled
    asked: Tensor  # (groups − exact, group / 8) the slots of the queries that tell the shares
    lengths: Tensor  # (queries / 64,) int32, tokens in each 64 slots: they come first
    loose: Tensor  # int32, slots of tokens in no block: in every list
    every: Tensor  # int32, all blocks: what those groups see which see everything

    @property
    def groups(self) -> int:
        """Groups of queries, each with one list of keys."""
        return self.queries // self.group

    @property
    def exact(self) -> int:
        """Groups of special tokens, at the start: they see everything."""
        return self.first // self.group

    @property
    def patches(self) -> int:
        """Tokens of patches."""
        return self.tokens - self.specials

    @property
    def special_blocks(self) -> int:
        """Whole blocks of special tokens."""
        return self.specials // KEYS

    @property
    def supers(self) -> int:
        """Summaries of several blocks of keys each."""
        return self.blocks * KEYS // SUMMARY

    @property
    def fine(self) -> int:
        """The slot of the first block mean."""
        return self.queries

    @property
    def coarse(self) -> int:
        """The slot of the first summary of several blocks."""
        return self.queries + self.blocks

    @property
    def slots(self) -> int:
        """Rows of the tables of keys and values: tokens, block means, summaries."""
        return self.coarse + self.supers

    def count(self, keep_ratio: float) -> int:
        """Blocks that a group chooses, so that `keep_ratio` of all pairs of tokens are computed at most; at least
        one.
        """
        if keep_ratio >= 1:
            return self.blocks
        keys = (keep_ratio * self.tokens - self.specials) * self.tokens / max(1, self.patches) - self.specials
        keys -= self.patches % KEYS  # every list has them
        return max(1, min(int(keys / KEYS), self.blocks))

    def skipped(self, keep_ratio: float) -> float:
        """1 − computed / all pairs of tokens; means are not counted."""
        count = self.count(keep_ratio)
        if count >= self.blocks:
            return 0.0
        seen = self.specials + count * KEYS + self.patches - self.blocks * KEYS
        return 1 - (self.specials * self.tokens + self.patches * seen) / self.tokens**2

    def room(self, count: int) -> int:
        """Rows beside its blocks that a group's list has at most."""
        partly = min(3 * count, self.blocks - count)
        return len(self.loose) + self.supers + partly + self.blocks % (SUMMARY // KEYS)

    def heads_at_a_time(self, count: int) -> int:
        """So many heads' shares and lists fit in LISTED."""
        row = 4 * (self.blocks + self.special_blocks + count + self.room(count))
        return max(1, LISTED // max(1, row * (self.groups - self.exact)))


@lru_cache(maxsize=32)
def packed_plan(frames: tuple[Frames, ...], device: torch.device | None = None, group: int = GROUPS[0]) -> PackedPlan:
    """The plan for sets of equally sized frames in the order of the sequence, with `group` queries a list; a frame
    without a grid is one run. Kept.
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
        plan = _plan(specials, patches, number, group)
        return plan if device is None else _moved(plan, device)


def _plan(specials: list[int], patches: list[int], views: int, group: int) -> PackedPlan:
    first = -(-len(specials) // group) * group
    queries = first + -(-len(patches) // group) * group
    blocks = len(patches) // KEYS
    order = torch.tensor(specials + patches)
    slot = torch.cat([torch.arange(len(specials)), first + torch.arange(len(patches))])
    place = torch.empty(len(order), dtype=torch.int32)
    place[order] = slot.int()
    free = torch.ones(queries + blocks + blocks * KEYS // SUMMARY, dtype=torch.bool)
    free[slot] = False
    known = ~free[:queries]
    per_group = known.view(-1, group).sum(1)[first // group :]
    asked = torch.arange(group // EVERY)[None] * per_group[:, None] // (group // EVERY)
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
        blocks=blocks,
        place=place, empty=free.nonzero()[:, 0].int(), asked=asked, lengths=known.view(-1, SUMMARY).sum(1,
        dtype=torch.int32), loose=loose.int(), every=whole.int(),
    )  # fmt: skip


def _moved(plan: PackedPlan, device: torch.device) -> PackedPlan:
    parts = {name: getattr(plan, name) for name in plan.__dataclass_fields__}
    moved: dict[str, Any] = {name: part.to(device) for name, part in parts.items() if isinstance(part, Tensor)}
    return replace(plan, **moved)


@dataclass(frozen=True, eq=False)
class Lists:
    """What the ordinary groups see, each (H, groups, …) int32: blocks of 16 rows of the table, and the first
    `lengths` of `rows`.
    """

    blocks: Tensor
    rows: Tensor
    lengths: Tensor


# -- the steps, in plain torch -----------------------------------------------------------------------------------------


def ask(q: Tensor, plan: PackedPlan) -> tuple[Tensor, Tensor]:
    """The queries that tell the shares (H, those of all groups, D), and their mean square (H, D) float32, from q
    (H, slots, D).
    """
    asked = q[:, plan.asked.flatten()]
    return asked, widened(asked).square().mean(1)


def summarise_blocks(keys: Tensor, values: Tensor, squares: Tensor, plan: PackedPlan) -> Tensor:
    """Fill in the means of tables of keys and values (H, slots, D), in place → what the keys' spread adds to the
    logits of each block's and coarse mean's share (H, blocks + supers) float32.
    """
    spreads = []
    for size, first, last in ((KEYS, plan.fine, plan.coarse), (SUMMARY, plan.coarse, plan.slots)):
        tokens = slice(plan.first, plan.first + (last - first) * size)
        for table in (keys, values):
            table[:, first:last] = widened(table[:, tokens]).unflatten(1, (-1, size)).mean(2).to(table.dtype)
        runs = widened(keys[:, tokens]).unflatten(1, (-1, size))
        spread = (runs - runs.mean(2, keepdim=True)).square().mean(2)  # torch warns of var() where there are none
        spreads.append((spread * squares[:, None]).sum(-1) / (2 * keys.shape[-1]))
    return torch.cat(spreads, dim=1)


def block_shares(asked: Tensor, keys: Tensor, spreads: Tensor, plan: PackedPlan) -> Tensor:
    """The shares of all blocks for each ordinary group, times a number that is the same for all: (H, groups,
    blocks).
    """
    covered = plan.supers * (SUMMARY // KEYS)
    x = widened(asked) * asked.shape[-1] ** -0.5
    fine, coarse = (x @ widened(keys[:, a:b]).mT for a, b in ((plan.fine, plan.coarse), (plan.coarse, plan.slots)))
    fine = fine + spreads[:, None, : plan.blocks] + math.log(KEYS)
    coarse = coarse + spreads[:, None, plan.blocks :] + math.log(SUMMARY)
    total = torch.cat([coarse, fine[..., covered:]], dim=-1).logsumexp(-1, keepdim=True)
    result: Tensor = (fine - total).clamp(max=LARGEST).exp().unflatten(1, (-1, plan.asked.shape[1])).sum(2)
    return result


def list_blocks(shares: Tensor, plan: PackedPlan, count: int) -> Lists:
    """The `count` blocks of the highest shares of each group, after those of special tokens; and the means of the
    others.
    """
    heads, groups, _ = shares.shape
    device = shares.device
    picked = torch.zeros_like(shares, dtype=torch.bool).scatter_(-1, shares.topk(count, -1).indices, True)
    chosen = picked.nonzero()[:, 2].view(heads, groups, count) + plan.first // KEYS
    special = torch.arange(plan.special_blocks, device=device).expand(heads, groups, -1)
    per = SUMMARY // KEYS
    touched = picked[..., : plan.supers * per].unflatten(-1, (-1, per)).any(-1)  # (H, groups, supers)
    partly = torch.ones_like(picked)
    partly[..., : plan.supers * per] = touched.repeat_interleave(per, -1)
    wanted = torch.cat([~picked & partly, ~touched], dim=-1)
    ranked = wanted.to(torch.uint8).sort(dim=-1, descending=True, stable=True).indices
    ranked = ranked[..., : plan.room(count) - len(plan.loose)]
    rows = torch.cat([plan.loose.expand(heads, groups, -1), plan.fine + ranked], dim=-1)
    lengths = wanted.sum(-1) + len(plan.loose)
    return Lists(torch.cat([special, chosen], -1).int(), rows.int(), lengths.int())


def gathered_attention(
    q: Tensor, keys: Tensor, values: Tensor, lists: Lists | None, plan: PackedPlan, out: Tensor | None = None
) -> Tensor:
    """Attention of q (H, slots, D) over tables of keys and values (H, slots, D) → (H, queries, D), stored in `out` if
    given; without lists all see all.
    """
    heads, _, dim = q.shape
    heads *= ranks_across()  # the same chunks, and so the same sums, in one process and in several
    whole = plan.every.long()[:, None] * KEYS + torch.arange(KEYS, device=q.device)
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
    weight = torch.where(rows < plan.fine, 0.0, torch.where(rows < plan.coarse, float(KEYS), float(SUMMARY)).log())
    bias = torch.where(inside, weight, -torch.inf)
    every = torch.cat([tokens, rows.where(inside, rows.new_zeros(()))], dim=-1)  # (H, groups, keys)
    at = (every + torch.arange(heads, device=q.device)[:, None, None] * keys.shape[1]).flatten()
    k, v = (t.flatten(0, 1).index_select(0, at).view(heads, groups, -1, dim) for t in (keys, values))
    start = plan.first + part.start * plan.group
    x = q[:, start : start + groups * plan.group].unflatten(1, (groups, plan.group))
    bias = torch.cat([bias.new_zeros(tokens.shape), bias], dim=-1)[:, :, None]
    if q.device.type == "cpu":  # a quarter of the time, and no logits to keep for gradients
        mask = bias.to(torch.float64 if q.dtype == torch.float64 else torch.float32).expand(-1, -1, plan.group, -1)
        return F.scaled_dot_product_attention(x, k, v, attn_mask=mask).flatten(1, 2)
    logits = widened(x) @ widened(k).mT * dim**-0.5
    result: Tensor = ((logits + bias).softmax(-1) @ widened(v)).flatten(1, 2).to(q.dtype)
    return result


def packed_attention(q: Tensor, k: Tensor, v: Tensor, plan: PackedPlan, keep_ratio: float) -> Tensor:
    """All steps for tokens in the order of the sequence, q, k, v (B, H, N, D) → (B, H, N, D)."""
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
    """As `summarise_blocks`, with gradients."""
    parts = [table[:, : plan.fine]]
    for size, count in ((KEYS, plan.blocks), (SUMMARY, plan.supers)):
        tokens = widened(table[:, plan.first : plan.first + count * size])
        parts.append(tokens.unflatten(1, (-1, size)).mean(2).to(table.dtype))
    return torch.cat(parts, dim=1)
