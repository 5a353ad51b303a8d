"""Which form of sparse attention is the most accurate for its price: `mini`'s attention across views, form by form.

Every form is computed exactly, as dense attention with a mask and with the means of what is masked, so that a form
needs no kernel to be judged. Linear layers are FP8 where the GPU multiplies FP8. Windows and measures are those of
`distill_mini.py`: AbsRel and AUC@30 against the truth as differences from dense attention, paired by window; depth and
rotation against the dense answer. With --engine forms of packed tokens are measured on the fast path itself, after
dense.

    python benchmarks/sparse_forms.py SCENE… [--windows 12] [--only TEXT …] [--engine] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
import distill_mini as measures

from lite3r_cli.attention.packed import GROUPS, hilbert
from lite3r_cli.attention.schedule import SHALLOW_WEIGHTS, shared_out
from lite3r_cli.distillation.data import ProceduralSource, Sizes
from lite3r_cli.engine.layers import Settings
from lite3r_cli.engine.packing import Shape
from lite3r_cli.networks.arithmetic import set_arithmetic
from lite3r_cli.networks.checkpoint import open_checkpoint
from lite3r_cli.networks.family import global_layers_of
from lite3r_cli.networks.fast_form import fast_runner, predict
from lite3r_cli.networks.sparsify import sparsify

MODEL, SPECIALS = "mini", 1  # special tokens of a view


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
    weights: str = "usual"  # of the layers, a key of SCHEDULES
    alone: int = -1  # the only layer that skips anything; −1: all do
    reference: bool = False  # the first view's keys are always kept

    @property
    def name(self) -> str:
        plain = Form(self.keep)
        said = [f"{k} {v}" for k, v in asdict(self).items() if k != "keep" and v != getattr(plain, k)]
        return f"{100 * (1 - self.keep):g} % skipped: " + (", ".join(said) or "the default")


@dataclass(frozen=True)
class Fast:
    """A form of packed tokens as the fast path computes it."""

    keep: float
    group: int  # queries that share a list
    schedule: str  # a key of SCHEDULES
    keep_views: int | None

    @property
    def name(self) -> str:
        views = "" if self.keep_views is None else f", {self.keep_views} views at most"
        return f"{100 * (1 - self.keep):g} % skipped, fast path, {self.group} queries, {self.schedule}{views}"


# Shares of the layers across views, first to last.
SCHEDULES = {
    "usual": SHALLOW_WEIGHTS,
    "equal": (1.0, 1.0, 1.0, 1.0, 1.0),
    "first": (0.36, 0.38, 0.22, 0.16, 0.13),
    "firmer": (0.42, 0.42, 0.18, 0.13, 0.10),
    "cameras": (0.34, 0.40, 0.28, 0.17, 0.06),
}


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
    picked = chosen(scores, form, ((keep * tokens - first) * tokens / patches - first) / form.keys)
    if form.reference:
        picked[:, :, : -(-(grid[0] * grid[1]) // form.keys)] = True
    size = 64 if form.summary < 0 else form.summary or form.keys
    mean, spread, _ = moments(near_k, size)
    value = moments(near_v, size)[0]
    per = size // form.keys
    key_lengths = torch.bincount(column, minlength=scores.shape[2]).float()
    share = ((picked * key_lengths).sum(-1)[:, row].mean() * patches + first * patches + first * tokens) / tokens**2
    left = (~picked) * key_lengths  # tokens left out
    left = torch.nn.functional.pad(left, (0, -left.shape[2] % per)).unflatten(-1, (-1, per)).sum(-1)
    if form.summary < 0:
        touched = left < torch.nn.functional.pad(key_lengths, (0, -len(key_lengths) % per)).view(-1, per).sum(-1)
        partly = touched.repeat_interleave(per, -1)[..., : scores.shape[2]]
        left = torch.cat([left.masked_fill(touched, 0), (~picked) * key_lengths * partly], dim=-1)
        fine = moments(near_k, form.keys)
        mean, spread = torch.cat([mean, fine[0]], 1), torch.cat([spread, fine[1]], 1)
        value = torch.cat([value, moments(near_v, form.keys)[0]], 1)
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


# -- networks ----------------------------------------------------------------------------------------------------------


class Subject:
    """`mini`, its layers across views in any form."""

    def __init__(self, model: str, device: torch.device, fp8: str):
        with open_checkpoint(model) as checkpoint:
            self.network = checkpoint.load(device, torch.float32)
        names = global_layers_of(self.network)
        self.layers = [self.network.get_submodule(name) for name in names]
        self.usual = type(self.layers[0]).mix
        if device.type == "cuda" and fp8 != "off":
            set_arithmetic(self.network, fp8, torch.bfloat16)
        self.shares: list[float] = []
        self.form: Form | None = None
        self.window: tuple[int, tuple[int, int]] = (0, (0, 0))
        for i, layer in enumerate(self.layers):
            layer.mix = self._mix(layer, i)

    def _mix(self, layer, i: int) -> Callable:
        def mix(q: Tensor, k: Tensor, v: Tensor, keys: Tensor | None = None) -> Tensor:
            assert keys is None  # the forms are compared on whole pictures
            if self.form is None:
                return self.usual(layer, q, k, v)
            keep = shared_out(SCHEDULES[self.form.weights], self.form.keep)[i]
            if self.form.alone >= 0:
                if self.form.alone != i:
                    return self.usual(layer, q, k, v)
                keep = self.form.keep
            out, share = attend(q[0], k[0], v[0], self.form, keep, *self.window)
            self.shares.append(share)
            return out[None]

        return mix

    def settle(self, fast: Fast | None, device: torch.device) -> None:
        """From here on by the fast path, in a form of packed tokens; None: dense, without FP8."""
        if fast is not None:
            ratios = shared_out(SCHEDULES[fast.schedule], fast.keep)
            sparsify(
                self.network, fast.keep, packed=True, group=fast.group, keep_ratios=ratios, keep_views=fast.keep_views
            )
        self.runner = fast_runner(self.network, Settings(fp8=fast is not None, graphs=False), device)
        self.network.to("cpu")

    @torch.inference_mode()
    def engine_answers(self, windows, device: torch.device) -> tuple[list[measures.Answer], float]:
        found, skipped = [], []
        for window in windows:
            images = list(window.images.to(device))
            out = predict(self.runner, images)
            skipped.append(self.runner.skipped(Shape.of(images)))
            poses = measures.geometry.rebase(out.cam_from_world.float().cpu().numpy())
            found.append(measures.Answer(torch.stack(list(out.depth)).float().cpu().numpy(), poses))
        return found, float(np.mean(skipped))

    @torch.inference_mode()
    def answers(self, windows, device: torch.device, form: Form | None) -> tuple[list[measures.Answer], float]:
        self.form, self.shares = form, []
        found = []
        for window in windows:
            side = self.network.patch_size
            self.window = len(window.images), (window.images.shape[-2] // side, window.images.shape[-1] // side)
            out = self.network.predict(list(window.images.to(device)))
            poses = measures.geometry.rebase(out.cam_from_world.numpy())
            found.append(measures.Answer(torch.stack(out.depth).float().numpy(), poses))
        return found, 1 - float(np.mean(self.shares)) if self.shares else 0.0


BASE = Form(0.25)
PAIRS = replace(BASE, queries=128)
MIXED = replace(PAIRS, summary=-1)
FORMS = (
    replace(MIXED, scores="scalar, coarse"),  # what the program uses
    replace(MIXED, scores="scalar"),
    *(replace(MIXED, scores=f"scalar by {part}") for part in (8, 4)),
    replace(MIXED, scores="scalar by 8", asked=8),
    *(replace(MIXED, scores="true", queries=queries) for queries in (128, 64)),
    replace(MIXED, scores="scalar", asked=32),
    replace(MIXED, scores="scalar", weights="equal"),
    *(replace(MIXED, scores="scalar, coarse", queries=64, asked=asked) for asked in (16, 8)),
    replace(MIXED, scores="scalar, coarse", queries=64, weights="equal"),
    replace(MIXED, scores="scalar, coarse", weights="equal"),
    *(replace(MIXED, scores="scalar, coarse", queries=64, alone=i) for i in range(5)),
    MIXED,
    replace(MIXED, asked=32),
    replace(MIXED, scores="mass"),
    replace(MIXED, scores="mass", asked=32),
    replace(MIXED, scores="submean", asked=8),
    replace(MIXED, scores="submass", asked=8),
    *(replace(BASE, queries=queries, keys=keys) for queries in (192, 128, 64) for keys in (16, 32, 64)),
    *(replace(BASE, queries=queries, summary=64) for queries in (192, 128, 64)),
    replace(BASE, keys=128),
    replace(PAIRS, keys=8, summary=64),
    replace(PAIRS, scores="mass", summaries="spread"),
    replace(PAIRS, summaries="0.25"),
    replace(PAIRS, summaries="0.5"),
    replace(PAIRS, summaries="none"),
    replace(PAIRS, asked=8),
    replace(PAIRS, asked=32),
    replace(PAIRS, asked=64),
    replace(PAIRS, order="walk8"),
    replace(PAIRS, order="walk4"),
    replace(PAIRS, scores="mass"),
    replace(PAIRS, scores="true"),
    replace(PAIRS, scores="pooled"),
    replace(PAIRS, budget="layer"),
    replace(PAIRS, budget="head"),
    replace(PAIRS, reference=True),
    replace(PAIRS, keys=64, scores="fine"),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", type=Path, nargs="*")
    parser.add_argument("--windows", type=int, default=12, help="procedural ones beside the scenes")
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--resolution", type=int, default=518)
    parser.add_argument("--keep", type=float, nargs="+", default=[0.25, 0.1])
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--engine", action="store_true", help="packed tokens, by the fast path")
    parser.add_argument("--groups", type=int, nargs="+", default=[GROUPS[-1]], help="with --engine: queries a list")
    parser.add_argument("--schedules", nargs="+", choices=SCHEDULES, default=["usual"], help="with --engine")
    parser.add_argument("--keep-views", type=int, help="with --engine: views' worth of keys that a query sees at most")
    parser.add_argument(
        "--fast-base", action="store_true", help="dense is the fast path's, in bfloat16: for many views"
    )
    parser.add_argument("--only", nargs="+", metavar="TEXT")
    parser.add_argument("--seconds", type=float, default=3600, help="no form is begun later than this")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    o = parser.parse_args()
    start, device = time.monotonic(), torch.device(o.device)
    subject = Subject(MODEL, device, "scaled-mm")
    plain = Subject(MODEL, device, "off")
    sizes = Sizes(o.views, 1, o.resolution, subject.network.patch_size, measures.MEASURED_SEED)
    source = ProceduralSource(sizes, device, 0, o.workers, None)
    windows = []
    for i, batch in zip(range(o.windows), source.batches(0)):
        t = batch.targets
        windows.append(
            measures.Window(
                f"procedural {i}", batch.images[0].cpu(), t.cam_from_world[0].cpu().numpy(), t.depth[0].cpu().numpy()
            )
        )
    for folder in o.scenes:
        windows += measures.scene_windows(folder, o.views, o.resolution, subject.network.patch_size)
    print(f"{len(windows)} windows after {time.monotonic() - start:.0f} s", flush=True)
    torch.backends.cuda.matmul.allow_tf32 = True
    if o.fast_base:
        plain.settle(None, device)
        teacher, _ = plain.engine_answers(windows, device)
    else:
        teacher, _ = plain.answers(windows, device, None)
    base = [against_truth(a, w) for a, w in zip(teacher, windows)]
    base = {name: np.array([row[name] for row in base]) for name in base[0]}
    print(f"dense: AbsRel {np.nanmean(base['absrel']):.4f}, AUC@30 {np.nanmean(base['auc30']):.4f}", flush=True)
    results = []
    if o.engine:  # dense and lite by the fast path, and nothing else
        forms = [Fast(k, g, s, o.keep_views) for k in o.keep for s in o.schedules for g in o.groups]
        for fast in (None, *forms):
            subject = Subject(MODEL, device, "off")
            subject.settle(fast, device)
            found, skipped = subject.engine_answers(windows, device)
            name = "dense, fast path" if fast is None else fast.name
            form = None if fast is None else asdict(fast) | {"weights": SCHEDULES[fast.schedule]}
            results.append(row_of(name, form, skipped, found, teacher, windows, base))
            print(line_of(results[-1], time.monotonic() - start), flush=True)
            if o.json:
                write(o.json, windows, base, results)
        return
    forms = [None, *(replace(form, keep=keep) for keep in o.keep for form in FORMS)]
    for form in forms:
        name = "dense, FP8" if form is None else form.name
        if (
            o.only and form is not None and not any(text in name for text in o.only)
        ) or time.monotonic() - start > o.seconds:
            continue
        found, skipped = subject.answers(windows, device, form)
        row = row_of(name, None if form is None else asdict(form), skipped, found, teacher, windows, base)
        results.append(row)
        print(line_of(row, time.monotonic() - start), flush=True)
        if o.json:
            write(o.json, windows, base, results)


def against_truth(answer: measures.Answer, window: measures.Window) -> dict[str, float]:
    """As `distill_mini.against_truth`, and AUC@5."""
    scores = measures.against_truth(answer, window) | {"auc5": np.nan}
    if window.cam_from_world is not None:
        true = window.cam_from_world.astype(np.float64)
        extent = np.linalg.norm(np.ptp(measures.geometry.camera_centres(true), axis=0))
        errors = measures.metrics.pair_errors(answer.cam_from_world, true, measures.NO_DIRECTION * extent)
        scores["auc5"] = measures.metrics.auc(errors.larger, 5)
    return scores


def row_of(name, form, skipped, found, teacher, windows, base) -> dict:
    with ThreadPoolExecutor() as pool:
        truth = list(pool.map(against_truth, found, windows))
        own = list(pool.map(measures.against_teacher, found, teacher))
    columns = {key: np.array([r[key] for r in truth]) for key in truth[0]}
    return {
        "name": name, "form": form, "skipped": skipped,
        "absrel": measures.interval(columns["absrel"], "relative", base["absrel"]),
        "auc30": measures.interval(columns["auc30"], "absolute", base["auc30"]),
        "auc5": measures.interval(columns["auc5"], "absolute", base["auc5"]),
        **{key: float(np.mean([r[key] for r in own])) for key in ("depth", "rotation")},
        **{f"{key}_median": float(np.median([r[key] for r in own])) for key in ("depth", "rotation")},
    }  # fmt: skip


def line_of(row: dict, seconds: float) -> str:
    absrel, auc30, auc5 = ([100 * x for x in row[key]] for key in ("absrel", "auc30", "auc5"))
    return "  ".join(
        (
            f"{seconds:4.0f} s",
            f"skipped {100 * row['skipped']:5.1f}",
            f"AbsRel {absrel[0]:+6.2f} % [{absrel[1]:+.1f}, {absrel[2]:+.1f}]",
            f"AUC@30 {auc30[0]:+6.2f} [{auc30[1]:+.2f}, {auc30[2]:+.2f}]",
            f"AUC@5 {auc5[0]:+6.2f} [{auc5[1]:+.2f}, {auc5[2]:+.2f}]",
            f"depth {row['depth']:.4f} ({row['depth_median']:.4f})",
            f"rotation {row['rotation']:.2f} ({row['rotation_median']:.2f})",
            row["name"],
        )
    )


def write(file: Path, windows, base, results) -> None:
    document = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "windows": [window.name for window in windows],
        "dense": {key: float(np.nanmean(values)) for key, values in base.items()},
        "results": results,
    }
    file.write_text(json.dumps(document) + "\n")


if __name__ == "__main__":
    main()
