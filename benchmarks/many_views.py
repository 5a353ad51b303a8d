"""Measures the accuracy that sparse attention costs `mini` at hundreds of views, and tests the possible causes one at a
time, scene by scene.

Procedural scenes as in `sparse_forms.py --views N`, on the fast path. Beside dense attention each variant changes one
thing: FP8 alone, a larger budget, one layer alone, no means, means of 16 only as many as there are, a sharper softmax,
queries shared by neighbouring frames or patches. Of each answer: AbsRel against the truth under one scale for all views
and under a scale a view (what is left of it is shape, the rest drifting scale), the spread of those scales, AbsRel in
each quarter of the sequence, AUC@30 and AUC@5, and depth and rotation against the dense answer. Of the first sparse
layer the lists and the kernel's output are compared with plain torch at this length.

    python benchmarks/many_views.py --views 400 --scenes 5 --json FILE [--only TEXT …] [--seconds 100]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
import distill_mini as measures
from sparse_forms import SCHEDULES

from lite3r_cli.attention.keep_schedule import shared_out
from lite3r_cli.attention.packed import KEYS, Lists, PackedPlan, weights_of
from lite3r_cli.distillation.distill_data import ProceduralSource, Sizes
from lite3r_cli.engine.layers import Settings
from lite3r_cli.engine.packing import Shape
from lite3r_cli.engine.runner import FastRunner
from lite3r_cli.networks.checkpoint import open_checkpoint
from lite3r_cli.networks.fast_form import fast_runner, predict
from lite3r_cli.networks.sparsify import sparsify

LAYERS = 5


@dataclass(frozen=True)
class Variant:
    """One way to run; `keep` is the mean share over the layers, None: dense."""

    name: str
    keep: float | None = 0.1
    fp8: bool = True
    alone: int = -1  # the only layer that skips anything; −1: all do
    means: bool = True
    sharper: float = 1.0  # factor on the logits of all attention across views
    merged: int = 1  # neighbouring frames that share a query at each place
    alike: float = -1.0  # only where their queries' cosine is above this
    parts: float = 0.0  # parted blocks for each kept one
    near: int = 1  # neighbouring patches of a frame that share a query


def variants(views: int, budget: int) -> list[Variant]:
    share, keys = min(1.0, budget / views), f"{budget} views' keys"
    grown = math.log(views) / math.log(24)  # logits' growth that keeps a softmax as sharp as at 24 views
    return [
        Variant("dense", None, fp8=False),
        Variant("dense, FP8", None),
        Variant(keys, share),
        Variant(f"{keys}, parted blocks", share, parts=4.0),
        Variant(f"{keys}, bfloat16", share, fp8=False),
        *(Variant(f"{n * budget} views' keys", min(1.0, n * share)) for n in (2, 4)),
        *(Variant(f"{keys}, layer {i} alone", share, alone=i) for i in range(LAYERS)),
        Variant(f"{keys}, no means", share, means=False),
        Variant(f"{keys}, sharper", share, sharper=grown**0.5),
        Variant("all keys, sharper", 1.0, sharper=grown**0.5),
        Variant("all keys, queries of 2 frames", 1.0, merged=2),
        Variant(f"{keys}, queries of 2 frames", share, merged=2),
        Variant(f"{keys}, queries of 2 frames that are alike", share, merged=2, alike=0.9),
        Variant(f"{keys}, queries of 4 frames", share, merged=4),
        *(Variant(f"{keys}, queries of {n} patches", share, near=n) for n in (2, 4)),
        *(Variant(f"{keys}, queries of 2 patches, cosine {c}", share, near=2, alike=c) for c in (0.9, 0.95, 0.98)),
    ]


# -- running -----------------------------------------------------------------------------------------------------------


class Watched:
    """The operators of a runner, changed as a variant says; `merged` is the share of queries that were merged, `checks`
    what the first sparse layer's lists and output are off by.
    """

    def __init__(self, ops: SimpleNamespace, variant: Variant, check: bool):
        self.ops, self.variant, self.check = ops, variant, check
        self.shares: Tensor | None = None
        self.merged: list[float] = []
        self.checks: dict[str, float] = {}
        changed = dict(vars(ops))
        for name in ("ask", "block_shares", "list_blocks", "gathered_attention"):
            changed[name] = getattr(self, name)
        self.operators = SimpleNamespace(**changed)

    def ask(self, q: Tensor, plan: PackedPlan):
        self._merge(q, plan)
        return self.ops.ask(q, plan)

    def _merge(self, q: Tensor, plan: PackedPlan) -> None:
        """The queries of a place in neighbouring frames, or of neighbouring patches, become their mean, in place:
        attention gives them one answer, which is what computing it once and copying it gives. The frames' orders
        alternate.
        """
        near, size = self.variant.near, self.variant.merged
        if near > 1:
            x = q[:, plan.first : plan.first + plan.patches // near * near]
            x.copy_(self._means(x.unflatten(1, (-1, near))).flatten(1, 2))
        if size == 1:
            return
        frames = plan.views // size * size
        patches = plan.patches // plan.views
        x = q[:, plan.first : plan.first + frames * patches].unflatten(1, (frames, patches))
        straight = x.clone()
        straight[:, 1::2] = x[:, 1::2].flip(2)
        straight = self._means(straight.unflatten(1, (-1, size))).flatten(1, 2)
        straight[:, 1::2] = straight[:, 1::2].flip(2)
        x.copy_(straight)

    def _means(self, groups: Tensor) -> Tensor:
        """Queries (H, groups, size, …, D) → their means over `size`, where all are as alike as the variant says."""
        mean = groups.float().mean(2, keepdim=True)
        alike = torch.cosine_similarity(groups.float(), mean, dim=-1).amin(2, keepdim=True) > self.variant.alike
        self.merged.append(float(alike.float().mean()))
        return torch.where(alike[..., None], mean, groups).to(groups.dtype)

    def block_shares(self, *given) -> Tensor:
        self.shares = self.ops.block_shares(*given)
        return self.shares

    def list_blocks(self, shares: Tensor, plan: PackedPlan, count: int) -> Lists:
        lists = self.ops.list_blocks(shares, plan, count)
        if self.check and not self.checks:
            self.checks |= check_lists(shares, lists, plan, count)
        if not self.variant.means:
            lists = replace(lists, lengths=torch.full_like(lists.lengths, len(plan.loose)))
        return lists

    def gathered_attention(self, q, keys, values, lists, plan, out=None):
        if lists is None:
            self._merge(q, plan)
        if self.variant.sharper != 1:
            q.mul_(self.variant.sharper)
        found = self.ops.gathered_attention(q, keys, values, lists, plan, out)
        if self.check and lists is not None and "output" not in self.checks:
            self.checks["output"] = check_output(q, keys, values, lists, plan, found)
        return found


SOME = (0, 1, 0.37, 0.999)  # groups that are checked, as shares of all


def check_lists(shares: Tensor, lists: Lists, plan: PackedPlan, count: int) -> dict[str, float]:
    """Of a few groups: how much of the best blocks' shares the chosen ones miss, and the tokens that are not accounted
    for by blocks, rows and means.
    """
    missed, lost = 0.0, 0
    for part in SOME:
        group = min(int(part * shares.shape[1]), shares.shape[1] - 1)
        row, chosen = shares[0, group].float(), lists.blocks[0, group].long() - plan.first // KEYS
        best = float(row.topk(count).values.sum())
        missed = max(missed, 1 - float(row[chosen[chosen >= 0]].sum()) / best)
        rows = lists.rows[0, group, : int(lists.lengths[0, group])]
        weights = weights_of(rows, plan)
        tokens = lists.blocks.shape[2] * KEYS + int(weights.sum())
        lost = max(lost, abs(tokens - plan.tokens), lists.blocks.shape[2] - len(chosen.unique()))
    return {"missed": missed, "lost_tokens": float(lost)}


def check_output(q: Tensor, keys: Tensor, values: Tensor, lists: Lists, plan: PackedPlan, found: Tensor) -> float:
    """Relative error of a few groups of the first head against float32 arithmetic from the same lists."""
    worst = 0.0
    for part in SOME:
        group = min(int(part * lists.blocks.shape[1]), lists.blocks.shape[1] - 1)
        at = slice(plan.first + group * plan.group, plan.first + (group + 1) * plan.group)
        listed = (lists.blocks[0, group].long()[:, None] * KEYS + torch.arange(KEYS, device=q.device)).flatten()
        rows = lists.rows[0, group, : int(lists.lengths[0, group])].long()
        weights = weights_of(rows, plan)
        every = torch.cat([listed, rows])
        bias = torch.cat([torch.zeros(len(listed), device=q.device), weights.log()])
        logits = q[0, at].float() @ keys[0, every].float().T * q.shape[-1] ** -0.5 + bias
        expected = logits.softmax(-1) @ values[0, every].float()
        worst = max(worst, float((found[0, at].float() - expected).norm() / expected.norm()))
    return worst


def runner_of(model: str, variant: Variant, device: torch.device) -> FastRunner:
    with open_checkpoint(model) as checkpoint:
        network = checkpoint.load(device, torch.float32)
    if variant.keep is not None:
        ratios = shared_out(SCHEDULES["usual"], variant.keep)
        if variant.alone >= 0:
            ratios = tuple(variant.keep if i == variant.alone else 1.0 for i in range(LAYERS))
        mean = statistics.mean(ratios)
        form = {"packed": True, "group": 64, "parts": variant.parts, "keep_views": None}
        sparsify(network, mean, keep_ratios=ratios, **form)
    return fast_runner(network, Settings(fp8=variant.fp8 and device.type == "cuda", graphs=False), device)


# -- measures ----------------------------------------------------------------------------------------------------------


def median_ratio(depth: Tensor, truth: Tensor) -> float:
    known = (truth > 0) & (depth > 0)
    return float((truth[known] / depth[known]).median()) if known.any() else 1.0


def absrel(depth: Tensor, truth: Tensor) -> float:
    known = truth > 0
    return float(((depth - truth).abs() / truth)[known].mean())


def measured(depth: Tensor, poses: np.ndarray, window: measures.Window, teacher: tuple[Tensor, np.ndarray]) -> dict:
    """The errors of one prediction, as the module's docstring defines them; `depth` (S, H, W) is on the device."""
    truth = torch.from_numpy(window.depth).to(depth.device)
    scaled = depth * median_ratio(depth, truth)
    scales = torch.tensor([median_ratio(d, t) for d, t in zip(depth, truth)], device=depth.device)
    own = depth * scales[:, None, None]
    true = window.cam_from_world.astype(np.float64)
    extent = np.linalg.norm(np.ptp(measures.geometry.camera_centres(true), axis=0))
    errors = measures.metrics.pair_errors(poses, true, measures.NO_DIRECTION * extent)
    turn = poses[:, :, :3] @ teacher[1][:, :, :3].transpose(0, 2, 1)
    like = depth * median_ratio(depth, teacher[0])
    return {
        "absrel": absrel(scaled, truth),
        "absrel_scale_a_view": absrel(own, truth),
        "scale_spread": float(scales.log().std()),
        "absrel_quarters": [absrel(a, b) for a, b in zip(scaled.chunk(4), truth.chunk(4))],
        "auc30": measures.metrics.auc(errors.larger, 30),
        "auc5": measures.metrics.auc(errors.larger, 5),
        "depth": absrel(like, teacher[0]),
        "rotation": float(np.degrees(measures.geometry.rotation_angle(turn))[1:].mean()),
    }


