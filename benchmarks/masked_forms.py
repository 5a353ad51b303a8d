"""One layer of attention in any form of sparse attention, computed exactly: for `sparse_forms.py`.

Dense attention with a mask, and with the means of what is masked: a form needs no kernel to be judged.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from lite3r_cli.attention.packed import hilbert

SPECIALS = 1  # special tokens of a view of `mini`
FINER = 4  # tokens of the means of the best blocks left out


@dataclass(frozen=True)
class Form:
    """One way to leave keys out."""

    keep: float  # of all pairs of query and key blocks, mean over the layers
    queries: int = 192  # tokens that share a list of key blocks
    keys: int = 16  # tokens of a key block
    order: str = "hilbert"  # the curve through a frame that blocks are runs of; "walk8": bands of eight rows
    # mean: shares of a softmax over means of keys; mass: with their variances; scalar: those under the mean square of a
    # head's queries; scalar, coarse: its divisor from means of 64; pooled: by the mean query; submean, submass: by
    # means of some queries; fine: in blocks of 16, added up; true: by all keys; "… by 8": each half of 16 by itself
    scores: str = "mean"
    asked: int = 16  # queries of a block that tell the mass
    budget: str = "row"  # the best blocks of: a "row" of the map, a "head", all heads of a "layer"
    summaries: str = "mean"  # of a block left out: "mean", "spread" (with variances; a number: so much of them), "none"
    summary: int = (
        0  # tokens of a mean, 0: of a key block; −1: 64 where none of them is seen, else those of a key block
    )
    finer: float = 0.0  # the best of the blocks left out, so many for each that is kept, count by means of 4 tokens
    weights: str = "usual"  # of the layers, a key of SCHEDULES
    alone: int = -1  # the only layer that skips anything; −1: all do
    reference: bool = False  # the first view's keys are always kept

    @property
    def name(self) -> str:
        plain = Form(self.keep)
        said = [f"{k} {v}" for k, v in asdict(self).items() if k != "keep" and v != getattr(plain, k)]
        return f"{100 * (1 - self.keep):g} % skipped: " + (", ".join(said) or "the default")


# -- orders ------------------------------------------------------------------------------------------------------------


def walk(rows: int, columns: int, height: int) -> list[int]:
    """Bands of about `height` rows, column by column, every other one backwards."""
    count = max(1, round(rows / height))
    edges = [rows * i // count for i in range(count + 1)]
    return [
        r * columns + (columns - 1 - c if i % 2 else c)
        for i, (a, b) in enumerate(pairwise(edges))
        for c in range(columns)
        for r in range(a, b)
    ]


@lru_cache(maxsize=64)
def sequence(order: str, views: int, grid: tuple[int, int], device: torch.device) -> Tensor:
    """All tokens in the order that blocks are cut from: special tokens, then frame by frame, every other one
    backwards.
    """
    cells = hilbert(*grid) if order == "hilbert" else walk(*grid, int(order.removeprefix("walk")))
    tokens = SPECIALS + len(cells)
    found = [v * tokens + i for v in range(views) for i in range(SPECIALS)]
    for v in range(views):
        found += [v * tokens + SPECIALS + c for c in (cells[::-1] if v % 2 else cells)]
    return torch.tensor(found, device=device)


# -- one layer ---------------------------------------------------------------------------------------------------------


def _cut(x: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """(H, N, D) → (H, blocks, size, D), zeros at the end, and the tokens of each block."""
    tokens = x.shape[1]
    blocks = -(-tokens // size)
    lengths = torch.full((blocks,), size, device=x.device)
    lengths[-1] = tokens - (blocks - 1) * size
    return torch.nn.functional.pad(x, (0, 0, 0, blocks * size - tokens)).unflatten(1, (blocks, size)), lengths


def moments(x: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Means and variances (H, blocks, D) and lengths of runs of `size` tokens."""
    tiles, lengths = _cut(x, size)
    mean = tiles.sum(2) / lengths[:, None]
    known = torch.arange(size, device=x.device) < lengths[:, None]
    spread = ((tiles - mean[:, :, None]) * known[..., None]).square().sum(2) / lengths[:, None]
    return mean, spread, lengths.float()


