"""Attention over packed tokens: blocks along a curve, lists that cover each token once, formula, gradients."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from lite3r_cli.attention import packed
from lite3r_cli.attention.packed import GROUPS, KEYS, PART, SUMMARY, Lists, PackedPlan, packed_plan
from lite3r_cli.attention.tiling import Frames

SEQUENCES = {
    "vggt-like": (Frames(3, 5 + 17 * 23, 5, (17, 23)),),
    "mini-like": (Frames(2, 1 + 9 * 8, 1, (9, 8)),),
    "several sizes": (Frames(2, 1 + 7 * 11, 1, (7, 11)), Frames(3, 1 + 12 * 5, 1, (12, 5))),
    "many specials": (Frames(40, 5 + 6, 5, (2, 3)),),
    "runs, no specials": (Frames(1, 257),),
    "shorter than a block": (Frames(1, 9, 1, (2, 4)),),
}


def tokens_of(frames: tuple[Frames, ...], dim: int = 8, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    total = sum(group.count * group.tokens for group in frames)
    make = torch.Generator().manual_seed(0)
    return [torch.randn(1, 2, total, dim, generator=make, dtype=dtype) * 1.5 for _ in range(3)]


def lists_for(q: Tensor, k: Tensor, plan: PackedPlan, count: int) -> tuple[Lists, Tensor]:
    """The lists, and the shares that they were made of; q, k (1, H, N, D)."""
    table = torch.full((3, q.shape[1], plan.slots, q.shape[3]), torch.nan, dtype=q.dtype)  # nobody may look there
    table[:, :, plan.place.long()] = torch.cat([q, k, k])
    asked, squares = packed.ask(table[0], plan)
    spreads = packed.summarise_blocks(table[1], table[2], squares, plan)
    shares = packed.block_shares(asked, table[1], spreads, plan)
    return packed.list_blocks(shares, plan, count), shares


@pytest.mark.parametrize(
    "rows, columns", [(1, 1), (1, 9), (7, 1), (5, 4), (17, 23), (28, 37), (37, 28), (25, 37), (2, 51)]
)
def test_the_curve_goes_through_every_cell_by_neighbours(rows, columns):
    cells = packed.hilbert(rows, columns)
    assert sorted(cells) == list(range(rows * columns))
    steps = [max(abs(a // columns - b // columns), abs(a % columns - b % columns)) for a, b in pairwise(cells)]
    assert max(steps, default=1) == 1  # diagonals at most


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("name", SEQUENCES)
def test_every_token_has_a_slot_and_queries_ask_for_tokens(name, group):
    plan = packed_plan(SEQUENCES[name], None, group)
    place = plan.place.long()
    assert len(place.unique()) == plan.tokens and not set(place.tolist()) & set(plan.empty.tolist())
    assert int(plan.lengths.sum()) == plan.tokens and plan.queries % plan.group == 0
    assert set(plan.asked.flatten().tolist()) <= set(place.tolist())


def tokens_behind(row: int, plan: PackedPlan) -> slice:
    """The slots of the tokens that a table row stands for."""
    level = (row >= plan.queries) + (row >= plan.fine) + (row >= plan.coarse)
    width = (1, PART, KEYS, SUMMARY)[level]
    start = (0, plan.queries, plan.fine, plan.coarse)[level]
    first = row if level == 0 else plan.first + (row - start) * width
    return slice(first, first + width)


@pytest.mark.parametrize("name", SEQUENCES)
@pytest.mark.parametrize("keep, group, parts", [(0.1, 128, 0), (0.1, 64, 1.5), (0.5, 64, 0), (0.9, 128, 9)])
def test_a_list_stands_for_every_token_once(name, keep, group, parts):
    plan = packed_plan(SEQUENCES[name], None, group, parts)
    count = plan.count(keep)
    if count >= plan.blocks:
        pytest.skip("so few blocks that all are chosen")
    q, k, _ = tokens_of(SEQUENCES[name])
    lists, shares = lists_for(q, k, plan, count)
    assert (shares >= 0).all() and shares.isfinite().all()
    for blocks, rows, length in zip(lists.blocks.flatten(0, 1), lists.rows.flatten(0, 1), lists.lengths.flatten()):
        seen = torch.zeros(plan.queries, dtype=torch.int)
        for first in (blocks * KEYS).tolist():
            seen[first : first + KEYS] += 1
        for row in rows[:length].tolist():
            seen[tokens_behind(row, plan)] += 1
        assert (seen[plan.place.long()] == 1).all() and int(seen.sum()) == plan.tokens
    chosen = lists.blocks[..., plan.special_blocks :].long() - plan.first // KEYS
    least = shares.gather(2, chosen).amin(-1)
    others = shares.scatter(2, chosen, -1)
    assert (least >= others.amax(-1)).all()
    if plan.parted(count):
        of_parts = (lists.rows >= plan.queries) & (lists.rows < plan.fine)
        split = (lists.rows[of_parts].view(*others.shape[:2], -1).long() - plan.queries) // (KEYS // PART)
        assert split.shape[2] == plan.parted(count) * KEYS // PART
        assert (others.gather(2, split).amin(-1) >= others.scatter(2, split, -1).amax(-1)).all()


@pytest.mark.parametrize("name", SEQUENCES)
def test_keeping_everything_is_dense_attention(name):
    q, k, v = tokens_of(SEQUENCES[name])
    plan = packed_plan(SEQUENCES[name])
    assert plan.skipped(1.0) == 0
    torch.testing.assert_close(packed.packed_attention(q, k, v, plan, 1.0), by_weights(q, k, v, plan, None))


def by_weights(q: Tensor, k: Tensor, v: Tensor, plan: PackedPlan, lists: Lists | None) -> Tensor:
    """The formula with a weight for each token: a mean counts as its tokens, each with the mean key and value."""
    out = []
    slot_of, dim = plan.place.long(), q.shape[-1]
    token_in = torch.full((plan.queries,), -1).index_copy(0, slot_of, torch.arange(plan.tokens))
    for head in range(q.shape[1]):
        keys, values = k[0, head], v[0, head]
        rows = []
        for group in range(plan.groups):
            members = token_in[group * plan.group : (group + 1) * plan.group]
            members = members[members >= 0]
            near_k, near_v = keys, values
            if lists is not None and group >= plan.exact:
                rows_of = lists.rows[head, group - plan.exact][: lists.lengths[head, group - plan.exact]].tolist()
                average = torch.eye(plan.tokens, dtype=q.dtype)
                for row in (row for row in rows_of if row >= plan.queries):
                    inside = token_in[tokens_behind(row, plan)]
                    average[inside] = 0
                    average[inside[:, None], inside] = 1 / len(inside)
                near_k, near_v = average @ keys, average @ values
            rows.append((members, (q[0, head, members] @ near_k.T * dim**-0.5).softmax(-1) @ near_v))
        order = torch.cat([members for members, _ in rows])
        out.append(torch.cat([part for _, part in rows])[order.argsort()])
    return torch.stack(out)[None]


@pytest.mark.parametrize("name, group, parts", [("vggt-like", 128, 0), ("several sizes", 64, 0), ("vggt-like", 64, 1)])
def test_values_and_gradients_are_those_of_the_formula(name, group, parts):
    given = [t.requires_grad_() for t in tokens_of(SEQUENCES[name], dtype=torch.float64)]
    plan = packed_plan(SEQUENCES[name], None, group, parts)
    count = plan.count(0.4)
    assert count < plan.blocks
    lists, _ = lists_for(given[0].detach(), given[1].detach(), plan, count)
    expected, found = by_weights(*given, plan, lists), packed.packed_attention(*given, plan, 0.4)
    torch.testing.assert_close(found, expected)
    change = torch.randn_like(found)
    for a, b in zip(torch.autograd.grad(found, given, change), torch.autograd.grad(expected, given, change)):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("keep", [0.05, 0.25, 0.6])
def test_no_more_pairs_are_computed_than_asked_for(keep):
    plan = packed_plan((Frames(20, 1 + 25 * 37, 1, (25, 37)),))
    assert keep - 0.002 < 1 - plan.skipped(keep) <= keep


def test_heads_wait_where_lists_are_large():
    small, large = (packed_plan((Frames(views, 5 + 28 * 37, 5, (28, 37)),)) for views in (8, 40))
    assert small.heads_at_a_time(small.count(0.1), 16) == 16
    most = large.heads_at_a_time(large.count(0.1), 10**6)
    assert 1 < most < 1000
    assert large.heads_at_a_time(large.count(0.1), most + 1) == most // 2 + 1  # two parts of nearly equal size
    assert replace(small, blocks=10**7).heads_at_a_time(10**6, 16) == 1
