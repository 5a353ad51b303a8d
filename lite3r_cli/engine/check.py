"""Check every fused operator against its twin in plain torch, on the device. Both run in the same precision on the same
operands; both errors are relative to an unquantised float32 run. A fused operator may have at most twice the error of
its twin. `lite3r bench` prints no speed-up before this holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lite3r_cli.attention import packed
from lite3r_cli.attention.tiling import Frames
from lite3r_cli.engine import twins
from lite3r_cli.engine.operators import Operators, operators
from lite3r_cli.engine.twins import LinearBranch, Summaries, Tiles

FACTOR, SLACK = 2.0, 1e-5  # the slack allows for float32 sums in another order
RAGGED = (64, 61, 33, 1, 64)  # tokens of tiles, repeated


@dataclass(frozen=True)
class OperatorCheck:
    """The errors of one operator."""

    operator: str
    error: float  # of the fused operator: ‖fast − float32‖ / ‖float32‖
    usual: float  # of the twin in the same precision

    @property
    def passed(self) -> bool:
        """Whether the error is small enough; False for NaN."""
        return self.error <= FACTOR * self.usual + SLACK


@dataclass(frozen=True)
class Sizes:
    """Sizes of the random operands; odd on purpose."""

    tokens: int = 2082
    heads: int = 16
    dim: int = 64
    blocks: int = 35
    width: int = 64


Case = Callable[[Operators, torch.dtype, bool], Tensor]


def check_operators(
    device: torch.device, dtype: torch.dtype, fp8: bool, kernels: bool | None = None, sizes: Sizes = Sizes()
) -> list[OperatorCheck]:
    """Check all operators of a device on random operands. `kernels` as in `operators`."""
    fast, plain = operators(device, kernels), operators(device, False)
    make = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=make, device=device)

    checks = []
    for name, run in _cases(random, sizes, device):
        exact = run(plain, torch.float32, False)
        found, usual = (_error(run(ops, dtype, fp8), exact) for ops in (fast, plain))
        checks.append(OperatorCheck(name, found, usual))
    return checks


def _error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact.double()).norm() / exact.double().norm().clamp(min=1e-30))


def _wide(operand: tuple[Tensor, Tensor | None]) -> Tensor:
    values, scale = operand
    return values.float() if scale is None else values.float() * scale


def _cases(random: Callable[..., Tensor], sizes: Sizes, device: torch.device) -> Iterator[tuple[str, Case]]:
    """Pairs of a name and a function `run(operators, dtype, fp8)` whose results are compared. Operands are rounded to
    bfloat16 first, so that all runs get the same values.
    """

    def given(*shape: int) -> Tensor:
        return random(*shape).bfloat16().float()

    tokens, heads, dim = sizes.tokens, sizes.heads, sizes.dim
    width = heads * dim
    x, y, hidden, qkv = given(tokens, width), given(tokens, width), given(tokens, 4 * width), given(tokens, 3 * width)
    gamma, weight, bias, shift, wide = random(width), random(width), random(width), random(width), random(4 * width)

    def added(ops, kind, fp8):
        stream = x.to(kind, copy=True)
        return _wide(ops.add_norm_quant(stream, y.to(kind), shift, gamma, weight, bias, 1e-6, fp8))

    def stream(ops, kind, fp8):
        changed = x.to(kind, copy=True)
        ops.add_scaled(changed, y.to(kind), shift, gamma)
        return changed.float()

    yield "norm_quant", lambda ops, kind, fp8: _wide(ops.norm_quant(x.to(kind), weight, bias, 1e-6, fp8))
    yield "add_norm_quant", added
    yield "add_scaled", stream
    yield "gelu_quant", lambda ops, kind, fp8: _wide(ops.gelu_quant(hidden.to(kind), wide, fp8))
    yield "swiglu_quant", lambda ops, kind, fp8: _wide(ops.swiglu_quant(hidden.to(kind), wide, fp8))
    yield "quant", lambda ops, kind, fp8: _wide(ops.quant(x.to(kind), fp8))
    norms = tuple(random(dim) for _ in range(4))
    rope = (random(tokens // 2, dim), random(tokens // 2, dim))
    order = torch.randperm(tokens + 7, device=device).int()
    place, empty = order[:tokens], order[tokens:]
    bias3 = random(3 * width)

    def split(ops, kind, fp8):
        out = torch.full((3, heads, tokens + 7, dim), torch.nan, device=device, dtype=kind)
        ops.split_heads(qkv.to(kind), bias3, norms, 1e-5, rope, place, empty, out)
        return out.float()

    yield "split_heads", split
    tiles = given(heads, tokens + 7, dim)
    yield "merge_heads", lambda ops, kind, fp8: _wide(ops.merge_heads(tiles.to(kind), place, tokens, fp8))
    yield from _block_cases(random, given, sizes, device)
    for group, parts in ((128, 0.0), (64, 0.0), (64, 1.5)):
        yield from _packed_cases(random, given, sizes, device, group, parts)
    yield from _growing_cases(random, given, sizes, device)
    yield from _map_cases(random, given, sizes, device)
    yield from _stage_cases(random, given, sizes, device)


def _block_cases(random, given, sizes: Sizes, device: torch.device) -> Iterator[tuple[str, Case]]:
    heads, dim, width, blocks = sizes.heads, sizes.dim, sizes.width, sizes.blocks
    tokens = [RAGGED[i % len(RAGGED)] * width // 64 or 1 for i in range(blocks)]
    lengths = torch.tensor(tokens, dtype=torch.int32, device=device)
    occupied = (torch.arange(width, device=device) < lengths[:, None]).flatten()
    q, k, v = (given(heads, blocks * width, dim).masked_fill(~occupied[:, None], 0) for _ in range(3))
    yield "block_moments", lambda ops, kind, fp8: torch.cat(ops.block_moments(k.to(kind), lengths, width))
    sums = [lambda ops, kind, fp8, i=i: ops.linear_sums(k.to(kind), v.to(kind), lengths, width)[i] for i in (0, 1)]
    yield "linear_sums, square", _rounded(sums[0])
    yield "linear_sums, norm", _rounded(sums[1])
    means, spreads = twins.block_moments(k, lengths, width)
    values, _ = twins.block_moments(v, lengths, width)
    square, norm = twins.linear_sums(k, v, lengths, width)
    protected = torch.arange(blocks, device=device) < 2
    count = max(3, blocks // 4)
    for group in (1, 2):
        rows = -(-blocks // group)
        scores = random(heads, rows, blocks).round(decimals=1)  # with many equal ones
        plan = Tiles.of(width, group, lengths, torch.arange(rows, device=device) < 1)
        columns, left = twins.select_blocks(scores, protected, plan, count)

        def select(ops, kind, fp8, scores=scores, plan=plan):
            return torch.cat([t.flatten() for t in ops.select_blocks(scores, protected, plan, count)])

        yield f"select_blocks, {group} tiles", select
        for mix in ("sum over the rest, summaries", "sum over all, summaries", "convex over all"):
            mixes = (random(dim, dim) / dim, None) if mix.startswith("sum") else (None, random(heads).sigmoid())
            branch = LinearBranch(square, norm, "rest" in mix, *mixes)
            summaries_of_tiles = Summaries(means, spreads, values) if "summaries" in mix else None

            def attend(
                ops, kind, fp8, columns=columns, left=left, plan=plan, branch=branch, summaries=summaries_of_tiles
            ):
                out = ops.sparse_attention(*(t.to(kind) for t in (q, k, v)), columns, left, plan, branch, summaries)
                return out[:, occupied].float()

            yield f"sparse_attention, {group} tiles, {mix}", attend


def _packed_cases(
    random, given, sizes: Sizes, device: torch.device, group: int, parts: float
) -> Iterator[tuple[str, Case]]:
    grid, specials = (max(4, sizes.blocks // 2), max(6, sizes.blocks * 2 // 3)), 5
    plan = packed.packed_plan((Frames(3, specials + grid[0] * grid[1], specials, grid),), device, group, parts)
    place = plan.place.long()
    table = torch.zeros(3, sizes.heads, plan.slots, sizes.dim, device=device)
    table[:, :, place] = given(3, sizes.heads, plan.tokens, sizes.dim)
    asked, squares = packed.ask(table[0], plan)
    filled = table.clone()
    spreads = packed.summarise_blocks(filled[1], filled[2], squares, plan)
    filled = filled.bfloat16().float()
    shares = packed.block_shares(asked, filled[1], spreads, plan)
    compared = (shares.view(torch.int32) >> packed.IGNORED << packed.IGNORED).view(torch.float32)
    count = max(1, plan.blocks // 4)
    lists = packed.list_blocks(shares, plan, count)

    def means(ops, kind, fp8):
        own = table.to(kind, copy=True)
        ops.summarise_blocks(own[1], own[2], squares, plan)
        return own[1:, :, plan.queries :].float()

    def chosen(ops, kind, fp8):
        """The sum of the chosen shares and the number of tokens that the lists cover. The lists themselves may differ,
        because equal shares may be chosen in another order.
        """
        found = ops.list_blocks(shares, plan, count)
        blocks = found.blocks[..., plan.special_blocks :].long() - plan.first // packed.KEYS
        known = torch.arange(found.rows.shape[2], device=device) < found.lengths[..., None]
        weigh = packed.weights_of(found.rows, plan)
        tokens = packed.KEYS * found.blocks.shape[2] + (weigh * known).sum(-1)
        parted = known & (found.rows >= plan.queries) & (found.rows < plan.fine)
        split = (found.rows - plan.queries).clamp(min=0, max=plan.fine - plan.queries - 1 if plan.parts else 0)
        of_parts = compared.gather(2, split.long() // (packed.KEYS // packed.PART))
        of_parts = (of_parts * parted).sum(-1)
        return torch.stack([compared.gather(2, blocks).sum(-1), of_parts, tokens / plan.tokens])

    def attended(lists):
        def run(ops, kind, fp8):
            return ops.gathered_attention(*filled.to(kind), lists, plan)[:, place].float()

        return run

    def summaries(ops, kind, fp8):
        keys, values = table[1:].to(kind, copy=True)
        return ops.summarise_blocks(keys, values, squares, plan)

    several = f"{group} queries" + (", parts" if parts else "")
    yield f"summarise_blocks, means, {several}", means
    yield f"summarise_blocks, spreads, {several}", summaries
    yield (
        f"block_shares, {several}",
        lambda ops, kind, fp8: ops.block_shares(asked.to(kind), filled[1].to(kind), spreads, plan),
    )
    yield f"list_blocks, {several}", chosen
    yield f"gathered_attention, {several}", attended(lists)
    yield f"gathered_attention, all, {several}", attended(None)


def _growing_cases(random, given, sizes: Sizes, device: torch.device) -> Iterator[tuple[str, Case]]:
    """A cache of which a part is visible: at once, or in two parts, of which the second may be empty; and storing."""
    queries, tokens = sizes.tokens // 2 + 1, 3 * sizes.tokens + 5
    q, cache = given(sizes.heads, queries, sizes.dim), given(2, sizes.heads, tokens, sizes.dim)
    cache[:, :, -3:] = torch.nan
    first = tokens // 2

    def count(n: int) -> Tensor:
        return torch.tensor([n], dtype=torch.int32, device=device)

    def at_once(ops, kind, fp8):
        return ops.growing_attention(q.to(kind), *cache.to(kind), count(tokens - 3)).float()

    def in_two(rest: int) -> Case:
        def run(ops, kind, fp8):
            asked, (k, v) = q.to(kind), cache.to(kind)
            lse = (asked.float() @ k[:, :first].float().transpose(1, 2) * sizes.dim**-0.5).logsumexp(-1)
            before = ops.growing_attention(asked, k, v, count(first)), lse
            return ops.growing_attention(asked, k[:, first:], v[:, first:], count(rest), before).float()

        return run

    yield "growing_attention", at_once

    yield "growing_attention, in two parts", in_two(tokens - 3 - first)
    yield "growing_attention, nothing more", in_two(0)
    room, some = given(2, sizes.heads, tokens, sizes.dim), given(2, sizes.heads, queries, sizes.dim)

    def stored(moved: int) -> Case:
        def run(ops, kind, fp8):
            own = room.to(kind, copy=True)
            ops.store_tokens(some.to(kind)[:, :, :-1], own, torch.tensor([2, tokens - 7], device=device), moved)
            return own.float()

        return run

    yield "store_tokens", stored(0)
    yield "store_tokens, with moved ones", stored(min(6, queries - 1))


def _rounded(run):
    """Round float32 sums to the precision of their operands before the comparison."""
    return lambda ops, kind, fp8: run(ops, kind, fp8).to(kind).float()


def _map_cases(random, given, sizes: Sizes, device: torch.device) -> Iterator[tuple[str, Case]]:
    """Maps (B, C, H, W) of odd sizes, channels last, like the output of the convolutions."""
    channels, (rows, columns) = 8 * sizes.heads, (23, 37)

    def pixels(height: int, width: int) -> Tensor:
        return given(2, height, width, channels).permute(0, 3, 1, 2)

    x, y, skip, bias = pixels(7, 11), pixels(rows, columns), pixels(rows, columns), random(channels)
    tables = random(columns, channels // 2), random(rows, channels // 2)
    weight, last_bias = random(2, channels) / channels, random(2)
    images, mean, std = given(2, 3, 3 * 14, 5 * 14), random(3), random(3).abs() + 0.1

    def added(i: int, both: bool) -> Case:
        def run(ops, kind, fp8):
            return ops.resize_add(x.to(kind), y.to(kind, copy=True), bias, skip.to(kind), both)[i].float()

        return run

    def values(ops, kind, fp8):
        depth, confidence = (torch.full((2, rows, columns), torch.nan, device=device) for _ in range(2))
        ops.depth_values(y.to(kind), bias, weight, last_bias, depth, confidence)
        return torch.stack([depth, confidence])

    yield "resize_map", lambda ops, kind, fp8: ops.resize_map(x.to(kind), (rows, columns)).float()
    yield "resize_map, position", lambda ops, kind, fp8: ops.resize_map(x.to(kind), (rows, columns), tables).float()
    yield "resize_map, same size", lambda ops, kind, fp8: ops.resize_map(y.to(kind), (rows, columns), tables).float()
    for name, i, both in (("sum", 0, True), ("both", 1, True), ("ReLU", 1, False)):
        yield f"resize_add, {name}", added(i, both)
    yield "bias_relu", lambda ops, kind, fp8: ops.bias_relu(y.to(kind, copy=True), bias).float()
    yield "depth_values", values
    yield "patch_rows", lambda ops, kind, fp8: ops.patch_rows(images, mean, std, 14, 592, kind).float()


def _stage_cases(random, given, sizes: Sizes, device: torch.device) -> Iterator[tuple[str, Case]]:
    """Maps of a head with stages of convolutions, and the tokens of which it doubles the size."""
    channels, groups, (rows, columns) = 8 * sizes.heads, sizes.heads, (7, 9)

    def pixels(width: int) -> Tensor:
        return given(2, rows, columns, width).permute(0, 3, 1, 2)

    x, y, bias = pixels(channels), pixels(channels), random(channels)
    norm, affine = (random(channels), random(channels), 1e-5), (random(2, channels), random(2, channels))
    cells, table = given(2, 5, 7, 4 * channels), random(3, 4 * channels)
    position, weight, last = (random(columns, channels), random(rows, channels)), random(3, channels), random(3)

    def summed(i: int) -> Case:
        def run(ops, kind, fp8):
            changed = x.to(kind).contiguous(memory_format=torch.channels_last).clone()
            return (ops.add_sums(changed, y.to(kind), bias).sum(1), changed.float())[i]

        return run

    def normed(ops, kind, fp8):
        plain = x.to(kind).contiguous(memory_format=torch.channels_last)
        return torch.stack(ops.group_affine(ops.add_sums(plain, None, bias), norm, bias, groups, rows * columns))

    yield "add_sums, sums", summed(0)
    yield "add_sums, map", summed(1)
    yield "group_affine", normed
    yield "norm_relu_pad", lambda ops, kind, fp8: ops.norm_relu_pad(x.to(kind), affine).float()
    yield "double_pad", lambda ops, kind, fp8: ops.double_pad(cells.to(kind), table, (0.8, 0.6)).float()
    yield "enlarge_pad", lambda ops, kind, fp8: ops.enlarge_pad(x.to(kind), (11, 14)).float()
    yield "pixel_values", lambda ops, kind, fp8: ops.pixel_values(x.to(kind), position, weight / channels, last)