def windows(o: argparse.Namespace, device: torch.device):
    sizes = Sizes(o.views, 1, o.resolution, 14, measures.MEASURED_SEED)
    for i, batch in zip(range(o.scenes), ProceduralSource(sizes, device, 0, o.workers, None).batches(0)):
        t = batch.targets
        poses, depth = t.cam_from_world[0].cpu().numpy(), t.depth[0].cpu().numpy()
        yield measures.Window(f"procedural {i}", batch.images[0], poses, depth)


@torch.inference_mode()
def answer(runner: FastRunner, images: list[Tensor]) -> tuple[Tensor, np.ndarray, float]:
    if images[0].is_cuda:
        torch.cuda.synchronize()
    begin = time.perf_counter()
    out = predict(runner, images)
    depth = torch.stack(list(out.depth)).float()
    poses = measures.geometry.rebase(out.cam_from_world.float().cpu().numpy())
    return depth, poses, 1e3 * (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--views", type=int, default=400)
    parser.add_argument("--budget", type=int, default=40, help="views' worth of keys that a query sees")
    parser.add_argument("--scenes", type=int, default=5)
    parser.add_argument("--resolution", type=int, default=448)
    parser.add_argument("--workers", type=int, default=0, help="processes that sample scenes")
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="variants whose name has one of these, and dense")
    parser.add_argument("--seconds", type=float, default=3600, help="no scene is begun later than this")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, required=True)
    o = parser.parse_args()
    start, device = time.monotonic(), torch.device(o.device)
    every = variants(o.views, o.budget)
    always = [v.name for v in every[:3]]  # dense, with FP8, and the form that the others change
    chosen = [v for v in every if v.name in always or not o.only or any(text in v.name for text in o.only)]
    runners = {v.name: runner_of(o.model, v, device) for v in chosen}
    print(f"{len(runners)} variants after {time.monotonic() - start:.0f} s", flush=True)
    run = Run(runners, o.json, o.views, o.resolution)
    first = [
        v for v in chosen if v.keep is None or v.name in (f"{o.budget} views' keys", f"{2 * o.budget} views' keys")
    ]
    known = []
    for window in windows(o, device):
        print(f"{time.monotonic() - start:4.0f} s: {window.name}", flush=True)
        run.scene(window, first, device)
        known.append(window)
        if time.monotonic() - start > o.seconds:
            break
    for window in sorted(known, key=run.loss, reverse=True):
        if time.monotonic() - start > o.seconds:
            break
        print(f"{time.monotonic() - start:4.0f} s: {window.name}, {100 * run.loss(window):+.1f} % AbsRel", flush=True)
        run.scene(window, [v for v in chosen if v not in first], device)
    summary(run.rows)