def _summary_logits(q: Tensor, mean: Tensor, spread: Tensor, kind: str) -> Tensor:
    """Of q (…, D) to the blocks (H, blocks, D), without the logarithm of their tokens."""
    dim = q.shape[-1]
    logits = q @ mean.mT * dim**-0.5
    if kind != "mean":
        factor = 1.0 if kind == "spread" else float(kind)
        logits = logits + factor * (q.square() @ spread.mT) / (2 * dim)
    return logits


def scores_of(q: Tensor, k: Tensor, form: Form) -> Tensor:
    """(H, query blocks, key blocks): what a query block thinks of a key block, shares of a softmax."""
    tiles, count = _cut(q, form.queries)
    name, _, part = form.scores.partition(" by ")
    size = 16 if name == "fine" else int(part or form.keys)
    if form.scores.startswith("submean"):  # the means of some runs of a block's queries ask
        runs = tiles.unflatten(2, (form.asked, -1)).mean(3).flatten(1, 2)
        mean, spread, lengths = moments(k, size)
        logits = _summary_logits(runs, mean, spread, "mean" if form.scores == "submean" else "spread") + lengths.log()
        return logits.softmax(-1).unflatten(1, (-1, form.asked)).mean(2)
    mean, spread, lengths = moments(k, size)
    if form.scores == "pooled":
        pooled = tiles.sum(2) / count[:, None]
        return _summary_logits(pooled, mean, spread, "mean").add(lengths.log()).softmax(-1)
    if form.scores == "true":
        rows = torch.stack([(a @ b.mT * q.shape[-1] ** -0.5).softmax(-1) for a, b in zip(q, k)])
        tiled, _ = _cut(rows.mT, size)  # (H, key blocks, size, N)
        rows, _ = _cut(tiled.sum(2).mT, form.queries)
        return rows.sum(2) / count[:, None]
    places = (torch.arange(form.asked, device=q.device)[None] * count[:, None] // form.asked).long()
    asked = tiles.gather(2, places[None, :, :, None].expand(len(q), -1, -1, q.shape[-1]))  # (H, query blocks, asked, D)
    kind = "spread" if form.scores == "mass" else "mean"
    logits = _summary_logits(asked.flatten(1, 2), mean, spread, kind) + lengths.log()
    if form.scores.startswith("scalar"):  # the variances under the mean square of a head's queries: one number a block
        squares = asked.flatten(1, 2).square().mean(1)[:, None] / (2 * q.shape[-1])
        logits = logits + (spread * squares).sum(-1)[:, None]
    if form.scores.endswith("coarse"):  # the softmax's divisor from means of 64
        wide, away, many = moments(k, 64)
        whole = (
            _summary_logits(asked.flatten(1, 2), wide, away, "mean") + many.log() + (away * squares).sum(-1)[:, None]
        )
        shares = (logits - whole.logsumexp(-1, keepdim=True)).exp().unflatten(1, (-1, form.asked)).mean(2)
    else:
        shares = logits.softmax(-1).unflatten(1, (-1, form.asked)).mean(2)
    if size != form.keys:
        shares, _ = _cut(shares.mT, form.keys // size)
        shares = shares.sum(2).mT
    return shares


def chosen(scores: Tensor, form: Form, pairs: float) -> Tensor:
    """Which pairs of blocks are computed, bool like the scores (H, rows, blocks): about `pairs` blocks a row."""
    if form.budget == "row":
        count = max(1, min(scores.shape[2], int(pairs)))
        return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, scores.topk(count, -1).indices, True)
    budget = max(1, min(scores.numel() - 1, int(pairs * scores.shape[0] * scores.shape[1])))
    limit = scores.flatten().kthvalue(scores.numel() - budget).values
    picked = scores > limit
    if form.budget == "head":  # as many for each head as it has of the best of all, the same for each of its rows
        counts = picked.sum((1, 2)).div(scores.shape[1]).round().int().tolist()
        picked = torch.zeros_like(picked)
        for head, count in enumerate(counts):
            picked[head].scatter_(-1, scores[head].topk(max(1, count), -1).indices, True)
    return picked.scatter_(-1, scores.argmax(-1, keepdim=True), True)  # no query is left without a key


def attend(q: Tensor, k: Tensor, v: Tensor, form: Form, keep: float, views: int, grid: tuple[int, int]):
    """Attention (H, N, D) in a form, and the share of pairs of tokens computed. Special tokens see and are seen by
    all.
    """
    order = sequence(form.order, views, grid, q.device)
    kind = q.dtype
    q, k, v = (t[:, order].float() for t in (q, k, v))
    heads, tokens, dim = q.shape
    first = views * SPECIALS
    patches = tokens - first
    near_q, near_k, near_v = q[:, first:], k[:, first:], v[:, first:]
    scores = scores_of(near_q, near_k, form)
    place = torch.arange(patches, device=q.device)
    row, column = place // form.queries, place // form.keys
    pairs = ((keep * tokens - first) * tokens / patches - first) / form.keys
    picked = chosen(scores, form, pairs)
    if form.reference:
        picked[:, :, : -(-(grid[0] * grid[1]) // form.keys)] = True
    size = 64 if form.summary < 0 else form.summary or form.keys
    mean, spread, _ = moments(near_k, size)
    value = moments(near_v, size)[0]
    per = size // form.keys
    key_lengths = torch.bincount(column, minlength=scores.shape[2]).float()
    share = ((picked * key_lengths).sum(-1)[:, row].mean() * patches + first * patches + first * tokens) / tokens**2
    finer = chosen(scores, form, min((1 + form.finer) * pairs, scores.shape[2])) & ~picked
    left = (~picked & ~finer) * key_lengths  # tokens left out, but for those of finer means
    left = torch.nn.functional.pad(left, (0, -left.shape[2] % per)).unflatten(-1, (-1, per)).sum(-1)
    if form.summary < 0:
        touched = left < torch.nn.functional.pad(key_lengths, (0, -len(key_lengths) % per)).view(-1, per).sum(-1)
        partly = touched.repeat_interleave(per, -1)[..., : scores.shape[2]]
        left = torch.cat([left.masked_fill(touched, 0), (~picked & ~finer) * key_lengths * partly], dim=-1)
        fine = moments(near_k, form.keys)
        mean, spread = torch.cat([mean, fine[0]], 1), torch.cat([spread, fine[1]], 1)
        value = torch.cat([value, moments(near_v, form.keys)[0]], 1)
    if form.finer:
        small = moments(near_k, FINER)
        mean, spread = torch.cat([mean, small[0]], 1), torch.cat([spread, small[1]], 1)
        value = torch.cat([value, moments(near_v, FINER)[0]], 1)
        parts = finer.repeat_interleave(form.keys // FINER, -1)[..., : small[0].shape[1]]
        left = torch.cat([left, parts * small[2]], dim=-1)
    out = torch.empty_like(q)
    for head in range(heads):
        out[head, :first] = (q[head, :first] @ k[head].mT * dim**-0.5).softmax(-1) @ v[head]
        logits = near_q[head] @ k[head].mT
        hidden = ~picked[head].repeat_interleave(form.keys, 1)[:, :patches][row]
        logits[:, first:].masked_fill_(hidden, -torch.inf)
        if form.summaries == "none":
            out[head, first:] = (logits * dim**-0.5).softmax(-1) @ v[head]
            continue
        more = _summary_logits(near_q[head], mean[head], spread[head], form.summaries) + left[head].log()[row]
        both = torch.cat([logits.mul_(dim**-0.5), more], dim=1).softmax(-1)
        out[head, first:] = both[:, :tokens] @ v[head] + both[:, tokens:] @ value[head]
    back = torch.empty_like(out)
    back[:, order] = out
    return back.to(kind), float(share)
