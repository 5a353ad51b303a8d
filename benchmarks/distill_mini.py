"""Measures the accuracy of `mini` with blockwise sparse attention and FP8 against its dense teacher, and the effect of
each part.

The form of blocks by layout and map; packed tokens are measured by `sparse_forms.py`, with the windows and measures of
this script.

Teacher: the checkpoint with dense attention, weights dequantised. Students: the same weights, other attention,
arithmetic and training; their few new tensors are fitted and trained here, on procedural scenes of another seed than
those measured.

Windows: held-out procedural scenes, and scenes on disk (folders with images/, cameras.json where there are cameras).
Each is predicted by the teacher and by every student. AbsRel has one scale a window; AUC@30 is over a window's pairs.
Differences are paired by window: mean over windows and a 95 % bootstrap interval (10,000 resamples of windows).
"Against the teacher": AbsRel of the student's depth and mean rotation between the cameras, both with the teacher as
truth, mean over windows; and the rotation's median, since a few windows that no form of the network understands weigh
most in it.

Two tables, then one JSON line. Correctness first: keeping everything in exact arithmetic must change nothing.

    python benchmarks/distill_mini.py [SCENE…] [--ablations] [--windows 64] [--views 8] [--resolution 518] [--steps 200]
    python benchmarks/distill_mini.py --quick SCENE…    # low resolution, few windows: for two CPU cores
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lite3r_cli.attention.sparse_config import PRESETS
from lite3r_cli.config.distill_recipe import Recipe
from lite3r_cli.data.views import Shot, read_views
from lite3r_cli.distillation.distill_data import Data, DistillBatch, ProceduralSource, Sizes
from lite3r_cli.distillation.distill_loop import Distiller, StudentPlan
from lite3r_cli.distillation.students import Arithmetic
from lite3r_cli.io.cameras_json import read_cameras_json
from lite3r_cli.io.images import discover
from lite3r_cli.networks.checkpoint import open_checkpoint
from lite3r_cli.networks.family import exact_products
from lite3r_cli.networks.sparsify import skipped_share, sparsify
from lite3r_cli.pipelines.evaluate_scenes import NO_DIRECTION, windows
from lite3r_cli.runtime import choose
from lite3r_cli.scene import geometry, metrics
from lite3r_cli.training.worker import Worker

TARGETS = {
    0.75: "AbsRel ≤ +3 %, AUC@30 ≥ −1 point; against the teacher AbsRel ≤ 0.01, rotation ≤ 0.3°",
    0.90: "≤ +8 %, ≥ −3",
}
MEASURED_SEED = 90_000_000  # of the procedural windows: far from every seed of training
RESAMPLES = 10_000


@dataclass(frozen=True)
class Setting:
    """One student. `steps` None: as many as asked for."""

    name: str
    keep_ratio: float = 0.25
    attention: dict[str, object] = field(default_factory=dict)
    fp8: bool = True
    start: str = "calibrated"
    steps: int | None = None
    sparse: bool = True
    match_teacher: str = "auto"


MAIN = (Setting("75 % skipped", 0.25), Setting("90 % skipped", 0.10))
BLOCKS = PRESETS["shallow blocks"]  # the form that all of this is about, and that settings change
PLAIN = {"tiles": False, "summaries": False, "key_block": None, "scores": "pooled", "keep_ratios": (0.25,) * 5}
TOKENS = PLAIN | {"block": 1, "protect": "none", "linear_over": "all"}  # each query its own keys, as in Lite3R
DEEP = {"walk": True, "key_block": None, "scores": "pooled", "linear_over": "all"}
ABLATIONS = (
    Setting("SLA only", fp8=False),
    Setting("FP8 only", sparse=False, steps=0, start="zero"),
    Setting("no distillation, zero start", start="zero", steps=0),
    Setting("calibrated, no steps", steps=0),
    Setting("zero start, then steps", start="zero"),
    Setting("the teacher's answer instead of the truth", match_teacher="always"),
    Setting("keep ratio 0.5", 0.5),
    Setting("keep ratio 0.15", 0.15),
    Setting("convex mix", attention={"mix": "convex"}),
    Setting("φ = softmax", attention={"feature": "softmax"}),
    Setting("φ = relu", attention={"feature": "relu"}),
    Setting("linear branch over all tokens", attention={"linear_over": "all"}),
    Setting("nothing protected", attention={"protect": "none"}),
    Setting("reference view protected, too", attention={"protect": "reference"}),
    Setting("runs instead of rectangles", attention={"tiles": False}),
    Setting("blocks cut by a walk", attention={"walk": True}),
    Setting("no summaries", attention={"summaries": False}),
    Setting("no summaries, convex mix", attention={"summaries": False, "mix": "convex"}),
    Setting("the same ratio in every layer", attention={"keep_ratios": (0.25,) * 5}),
    Setting("key blocks of 64", attention={"key_block": 64}),
    Setting("key blocks of 8", attention={"key_block": 8}),
    Setting("blocks kept by pooled scores", attention={"scores": "pooled"}),
    Setting("as deep networks are timed", attention=DEEP),
    Setting("as deep networks are timed, 90 %", 0.10, DEEP),
    Setting("published: runs, no summaries, over all, zero start", 0.25, PLAIN | {"linear_over": "all"}, start="zero"),
    Setting("token-level top-k, no training", attention=TOKENS, start="zero", steps=0),
)  # fmt: skip


# -- windows -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Window:
    """Views of one scene at the network's size, with their cameras and depth if known."""

    name: str
    images: torch.Tensor  # (S, 3, H, W) in [0, 1], on the CPU
    cam_from_world: np.ndarray | None  # (S, 3, 4)
    depth: np.ndarray | None  # (S, H, W), 0 = unknown