class Run:
    """Rows of scenes and variants, written as soon as each is there."""

    def __init__(self, runners: dict[str, FastRunner], file: Path, views: int, resolution: int):
        self.runners, self.file, self.rows = runners, file, []
        self.plain = {name: runner.engine.operators for name, runner in runners.items()}
        self.teachers: dict[str, tuple[Tensor, np.ndarray]] = {}
        self.told = {"device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"}
        self.told |= {"torch": torch.__version__, "views": views, "resolution": resolution}

    def scene(self, window: measures.Window, chosen: list[Variant], device: torch.device) -> None:
        images = list(window.images.to(device))
        for v in chosen:
            runner = self.runners[v.name]
            watched = Watched(self.plain[v.name], v, v.keep is not None and v == Variant(v.name, v.keep))
            runner.engine.operators = watched.operators
            depth, poses, took = answer(runner, images)
            teacher, turned = self.teachers.setdefault(window.name, (depth.cpu(), poses))
            row = {"window": window.name, "name": v.name, "skipped": runner.skipped(Shape.of(images)), "ms": took}
            row |= measured(depth, poses, window, (teacher.to(device), turned)) | watched.checks
            if watched.merged:
                row["merged"] = statistics.mean(watched.merged)
            self.rows.append(row)
            print("  ".join(told(key, value) for key, value in row.items() if key != "window"), flush=True)
            self.file.write_text(json.dumps({**self.told, "rows": self.rows}) + "\n")

    def loss(self, window: measures.Window) -> float:
        """Of the sparse form beside dense attention, relative."""
        own = [row for row in self.rows if row["window"] == window.name]
        dense = next(row["absrel"] for row in own if row["name"] == "dense")
        return next((row["absrel"] / dense - 1 for row in own if row["skipped"] > 0), 0.0)


