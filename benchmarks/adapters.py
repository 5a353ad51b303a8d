"""Compares what training gives `mini` with sparse attention and FP8 (no training, the linear branch, low-rank adapters
on all layers or on those with the largest gradients, all weights of the blocks), and what each costs.

A student learns as `lite3r distill` teaches, but for the share of attention that it keeps: it is drawn anew for each
step, among them 1, which is dense attention. So one set of weights serves all forms, dense ones too, and a student with
other weights than its teacher's is an ordinary checkpoint; it has no linear branch. All students see the same batches,
of procedural scenes and, with --photos, of photographs.

Each student is written to a file and measured from it: on a GPU by the fast path in FP8, else with emulated FP8; where
everything is kept, by dense attention without FP8 products. Windows and measures are those of `distill_mini.py`.
Differences are paired by window, mean and 95 % bootstrap interval: from the teacher with dense attention without FP8,
and from the student that was not trained. Results are printed, and written to --json, as they come.

    python benchmarks/adapters.py [SCENE…] [--steps 200] [--textures FILE] [--photos FOLDER…] [--json FILE]
    python benchmarks/adapters.py --windows 2 --views 3 --resolution 112 --steps 2    # does it run?
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
import distill_mini as measures
from one_for_all import OneForAll
from sparse_forms import against_truth

from lite3r_cli.config.distill_recipe import Recipe
from lite3r_cli.data.folder import load_photographs
from lite3r_cli.distillation.distill_data import Data, DistillBatch, PhotographSource, ProceduralSource, Sizes
from lite3r_cli.distillation.distill_loop import StudentPlan
from lite3r_cli.engine.layers import Settings
from lite3r_cli.engine.packing import Shape
from lite3r_cli.networks.arithmetic import set_arithmetic
from lite3r_cli.networks.checkpoint import Checkpoint, open_checkpoint
from lite3r_cli.networks.family import exact_products
from lite3r_cli.networks.fast_form import fast_runner, predict
from lite3r_cli.networks.sparsify import sparsify
from lite3r_cli.pipelines.distill_write import write_student
from lite3r_cli.runtime import choose
from lite3r_cli.training.state import save_weights
from lite3r_cli.training.worker import Worker

HELD_OUT = 4  # batches that the best weights are chosen by
DENSE = 1.0  # share of attention that is kept
# What each kind is measured at; without training dense attention is the teacher's.
KEPT = {
    "none": (0.25, 0.1, 0.05),
    "adapters": (0.1, 0.25, DENSE, 0.05),
    "weights": (0.1, 0.25, DENSE, 0.05),
    "branch": (0.1, 0.05),
}


@dataclass(frozen=True)
class Arm:
    """One way to train."""

    name: str
    kind: str  # "none", "branch", "adapters" or "weights"
    select: str = "all"  # transformer layers with adapters
    lr: float = 1e-3


ARMS = ("none", "branch", "all", "selected", "weights")


def arm_of(text: str, o: argparse.Namespace) -> Arm:
    """The arm of a word of ARMS, with its own peak rate if the text is WORD:RATE."""
    word, _, rate = text.partition(":")
    known = {
        "none": Arm("no training", "none"),
        "branch": Arm("linear branch", "branch", lr=o.lr),
        "all": Arm("adapters on all layers", "adapters", lr=o.lr),
        "selected": Arm(f"adapters on {o.select} layers", "adapters", o.select, o.lr),
        "weights": Arm("all weights of the blocks", "weights", lr=o.lr / 10),
    }
    return replace(known[word], lr=float(rate)) if rate else known[word]


class Bench:
    def __init__(self, o: argparse.Namespace, checkpoint: Checkpoint, folder: Path):
        self.o, self.checkpoint, self.file = o, checkpoint, folder / "student.safetensors"
        self.start = time.monotonic()
        runtime = choose(o.device, "auto" if o.device != "cpu" else "float32")
        self.device, self.dtype = runtime.torch_device, runtime.torch_dtype
        torch.backends.cuda.matmul.allow_tf32 = True
        network = checkpoint.load(self.device)
        sizes = Sizes(o.views, 1, o.resolution, network.patch_size, 0)
        self.windows = list(procedural_windows(o.windows, sizes, self.device, o.workers))
        for scene in o.scenes:
            self.windows += measures.scene_windows(scene, o.views, o.resolution, network.patch_size)
        self.say(f"{len(self.windows)} windows")
        self.teacher, _ = measures.answers(network, self.windows, self.device)
        self.dense = self.columns(self.teacher)
        self.untrained: dict[float, dict[str, np.ndarray]] = {}
        known = {name: float(np.nanmean(values)) for name, values in self.dense.items()}
        self.say("teacher: " + ", ".join(f"{name} {value:.4f}" for name, value in known.items()))
        self.data: Data | None = None
        self.train_sizes = replace(sizes, batch=o.batch, resolution=o.train_resolution or o.resolution)
        self.document = {
            "benchmark": "adapters",
            "device": torch.cuda.get_device_name() if self.device.type == "cuda" else str(self.device),
            "torch": torch.__version__,
            "model_sha256": checkpoint.fingerprint.result(),
            "options": {k: v for k, v in vars(o).items() if not isinstance(v, Path) and k not in ("scenes", "photos")}
            | {"model": Path(o.model).name},
            "photos": len(o.photos),
            "windows": [window.name for window in self.windows],
            "teacher": known,
            "results": [],
        }

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.start:5.0f} s  {text}", flush=True)

    def columns(self, found: list[measures.Answer]) -> dict[str, np.ndarray]:
        with ThreadPoolExecutor() as pool:
            rows = list(pool.map(against_truth, found, self.windows))
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}

    def batches(self) -> Data:
        """Batches that are drawn once, a quarter of them photographs if there are any; every student sees the same."""
        if self.data is not None:
            return self.data
        o, sizes = self.o, self.train_sizes
        source = ProceduralSource(sizes, self.device, 0, o.workers, o.textures)
        held_out = list(islice(source.held_out().batches(0), HELD_OUT))
        self.say("held-out batches are drawn")
        photos = load_photographs(o.photos).train if o.photos else ()
        count, limit = max(o.steps, 1), time.monotonic() + o.data_seconds
        other = PhotographSource(photos, sizes, self.device, 0, o.workers, 0).batches(0) if photos else None
        train: list[DistillBatch] = []
        for batch in source.batches(0):
            train.append(batch)
            if other is not None and len(train) % 4 == 3:
                train.append(next(other))
            if len(train) >= count or time.monotonic() > limit:
                break
        self.say(f"{len(train)} batches of {sizes.batch} scenes for {o.steps} steps")
        self.document["batches"] = len(train)
        self.data = Data((Kept(train),), (Kept(held_out),), ())
        return self.data

    # -- one student ---------------------------------------------------------------------------------------------------

    def train(self, arm: Arm) -> dict[str, object]:
        """Train a student, write it to `self.file` and return the time and memory used."""
        if arm.kind == "none":
            return {"trained": 0, "seconds": 0.0, "peak_gib": None}
        data = self.batches()
        network = self.checkpoint.load(self.device)
        network.compute_dtype = self.dtype
        exact = exact_products(network)
        config = sparsify(network, min(self.o.keep))
        steps = self.o.steps
        recipe = Recipe(
            steps=steps, lr=arm.lr, start="zero", views=self.o.views, validation_batches=HELD_OUT, fp8_from=0.25,
            validate_every=max(1, steps // 4), log_every=max(1, steps // 4), match_teacher=self.o.match_teacher,
            trainable=weights_of_blocks(network, exact) if arm.kind == "weights" else (),
        )  # fmt: skip
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        keeps = [keep for keep in self.o.keep if keep != DENSE or arm.kind != "branch"]
        plan, worker = StudentPlan(network, config, exact), Worker(0, 1, self.device)
        start = time.monotonic()
        course: list[tuple[float, float]] = []

        def told(record: dict[str, float]) -> None:
            self.say("      " + ", ".join(f"{name} {value:g}" for name, value in record.items()))
            if "measured" in record:
                course.append((record["step"], record["measured"]))

        made = OneForAll(plan, recipe, worker, data, None, told, keeps=keeps)
        if arm.kind == "adapters":
            made.adapt(self.o.rank, arm.select)
        if arm.kind != "branch":
            made.without_branch()
        begun = time.monotonic() - start
        made.run()
        made.use_best()
        seconds = time.monotonic() - start
        if arm.kind == "branch":
            write_student(self.file, self.checkpoint, made.trained.best, config, "{}")
        else:
            plain = self.checkpoint.load("cpu")
            state = plain.state_dict() | {name: value.float().cpu() for name, value in made.merged().items()}
            save_weights(self.file, state, plain, torch.float8_e4m3fn)
            if self.o.out is not None:
                self.o.out.mkdir(parents=True, exist_ok=True)
                save_weights(self.o.out / f"{arm.kind}-{arm.select}.safetensors", state, plain, torch.float8_e4m3fn)
        return {
            "steps": steps,
            "lr": arm.lr,
            "trained": made.trained.count(),
            "seconds": seconds,
            "probe_seconds": begun if arm.kind == "adapters" else 0.0,
            "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if self.device.type == "cuda" else None,
            "course": course,
            "gradient_norms": made.norms,
            "adapted": made.adapted,
        }

    @torch.inference_mode()
    def predicted(self, file: str | Path, keep: float) -> tuple[list[measures.Answer], float]:
        """Predictions of a checkpoint at this keep ratio, and the share of attention that it skips."""
        with open_checkpoint(file) as student:
            network = student.load(self.device)
        if keep != DENSE:
            sparsify(network, keep)
        if self.device.type != "cuda":
            if keep != DENSE:
                set_arithmetic(network, "emulate", torch.float32)
            return measures.answers(network, self.windows, self.device)
        runner = fast_runner(network, Settings(fp8=keep != DENSE, sparse=keep != DENSE, graphs=False), self.device)
        found, skipped = [], []
        for window in self.windows:
            images = list(window.images.to(self.device))
            out = predict(runner, images)
            skipped.append(runner.skipped(Shape.of(images)))
            poses = measures.geometry.rebase(out.cam_from_world.float().cpu().numpy())
            found.append(measures.Answer(torch.stack(list(out.depth)).float().cpu().numpy(), poses))
        return found, float(np.mean(skipped))

    def measure(self, arm: Arm) -> None:
        about = {"name": arm.name, **self.train(arm)}
        file = self.o.model if arm.kind == "none" else self.file
        for keep in [keep for keep in KEPT[arm.kind] if keep in (DENSE, *self.o.keep)]:
            found, skipped = self.predicted(file, keep)
            truth = self.columns(found)
            base = self.dense if keep == DENSE else self.untrained.setdefault(keep, truth)
            with ThreadPoolExecutor() as pool:
                own = list(pool.map(measures.against_teacher, found, self.teacher))
            row = {**about, "keep_ratio": keep, "skipped": skipped}
            for name, kind in (("absrel", "relative"), ("auc30", "absolute"), ("auc5", "absolute")):
                row[name] = measures.interval(truth[name], kind, self.dense[name])
                row[f"{name}_untrained"] = measures.interval(truth[name], kind, base[name])
            for name in ("depth", "rotation"):
                row[name] = float(np.mean([each[name] for each in own]))
                row[f"{name}_median"] = float(np.median([each[name] for each in own]))
            self.document["results"].append(row)
            self.say(line(row))
            if self.o.json:
                self.o.json.write_text(json.dumps(self.document) + "\n")


def weights_of_blocks(network: torch.nn.Module, exact: tuple[str, ...]) -> tuple[str, ...]:
    """The parameters of the blocks, without the matrices whose products stay exact."""
    names = [name for name, _ in network.named_parameters() if name.startswith("blocks.")]
    return tuple(name for name in names if not any(fnmatchcase(name, pattern) for pattern in exact))


def procedural_windows(count: int, sizes: Sizes, device: torch.device, workers: int) -> Iterator[measures.Window]:
    """Those of `distill_mini.procedural_windows`, sampled by several processes."""
    source = ProceduralSource(replace(sizes, seed=measures.MEASURED_SEED), device, 0, workers, None)
    for i, batch in zip(range(count), source.batches(0)):
        t = batch.targets
        poses, depth = t.cam_from_world[0].cpu().numpy(), t.depth[0].cpu().numpy()
        yield measures.Window(f"procedural {i}", batch.images[0].cpu(), poses, depth)


class Kept:
    """Returns stored batches again and again."""

    def __init__(self, batches: list[DistillBatch]):
        self.kept = batches

    def batches(self, first: int) -> Iterator[DistillBatch]:
        while True:
            yield self.kept[first % len(self.kept)]
            first += 1


def line(row: dict) -> str:
    def spans(key: str) -> str:
        names = {"absrel": "AbsRel", "auc30": "AUC@30", "auc5": "AUC@5"}
        parts = (([100 * x for x in row[name + key]], shown) for name, shown in names.items())
        return ", ".join(f"{shown} {m:+.2f} [{low:+.1f}, {high:+.1f}]" for (m, low, high), shown in parts)

    cost = "" if not row["trained"] else f"; {row['trained']:,} numbers in {row['seconds']:.0f} s"
    return (
        f"{100 * row['skipped']:.1f} % skipped, {row['name']}: {spans('')}; over no training: {spans('_untrained')}; "
        f"teacher: depth {row['depth']:.4f}, rotation {row['rotation_median']:.2f}°{cost}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", type=Path, nargs="*")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--arms", nargs="+", metavar="ARM[:RATE]", default=list(ARMS), help=f"of {', '.join(ARMS)}")
    parser.add_argument("--windows", type=int, default=64, help="procedural ones beside the scenes")
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--resolution", type=int, default=518)
    parser.add_argument("--train-resolution", type=int, help="default: --resolution")
    parser.add_argument("--keep", type=float, nargs="+", default=[DENSE, 0.25, 0.1, 0.05], help="drawn in training")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=1, help="scenes in a step")
    parser.add_argument("--lr", type=float, default=1e-3, help="of branch and adapters; of weights a tenth of it")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--select", default="4", help="layers of the arm with selected ones")
    parser.add_argument("--match-teacher", default="always", help="see lite3r distill")
    parser.add_argument("--textures", type=Path, help="for the scenes of training")
    parser.add_argument("--photos", type=Path, nargs="*", default=[], help="folders of photographs to train on, too")
    parser.add_argument("--workers", type=int, default=0, help="processes that sample scenes")
    parser.add_argument("--data-seconds", type=float, default=60, help="batches are drawn for so long at most")
    parser.add_argument("--seconds", type=float, default=3600, help="no student is begun that would end later")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--out", type=Path, help="folder for the checkpoints")
    o = parser.parse_args()
    chosen = [arm_of(text, o) for text in o.arms]
    with open_checkpoint(o.model) as checkpoint, TemporaryDirectory() as folder:
        bench = Bench(o, checkpoint, Path(folder))
        longest = 0.0
        for arm in chosen:
            begun = time.monotonic()
            if arm.kind != "none" and begun + longest - bench.start > o.seconds:
                bench.say(f"left out, for want of time: {arm.name}")
                continue
            bench.measure(arm)
            longest = time.monotonic() - begun


if __name__ == "__main__":
    main()
