"""Compares forms of sparse attention by accuracy and cost, on the attention across views of `mini`.

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
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
import distill_mini as measures
from masked_forms import Form, attend

from lite3r_cli.attention.keep_schedule import SHALLOW_WEIGHTS, shared_out
from lite3r_cli.attention.packed import GROUPS
from lite3r_cli.distillation.distill_data import ProceduralSource, Sizes
from lite3r_cli.engine.layers import Settings
from lite3r_cli.engine.packing import Shape
from lite3r_cli.networks.arithmetic import set_arithmetic
from lite3r_cli.networks.checkpoint import open_checkpoint
from lite3r_cli.networks.family import global_layers_of
from lite3r_cli.networks.fast_form import fast_runner, predict
from lite3r_cli.networks.sparsify import sparsify


@dataclass(frozen=True)
class Fast:
    """A form of packed tokens as the fast path computes it."""

    keep: float
    group: int  # queries that share a list
    schedule: str  # a key of SCHEDULES
    keep_views: int | None
    parts: float = 0.0  # parted blocks for each chosen one

    @property
    def name(self) -> str:
        more = "" if self.keep_views is None else f", {self.keep_views} views at most"
        more += f", {self.parts:g} parted" if self.parts else ""
        return f"{100 * (1 - self.keep):g} % skipped, fast path, {self.group} queries, {self.schedule}{more}"


# Shares of the layers across views, first to last.
SCHEDULES = {
    "usual": SHALLOW_WEIGHTS,
    "equal": (1.0, 1.0, 1.0, 1.0, 1.0),
    "first": (0.36, 0.38, 0.22, 0.16, 0.13),
    "firmer": (0.42, 0.42, 0.18, 0.13, 0.10),
    "cameras": (0.34, 0.40, 0.28, 0.17, 0.06),
}


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
        """Use the fast path with this form of packed tokens from now on; None: dense attention without FP8."""
        if fast is not None:
            ratios = shared_out(SCHEDULES[fast.schedule], fast.keep)
            form = {"packed": True, "group": fast.group, "parts": fast.parts, "keep_views": fast.keep_views}
            sparsify(self.network, fast.keep, keep_ratios=ratios, **form)
        fp8 = fast is not None and device.type == "cuda"
        self.runner = fast_runner(self.network, Settings(fp8=fp8, graphs=False), device)
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
SHIPPED = replace(MIXED, scores="scalar, coarse", queries=64, asked=8)
FORMS = (
    SHIPPED,  # what the program uses for `mini`
    *(replace(SHIPPED, finer=finer) for finer in (0.5, 1, 2, 4)),
    replace(SHIPPED, queries=32, asked=4),
    replace(SHIPPED, keys=8),
    replace(SHIPPED, asked=32),
    replace(SHIPPED, summary=0),
    replace(SHIPPED, scores="true"),
    replace(MIXED, scores="scalar, coarse"),  # what the program uses for deep networks
    replace(MIXED, scores="scalar"),
    *(replace(MIXED, scores=f"scalar by {part}") for part in (8, 4)),
    replace(MIXED, scores="scalar by 8", asked=8),
    *(replace(MIXED, scores="true", queries=queries) for queries in (128, 64)),
    replace(MIXED, scores="scalar", asked=32),
    replace(MIXED, scores="scalar", weights="equal"),
    replace(MIXED, scores="scalar, coarse", queries=64),
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
    parser.add_argument("--model", default="mini")
    parser.add_argument("--windows", type=int, default=12, help="procedural ones beside the scenes")
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--resolution", type=int, default=518)
    parser.add_argument("--keep", type=float, nargs="+", default=[0.25, 0.1])
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--engine", action="store_true", help="packed tokens, by the fast path")
    parser.add_argument("--groups", type=int, nargs="+", default=[GROUPS[-1]], help="with --engine: queries a list")
    parser.add_argument(
        "--parts", type=float, nargs="+", default=[0.0], help="with --engine: parted blocks a chosen one"
    )
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
    subject = Subject(o.model, device, "scaled-mm")
    plain = Subject(o.model, device, "off")
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
        forms = [Fast(*form) for form in product(o.keep, o.groups, o.schedules, [o.keep_views], o.parts)]
        for fast in (None, *forms):
            subject = Subject(o.model, device, "off")
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