def told(key: str, value: object) -> str:
    if isinstance(value, list):
        return f"{key} " + " ".join(f"{x:.4f}" for x in value)
    return f"{key} {value:.4g}" if isinstance(value, float) else str(value)


def summary(rows: list[dict]) -> None:
    """Each variant's mean over the scenes, beside dense attention's."""
    print("mean over scenes: AbsRel beside dense, with a scale a view, AUC@30 and AUC@5 in points, ms", flush=True)
    base = {row["window"]: row for row in rows if row["name"] == "dense"}
    for name in dict.fromkeys(row["name"] for row in rows):
        own = [row for row in rows if row["name"] == name]
        sums = {
            key: [sum(r[key] for r in own), sum(base[r["window"]][key] for r in own)] for key in own[0] if key in KINDS
        }
        relative = [100 * (sums[key][0] / sums[key][1] - 1) for key in KINDS[:2]]
        points = [100 * (sums[key][0] - sums[key][1]) / len(own) for key in KINDS[2:]]
        took = statistics.median(row["ms"] for row in own)
        words = "  ".join([f"{x:+6.1f} %" for x in relative] + [f"{x:+6.2f}" for x in points])
        print(f"{words}  {took:8.0f} ms  {name} ({len(own)})", flush=True)


KINDS = ("absrel", "absrel_scale_a_view", "auc30", "auc5")


if __name__ == "__main__":
    main()
