"""One prediction with several processes, each with some of the views: sequence-parallel attention.

Layers within a view need no communication. Before attention across views, an all-to-all turns the tokens of a process
with all heads into all tokens with some heads; a second one reverses it (DeepSpeed Ulysses, arXiv 2309.14509). Each
head computes the same as in one process, with the same block maps, summaries and kernels, so the result is the same.

A network works on the views of its process. `whole` collects values of all views; `mine` selects the values of the own
views. Outside a sharded prediction both return their argument.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from lite3r_cli.layers.seen import Seen

Size = tuple[int, int]


def group_sizes(sizes: Sequence[Size]) -> list[list[int]]:
    """Indices of the views of each size, in order of first appearance: the order of the packed sequence."""
    groups: dict[Size, list[int]] = {}
    for i, size in enumerate(sizes):
        groups.setdefault(size, []).append(i)
    return list(groups.values())


@dataclass(frozen=True)
class Shards:
    """Which views belong to which process."""

    rank: int
    runs: tuple[range, ...]  # the views of each process
    sizes: tuple[Size, ...]  # (height, width) of all views, pixels
    patch_size: int
    masks: Sequence[Tensor | None] | None = field(default=None, compare=False)  # per view (H, W): pixels to ignore

    @property
    def ranks(self) -> int:
        """The number of processes."""
        return len(self.runs)

    @property
    def own(self) -> range:
        """The views of this process."""
        return self.runs[self.rank]

    @cached_property
    def groups(self) -> list[list[int]]:
        """The views of each size, over all processes."""
        return group_sizes(self.sizes)

    @cached_property
    def grids(self) -> list[Size]:
        """Patch rows and columns of each group."""
        patch = self.patch_size
        return [(self.sizes[g[0]][0] // patch, self.sizes[g[0]][1] // patch) for g in self.groups]

    @cached_property
    def seen(self) -> Seen | None:
        """The patches of all views that are not masked; None: all patches."""
        return Seen.of(self.masks, self.groups, self.grids)

    @cached_property
    def packed(self) -> list[int]:
        """The views in the order of the packed sequence."""
        return [view for group in self.groups for view in group]

    @cached_property
    def arriving(self) -> list[int]:
        """The views in the order in which an all-to-all delivers them: by process, each with its own packed order."""
        return [run[i] for run in self.runs for group in group_sizes([self.sizes[v] for v in run]) for i in group]

    def patches(self, view: int) -> int:
        """The number of patches of a view."""
        height, width = self.sizes[view]
        return (height // self.patch_size) * (width // self.patch_size)

    def specials(self, tokens: int) -> int:
        """Special tokens per view, if this process has `tokens` tokens in total."""
        return (tokens - sum(map(self.patches, self.own))) // len(self.own)

    def counts(self, specials: int) -> list[int]:
        """The number of tokens of each process, with `specials` special tokens per view."""
        return [sum(specials + self.patches(view) for view in run) for run in self.runs]


@lru_cache(maxsize=8)
def _order(shards: Shards, specials: int, device: torch.device) -> tuple[Tensor, Tensor] | None:
    """Index of each packed token among the arriving tokens, and the inverse; None if the order is the same."""
    if shards.arriving == shards.packed:
        return None
    sizes = {view: specials + shards.patches(view) for view in shards.packed}
    starts, at = {}, 0
    for view in shards.arriving:
        starts[view], at = at, at + sizes[view]
    order = torch.cat([torch.arange(starts[view], starts[view] + sizes[view]) for view in shards.packed])
    return order.to(device), order.argsort().to(device)


_current: ContextVar[Shards | None] = ContextVar("shards", default=None)
_across: ContextVar[bool] = ContextVar("across views", default=False)


def current() -> Shards | None:
    """The shards of the current prediction; None if it is not divided."""
    return _current.get()


@contextmanager
def divided(shards: Shards) -> Iterator[None]:
    """Inside this context, networks get the views of this process only. All processes must make the same calls."""
    token = _current.set(shards)
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def across_views() -> Iterator[None]:
    """Marks attention inside this context as attention across views."""
    token = _across.set(True)
    try:
        yield
    finally:
        _across.reset(token)


# -- values of views ---------------------------------------------------------------------------------------------------


def whole(x: Tensor) -> Tensor:
    """Values (B, S_own, …) of this process's views → values of all views (B, S, …), in the order of the views."""
    shards = current()
    if shards is None:
        return x
    most = max(map(len, shards.runs))
    padded = x.new_zeros(most, len(x), *x.shape[2:])
    padded[: x.shape[1]] = x.transpose(0, 1)
    parts = [torch.empty_like(padded) for _ in shards.runs]
    torch.distributed.all_gather([_bytes(part) for part in parts], _bytes(padded))
    return torch.cat([part[: len(run)] for part, run in zip(parts, shards.runs)]).transpose(0, 1)


def mine(x: Tensor) -> Tensor:
    """Values (B, S, …) of all views → values of this process's views (B, S_own, …)."""
    shards = current()
    return x if shards is None else x[:, shards.own.start : shards.own.stop]


def first_view() -> int:
    """The index of this process's first view among all views."""
    shards = current()
    return 0 if shards is None else shards.own.start