def procedural_windows(count: int, sizes: Sizes, device: torch.device) -> Iterator[Window]:
    source = ProceduralSource(replace(sizes, batch=1, seed=MEASURED_SEED), device, 0, 0, None)
    for i, batch in zip(range(count), source.batches(0)):
        t = batch.targets
        yield Window(f"procedural {i}", *(x[0].cpu() for x in (batch.images,)), *(
            x[0].cpu().numpy() for x in (t.cam_from_world, t.depth)))  # fmt: skip


def scene_windows(folder: Path, views: int, resolution: int, multiple: int) -> Iterator[Window]:
    """Windows as `lite3r eval` cuts them; of photographs without cameras the first one."""
    images = discover([folder / "images"])
    if not (folder / "cameras.json").is_file():
        parts, truth = [range(min(views, len(images)))], None
    else:
        truth = {view.name: view for view in read_cameras_json(folder)}
        parts = windows(len(images), views)
    for part in parts:
        shots = []
        for i in part:
            view = truth[images.records[i].name] if truth else None
            depth = None if view is None or view.depth is None else (lambda value=view.depth: value)
            rgb = lambda i=i: images.read(i)  # noqa: E731
            shots.append(Shot(rgb, *((None, None) if view is None else (view.K, view.cam_from_world)), depth))
        read = read_views(shots, resolution, multiple)
        pictures = torch.from_numpy(read.images).permute(0, 3, 1, 2).float() / 255
        yield Window(f"{folder.name} {part[0]}", pictures, read.cam_from_world, read.depth)


# -- measures ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    depth: np.ndarray  # (S, H, W) float32
    cam_from_world: np.ndarray  # (S, 3, 4)


@torch.inference_mode()
def answers(network: nn.Module, parts: Sequence[Window], device: torch.device) -> tuple[list[Answer], float]:
    """Predictions, and the share of key blocks skipped, mean over the windows."""
    found, skipped = [], []
    for window in parts:
        out = network.predict(list(window.images.to(device)))
        found.append(Answer(torch.stack(out.depth).float().numpy(), geometry.rebase(out.cam_from_world.numpy())))
        skipped.append(skipped_share(network))
    return found, float(np.mean(skipped))


def against_truth(answer: Answer, window: Window) -> dict[str, float]:
    """AbsRel and AUC@30 of one window, NaN where there is no truth."""
    scores = {"absrel": np.nan, "auc30": np.nan}
    if window.depth is not None and (window.depth > 0).any():
        scale = metrics.depth_scale(answer.depth, window.depth)
        scores["absrel"] = metrics.depth_errors(scale * answer.depth.ravel(), window.depth.ravel())[0]
    if window.cam_from_world is not None and len(window.images) > 1:
        true = window.cam_from_world.astype(np.float64)
        extent = np.linalg.norm(np.ptp(geometry.camera_centres(true), axis=0))
        errors = metrics.pair_errors(answer.cam_from_world, true, NO_DIRECTION * extent)
        scores["auc30"] = metrics.auc(errors.larger, 30)
    return scores


def against_teacher(answer: Answer, teacher: Answer) -> dict[str, float]:
    """AbsRel of depth after one scale, and the mean rotation of the cameras beside the first, degrees."""
    scale = metrics.depth_scale(answer.depth, teacher.depth)
    turn = answer.cam_from_world[:, :, :3] @ teacher.cam_from_world[:, :, :3].transpose(0, 2, 1)
    angles = np.degrees(geometry.rotation_angle(turn))
    return {
        "depth": metrics.depth_errors(scale * answer.depth.ravel(), teacher.depth.ravel())[0],
        "rotation": float(angles[1:].mean()) if len(angles) > 1 else 0.0,
    }


def interval(values: np.ndarray, of: str, base: np.ndarray) -> tuple[float, float, float]:
    """The paired difference over windows and its 95 % interval: `relative` to the mean of `base`, or `absolute`."""
    known = np.isfinite(values) & np.isfinite(base)
    values, base = values[known], base[known]
    draws = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))

    def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return a.mean(-1) / b.mean(-1) - 1 if of == "relative" else a.mean(-1) - b.mean(-1)

    low, high = np.percentile(difference(values[draws], base[draws]), [2.5, 97.5])
    return float(difference(values, base)), float(low), float(high)


# -- students ----------------------------------------------------------------------------------------------------------


class Bench:
    def __init__(self, o: argparse.Namespace):
        self.o = o
        runtime = choose(o.device, o.dtype)
        self.device, self.dtype = runtime.torch_device, runtime.torch_dtype
        with open_checkpoint(o.model) as self.checkpoint:
            self.network = self.checkpoint.load(self.device)
        self.high_precision = exact_products(self.network)
        self.network.compute_dtype = self.dtype
        sizes = Sizes(o.views, 1, o.resolution, self.network.patch_size, 0)
        print(f"making {o.windows} procedural windows", flush=True)
        self.windows = list(procedural_windows(o.windows, sizes, self.device))
        for folder in o.scenes:
            self.windows += scene_windows(folder, o.views, o.resolution, self.network.patch_size)
        self.sizes = replace(sizes, views=o.train_views, resolution=o.train_resolution)
        self.batches: list[DistillBatch] = []  # of training: made once, all students see the same
        self.teacher, _ = answers(self.network, self.windows, self.device)
        self.truth = self._columns(self.teacher)

    def _columns(self, found: Sequence[Answer]) -> dict[str, np.ndarray]:
        rows = [against_truth(a, w) for a, w in zip(found, self.windows)]
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}

    def data(self) -> Data:
        source = ProceduralSource(self.sizes, self.device, 0, self.o.workers, None)
        if not self.batches:
            measured = source.held_out().batches(0)
            self.held_out = [next(measured) for _ in range(4)]
            wanted = source.batches(0)
            self.batches = [next(wanted) for _ in range(max(self.o.steps, self.o.calibration_batches))]
        kept = _Kept(self.batches), _Kept(self.held_out)
        return Data((kept[0],), (kept[1],), ())

    def student(self, setting: Setting) -> nn.Module:
        """The network of a setting, trained, in the arithmetic that it is measured in."""
        network = copy.deepcopy(self.network)
        if not setting.sparse:
            Arithmetic(network, self.high_precision).round(setting.fp8)
            return network
        config = sparsify(network, setting.keep_ratio, **BLOCKS | setting.attention)
        steps = self.o.steps if setting.steps is None else setting.steps
        recipe = Recipe(
            steps=steps, lr=self.o.lr, start=setting.start, calibration_batches=self.o.calibration_batches,
            fp8_from=0.5 if setting.fp8 else 1.0, match_teacher=setting.match_teacher,
            validate_every=max(1, steps // 4), log_every=max(1, steps // 4),
        )  # fmt: skip
        wanted, worker = StudentPlan(network, config, self.high_precision), Worker(0, 1, self.device)
        made = Distiller(wanted, recipe, worker, self.data(), None, lambda record: None)
        made.validate()
        if setting.start == "calibrated":
            made.fit_linear_branches()
        made.run()
        made.use_best()
        return made.student

    def measure(self, setting: Setting) -> dict[str, object]:
        start = time.monotonic()
        network = self.student(setting)
        trained = time.monotonic() - start
        found, skipped = answers(network, self.windows, self.device)
        truth = self._columns(found)
        own = [against_teacher(a, t) for a, t in zip(found, self.teacher)]
        return {
            "name": setting.name,
            "skipped": skipped,
            "absrel": interval(truth["absrel"], "relative", self.truth["absrel"]),
            "auc30": interval(truth["auc30"], "absolute", self.truth["auc30"]),
            "depth": float(np.mean([row["depth"] for row in own])),
            "rotation": float(np.mean([row["rotation"] for row in own])),
            "rotation_median": float(np.median([row["rotation"] for row in own])),
            "seconds": trained,
        }

    def check(self) -> None:
        """Check that a student equals its teacher when all attention is kept and arithmetic is exact."""
        network = copy.deepcopy(self.network)
        sparsify(network, 1.0)
        found, skipped = answers(network, self.windows[:1], self.device)
        own = against_teacher(found[0], self.teacher[0])
        tolerance = 1e-4 if self.dtype == torch.float32 else 3e-2
        if skipped != 0 or own["depth"] > tolerance or own["rotation"] > 100 * tolerance:
            raise SystemExit(f"keeping everything changes the answer: {own}, {skipped:.1%} skipped")


class _Kept:
    """Returns stored batches again and again."""

    def __init__(self, batches: Sequence[DistillBatch]):
        self.kept = batches

    def batches(self, first: int) -> Iterator[DistillBatch]:
        while True:
            yield self.kept[first % len(self.kept)]
            first += 1


# -- tables ------------------------------------------------------------------------------------------------------------

HEAD = (
    "student",
    "skipped",
    "AbsRel against dense",
    "AUC@30 against dense",
    "teacher: AbsRel",
    "rotation",
    "median",
    "training",
)


def row(result: dict[str, object]) -> str:
    absrel, auc = result["absrel"], result["auc30"]
    cells = (
        result["name"],
        f"{100 * result['skipped']:.1f} %",
        f"{100 * absrel[0]:+.1f} % [{100 * absrel[1]:+.1f}, {100 * absrel[2]:+.1f}]",
        f"{100 * auc[0]:+.2f} [{100 * auc[1]:+.2f}, {100 * auc[2]:+.2f}]",
        f"{result['depth']:.4f}",
        f"{result['rotation']:.2f}°",
        f"{result['rotation_median']:.2f}°",
        f"{result['seconds']:.0f} s",
    )
    return "| " + " | ".join(cells) + " |"


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", type=Path, nargs="*")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--windows", type=int, default=64, help="held-out procedural windows")
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--resolution", type=int, default=518)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--calibration-batches", type=int, default=16)
    parser.add_argument("--train-views", type=int, help="default: --views")
    parser.add_argument("--train-resolution", type=int, help="default: --resolution")
    parser.add_argument("--workers", type=int, default=0, help="processes that sample scenes")
    parser.add_argument("--ablations", action="store_true")
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="settings whose name contains one of these")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--quick", action="store_true", help="4 windows of 6 views, 252 px, 40 steps")
    o = parser.parse_args()
    if o.quick:
        o.windows, o.views, o.resolution, o.steps, o.calibration_batches = 4, 6, 252, 40, 8
    o.train_views, o.train_resolution = o.train_views or o.views, o.train_resolution or o.resolution
    return o