def count_all(own: int) -> int:
    """The number of views of all processes; `own` is that of this process."""
    shards = current()
    return own if shards is None else len(shards.sizes)


def sizes_of_all(images: Sequence[Tensor]) -> list[Size]:
    """Height and width of the views of all processes; `images` are those of this process."""
    shards = current()
    return [(im.shape[-2], im.shape[-1]) for im in images] if shards is None else list(shards.sizes)


def in_packed_order(x: Tensor, shards: Shards) -> Tensor:
    """Values (B, S_own) in this process's packed order of views → values (B, S) in the packed order of all views."""
    local = [i for group in group_sizes([shards.sizes[v] for v in shards.own]) for i in group]
    by_view = torch.empty_like(x)
    by_view[:, local] = x
    return whole(by_view)[:, shards.packed]


# -- tokens and heads --------------------------------------------------------------------------------------------------


def _bytes(x: Tensor) -> Tensor:
    """x as (rows, bytes per row) uint8 without a copy: every communication back end supports uint8."""
    return x.flatten(1).view(torch.uint8)


def to_heads(x: Tensor, shards: Shards) -> Tensor:
    """Tokens (N_own, K, H, D) of this process → all tokens in packed order with this process's heads
    (N, K, H / ranks, D).
    """
    return _exchanged(_by_rank(x, shards), shards, len(x))


def _by_rank(x: Tensor, shards: Shards) -> Tensor:
    """Tokens (N_own, K, H, D) → for each process its heads of them, one after the other (ranks · N_own, K, H / ranks,
    D).
    """
    return x.unflatten(2, (shards.ranks, -1)).movedim(2, 0).contiguous().flatten(0, 1)


def _exchanged(sent: Tensor, shards: Shards, tokens: int) -> Tensor:
    """`_by_rank` of all processes' `tokens` tokens → all tokens with this process's heads, see `to_heads`."""
    counts = shards.counts(specials := shards.specials(tokens))
    found = sent.new_empty(sum(counts), *sent.shape[1:])
    torch.distributed.all_to_all_single(_bytes(found), _bytes(sent), counts, [tokens] * shards.ranks)
    order = _order(shards, specials, sent.device)
    return found if order is None else found[order[0]]


def to_tokens(x: Tensor, shards: Shards, tokens: int) -> Tensor:
    """The inverse of `to_heads`: (N, H / ranks, D) → the `tokens` tokens of this process (N_own, H, D)."""
    counts = shards.counts(specials := shards.specials(tokens))
    order = _order(shards, specials, x.device)
    sent = x.contiguous() if order is None else x[order[1]]
    found = sent.new_empty(shards.ranks * tokens, *sent.shape[1:])
    torch.distributed.all_to_all_single(_bytes(found), _bytes(sent), [tokens] * shards.ranks, counts)
    return found.unflatten(0, (shards.ranks, tokens)).movedim(0, 1).flatten(1, 2)


def is_divided() -> bool:
    """Whether the current attention is across the views of several processes."""
    return current() is not None and _across.get()


def ranks_across() -> int:
    """The number of processes that share the heads of the current attention; 1 if it is not divided."""
    shards = current()
    return shards.ranks if shards is not None and _across.get() else 1


def rows_of_heads(rows: list[Tensor], parts: int, heads: int) -> Tensor:
    """Rows (N_own, parts · H · D) of this process's tokens → rows (N, parts · H / ranks · D) of all tokens with this
    process's heads. Returns the rows if attention is not divided.

    The rows are taken out of their list: they are the largest tensor of a layer, and are freed before the exchange.
    """
    shards, x = current(), rows.pop()
    if shards is None or not _across.get():
        return x
    tokens, sent = len(x), _by_rank(x.unflatten(1, (parts, heads, -1)), shards)
    del x
    return _exchanged(sent, shards, tokens).flatten(1)


def rows_of_tokens(rows: Tensor, heads: int, tokens: int) -> Tensor:
    """The inverse of `rows_of_heads` for one part: rows (N, H / ranks · D) → (N_own, H · D). Only if it is divided."""
    shards = current()
    assert shards is not None
    return to_tokens(rows.unflatten(1, (heads // shards.ranks, -1)), shards, tokens).flatten(1)


def own_heads(x: Tensor) -> Tensor:
    """Values (H, …) of all heads → values of the heads of this process in attention across views."""
    shards = current()
    if shards is None or not _across.get():
        return x
    return x.unflatten(0, (shards.ranks, -1))[shards.rank]


Mix = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


def mix_heads(mix: Mix, q: Tensor, k: Tensor, v: Tensor, keys: Tensor | None) -> Tensor:
    """`mix` of q, k, v (1, H, N, D). If attention is divided among processes, `mix` gets all tokens of some heads."""
    shards = current()
    if shards is None or not _across.get():
        return mix(q, k, v, keys)
    rows = torch.stack([q[0], k[0], v[0]]).permute(2, 0, 1, 3)  # (N_own, 3, H, D)
    heads = to_heads(rows, shards).permute(1, 2, 0, 3).contiguous()  # (3, H / ranks, N, D)
    out = mix(heads[0][None], heads[1][None], heads[2][None], keys)
    return to_tokens(out[0].transpose(0, 1), shards, len(rows)).transpose(0, 1)[None]