def main() -> None:
    o = options()
    bench = Bench(o)
    bench.check()
    sha = bench.checkpoint.fingerprint.result()
    known = {name: float(np.nanmean(values)) for name, values in bench.truth.items()}
    print(
        f"teacher {bench.checkpoint.path.name}, SHA-256 {sha}: "
        f"AbsRel {known['absrel']:.4f}, AUC@30 {known['auc30']:.4f}"
    )
    print(f"{len(bench.windows)} windows of {o.views} views, {o.resolution} px; {bench.device}, {bench.dtype}")
    results = []
    for title, settings in (("main", MAIN), ("ablations, 75 % skipped unless said", ABLATIONS if o.ablations else ())):
        chosen = [s for s in settings if not o.only or any(text in s.name for text in o.only)]
        if not chosen:
            continue
        print(f"\n{title}\n\n| " + " | ".join(HEAD) + " |\n" + "|---" * len(HEAD) + "|")
        for setting in chosen:
            results.append(bench.measure(setting))
            print(row(results[-1]), flush=True)
    print("\ntargets: " + "; ".join(f"≥ {100 * share:.0f} % skipped: {text}" for share, text in TARGETS.items()))
    where = {"machine": platform.machine(), "device": str(bench.device), "dtype": str(bench.dtype)}
    asked = {name: str(value) for name, value in vars(o).items()} | {"scenes": [folder.name for folder in o.scenes]}
    teacher = {"sha256": sha, **known}
    document = {"teacher": teacher, "torch": torch.__version__, **where, "options": asked, "results": results}
    print("\n" + json.dumps(document))


if __name__ == "__main__":
    main()
