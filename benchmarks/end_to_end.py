"""Measures the time of `lite3r reconstruct` from photos to files, stage by stage, in fresh processes.

    python benchmarks/end_to_end.py                                        # mini, 8, 100 and 300 photographs
    python benchmarks/end_to_end.py --networks mini vggt vggt-lite --views 8 --json end.json
    python benchmarks/end_to_end.py --against ../before                    # two checkouts in alternation
    python benchmarks/end_to_end.py --networks mini vggt-lite --batch 50 --workers 1 4 --seconds 300 --profile mini:100

`base` is `python -c "import torch; torch.zeros(1, device=…)"`, measured in the same run: nobody who uses torch can be
faster. `network` is the network alone, in a process that has predicted before. `beyond` is what is left of the wall
time without both. Stages may overlap: they need not add up to the wall time. `start` is what the process takes until
torch is there, `exit` what its parent waits for beyond its own account. The pictures are a drawn pattern.
VGGT-1B has stand-in weights (of its shapes, at random), written to a file first: `vggt` in bfloat16 and dense,
`vggt-lite` as `lite3r convert` makes it. The caches (hashes, compiled kernels) are empty at the beginning; the first
run of each row fills them and is told apart. Rows are measured in turn, again and again, until each has had its
`--repeats` or `--seconds` have passed; a row that was measured once shows its first run. `--batch N` makes N scenes of
8 photographs with `lite3r batch`, and some of them in a shell loop. All views of a row are seen in one pass. Results
are printed, and written to `--json`, as they come. Correctness first: every scene must be complete and finite.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.reconstruct_cpu import as_installed, draw_pictures  # noqa: E402
from lite3r_cli.io.output_layout import is_complete  # noqa: E402
from lite3r_cli.io.ply import read_ply  # noqa: E402
from lite3r_cli.runtime import processor  # noqa: E402

NETWORKS = ("mini", "vggt", "vggt-lite")
COLUMNS = {
    "Start": "start",
    "Load model": "load",
    "Read images": "read",
    "Compare images": "compare",
    "Predict": "predict",
    "Fuse": "fuse",
    "Level": "level",
}
ONE_PASS = ("--chunk", "off")  # sets of more than 200 in order would be taken in chunks
BASE = "import torch; torch.zeros(1, device={device!r})"
NETWORK_ALONE = """
import json, sys, time
from pathlib import Path
import torch
from lite3r_cli.config import PredictConfig
from lite3r_cli.io.images import discover
from lite3r_cli.pipelines.predict import Predictor
model, device, *folders = sys.argv[1:]
predictor, seconds = Predictor(PredictConfig(model=model, device=device)), []
inner = predictor.network.predict
def wait():
    if predictor.runtime.torch_device.type == "cuda":
        torch.cuda.synchronize()
def timed(*images, **more):
    wait()
    start = time.perf_counter()
    answer = inner(*images, **more)
    wait()
    seconds.append(time.perf_counter() - start)
    return answer
predictor.network.predict = timed
found = []
for folder in folders:
    images = discover([Path(folder)])
    pictures = predictor.read(images)
    seconds.clear()
    for _ in range(3):
        predictor.predict_pictures(images, pictures)
    found.append(min(seconds[1:]))
print(json.dumps({"seconds": found, "device": predictor.choices()["device"]["reason"]}))
"""
STANDIN = """
import sys
import torch
from safetensors.torch import save_file
from lite3r_cli.layers.unfilled import unfilled
from lite3r_cli.networks import standin
from lite3r_cli.networks.family import family_named
name, path, device = sys.argv[1:]
family = family_named(name)
with unfilled():
    model = family.build(family.sizes[name], name)
made, make = {}, torch.Generator(device).manual_seed(0)
for name, tensor in model.state_dict().items():
    normal = torch.randn(tensor.shape, generator=make, device=device)
    made[name] = standin.spread_out(name, tuple(tensor.shape), normal).to(torch.bfloat16).cpu()
save_file(made, path)
"""


class Checkout:
    """One version of the program; `folder` is the root of its repository."""

    def __init__(self, name: str, folder: Path, caches: Path) -> None:
        self.name, self.folder = name, folder
        cache = caches / name
        own = {"XDG_CACHE_HOME": str(cache), "TRITON_CACHE_DIR": str(cache)}
        self.environment = as_installed(folder, cache) | own

    def python(self, *arguments: str) -> tuple[str, float]:
        """Standard output and wall seconds of a process that must succeed."""
        start = time.perf_counter()
        run = subprocess.run(
            [sys.executable, *arguments], cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, text=True
        )
        wall = time.perf_counter() - start
        if run.returncode:
            sys.exit(f"{self.name}: {' '.join(arguments)[:200]} ended with {run.returncode}")
        return run.stdout, wall

    def reconstruct(self, pictures: Path, output: Path, model: str, device: str) -> dict[str, float]:
        """Seconds by stage of one run in a fresh process."""
        arguments = ("reconstruct", str(pictures), "-o", str(output), "--model", model, "--device", device, *ONE_PASS)
        text, wall = self.python("-m", "lite3r_cli", *arguments, "--json", "-q")
        report = json.loads(text)
        check(output, report)
        taken = {column: report["seconds"].get(stage, 0.0) for stage, column in COLUMNS.items()}
        told = report.get("wall_seconds", sum(report["seconds"].values()))
        return {**taken, "write": report["seconds"]["Write"], "exit": wall - told, "wall": wall}


def check(output: Path, report: dict) -> None:
    cloud = read_ply(output)
    assert is_complete(output) and len(cloud) == report["points"] > 0
    assert np.isfinite(cloud.points).all(), "points that are not finite"


@dataclass
class Row:
    """One network and number of photographs with one checkout."""

    network: str
    views: int
    checkout: Checkout
    pictures: Path
    model: str
    runs: list[dict[str, float]] = field(default_factory=list)
    alone: float | None = None  # seconds of the network, in a process that has predicted before

    def run(self, device: str) -> None:
        """Measure once more and store the result."""
        with tempfile.TemporaryDirectory(dir=self.pictures.parent) as folder:
            self.runs.append(self.checkout.reconstruct(self.pictures, Path(folder, "scene.ply"), self.model, device))

    def document(self, base: float) -> dict[str, Any]:
        """Medians of all runs but the first."""
        runs = self.runs[1:] or self.runs
        middle = {key: round(statistics.median(run[key] for run in runs), 3) for key in runs[0]}
        if self.alone is not None:
            middle |= {"network": round(self.alone, 3), "beyond": round(middle["wall"] - base - self.alone, 3)}
        walls = [round(run["wall"], 2) for run in self.runs]
        name = f"{self.network}, {self.views}"
        return {"name": name, "checkout": self.checkout.name, "median": middle, "walls": walls}


def make_networks(names: list[str], folder: Path, checkout: Checkout, device: str) -> dict[str, str]:
    """Name → what `--model` takes."""
    made = {"mini": "mini"}
    if {"vggt", "vggt-lite"} & set(names):
        plain, lite = folder / "vggt-1b.safetensors", folder / "vggt-lite.safetensors"
        checkout.python("-c", STANDIN, "vggt-1b", str(plain), device)
        made["vggt"] = str(plain)
        if "vggt-lite" in names:
            checkout.python("-m", "lite3r_cli", "convert", str(plain), "-o", str(lite), "--keep-ratio", "0.1", "-q")
            made["vggt-lite"] = str(lite)
    return {name: made[name] for name in names}


def draw_scenes(root: Path, scenes: int) -> Path:
    """Scenes of eight photographs."""
    for i in range(scenes):
        (root / f"scene{i:03d}").mkdir(parents=True)
        draw_pictures(root / f"scene{i:03d}", 8, 1024, 683)
    return root


def batch(checkout: Checkout, root: Path, scenes: int, device: str, workers: int) -> dict[str, float]:
    """One `lite3r batch`; with several workers all of them use the same device."""
    out = root.with_name(f"{root.name}-{workers}")
    one = "cuda:0" if device == "cuda" and workers > 1 else device
    arguments = ("batch", str(root), "-o", str(out), "--device", one, "--workers", str(workers))
    text, wall = checkout.python("-m", "lite3r_cli", *arguments, "--json", "-q")
    document = json.loads(text)
    assert [entry["status"] for entry in document["scenes"]] == ["done"] * scenes
    after_start = document["wall_seconds"] - document["start_seconds"]
    return {"workers": workers, "batch_wall": wall, "scenes_per_s": scenes / wall, "after_start": scenes / after_start}


def batch_and_loop(
    checkout: Checkout, folder: Path, scenes: int, device: str, workers: Sequence[int]
) -> dict[str, Any]:
    """`lite3r batch` with these numbers of workers, and a shell loop over some of its scenes."""
    root = draw_scenes(folder / "scenes", scenes)
    runs = [batch(checkout, root, scenes, device, count) for count in workers]
    some = max(2, scenes // 20)
    loop = 0.0
    for i in range(some):
        loop += checkout.reconstruct(root / f"scene{i:03d}", folder / f"loop{i}.ply", "mini", device)["wall"]
    for run in runs:
        run["batch_over_loop"] = run["scenes_per_s"] / (some / loop)
    return {"scenes": scenes, "loop_scenes_per_s": some / loop, "runs": runs}


SHOWN = "start load read compare predict network fuse level write exit wall beyond".split()


def show(rows: Sequence[Row], base: float) -> None:
    wide = max(len(f"{row.network}, {row.views}  {row.checkout.name}") for row in rows)
    titles = "".join(f"{key:>8}" for key in SHOWN)
    print(f"base {base:.2f} s; seconds\n{'':{wide}}{titles}  walls, the first apart")
    for row in rows:
        document = row.document(base)
        cells = "".join(f"{document['median'].get(key, math.nan):8.2f}" for key in SHOWN)
        first, *others = document["walls"]
        print(f"{document['name'] + '  ' + row.checkout.name:{wide}}{cells}  {first} {others}", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["mini"])
    parser.add_argument("--views", nargs="+", type=int, default=[8, 100, 300])
    parser.add_argument("--repeats", type=int, default=3, help="runs of each row after the first")
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no run that would end after them")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--size", default="1024x683", metavar="WIDTHxHEIGHT")
    parser.add_argument("--against", type=Path, metavar="PATH", help="the root of another checkout")
    parser.add_argument("--batch", type=int, metavar="N", help="N scenes by lite3r batch beside a shell loop, too")
    parser.add_argument("--workers", nargs="+", type=int, default=[1], help="of lite3r batch, all on one device")
    parser.add_argument(
        "--profile", nargs="*", default=[], metavar="NETWORK:VIEWS", help="where one more run's time goes"
    )
    parser.add_argument("--folder", type=Path, help="where pictures, networks and scenes may lie (some GB)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    return parser.parse_args()


class Session:
    """One call of this benchmark."""

    def __init__(self, asked: argparse.Namespace, folder: Path) -> None:
        self.asked, self.folder, self.began = asked, folder, time.perf_counter()
        self.checkouts = [Checkout("here", ROOT, folder)]
        if asked.against is not None:
            self.checkouts.insert(0, Checkout("against", asked.against.resolve(), folder))
        self.device, self.rows = asked.device, list[Row]()
        if self.device == "auto":
            text, _ = self.newest.python("-c", "import torch; print('cuda' if torch.cuda.is_available() else 'cpu')")
            self.device = text.strip()
        self.facts: dict[str, Any] = {
            "benchmark": "end_to_end",
            "processor": processor(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "python": platform.python_version(),
            "torch": version("torch"),
            "size": asked.size,
        }
        self.bases: list[float] = []

    @property
    def newest(self) -> Checkout:
        return self.checkouts[-1]

    @property
    def base(self) -> float:
        """Median seconds of `BASE` without the first run, which fills the file cache."""
        return statistics.median(self.bases[1:] or self.bases)

    def measure_base(self) -> None:
        self.bases.append(self.newest.python("-c", BASE.format(device=self.device))[1])

    def run(self) -> None:
        asked = self.asked
        self.measure_base()
        networks = make_networks(asked.networks, self.folder, self.newest, self.device)
        self.told("networks made")
        for views in asked.views:  # the short ones first: what is wrong is seen early
            pictures = self.folder / f"pictures{views}"
            pictures.mkdir()
            draw_pictures(pictures, views, *map(int, asked.size.split("x")))
            self.measure_base()
            self.rows += [Row(n, views, c, pictures, model) for n, model in networks.items() for c in self.checkouts]
            for row in self.rows[-len(networks) * len(self.checkouts) :]:
                self.once(row)
        self.networks_alone(networks)
        for name in asked.profile:
            self.profile(name)
        if asked.batch:
            self.facts["batch"] = batch_and_loop(self.newest, self.folder, asked.batch, self.device, asked.workers)
            print(json.dumps(self.facts["batch"], indent=1), flush=True)
        for _ in range(asked.repeats):
            self.measure_base()
            for row in self.rows:
                if time.perf_counter() - self.began + row.runs[-1]["wall"] < asked.seconds:
                    self.once(row)
        show(self.rows, self.base)

    def once(self, row: Row) -> None:
        row.run(self.device)
        show([row], self.base)
        self.save()

    def networks_alone(self, networks: dict[str, str]) -> None:
        for network, model in networks.items():
            for checkout in self.checkouts:
                rows = [row for row in self.rows if (row.network, row.checkout) == (network, checkout)]
                folders = [str(row.pictures) for row in rows]
                text, _ = checkout.python("-c", NETWORK_ALONE, model, self.device, *folders)
                found = json.loads(text.splitlines()[-1])
                self.facts["device"] = found["device"]
                for row, seconds in zip(rows, found["seconds"], strict=True):
                    row.alone = seconds
                    print(f"{network}, {row.views}, {checkout.name}: the network alone {seconds:.3f} s", flush=True)
        self.save()

    def profile(self, name: str) -> None:
        """What the threads do in one more run of "NETWORK:VIEWS", or in a "batch" of 12 scenes."""
        if name == "batch":
            root = draw_scenes(self.folder / "profiled", 12)
            command = ("batch", str(root), "-o", str(self.folder / "profiled-out"))
        else:
            network, _, views = name.partition(":")
            row = next(r for r in self.rows if (r.network, str(r.views), r.checkout) == (network, views, self.newest))
            command = ("reconstruct", str(row.pictures), "-o", str(self.folder / f"{network}{views}.ply"))
            command += ("--model", row.model, *ONE_PASS)
        arguments = ("benchmarks/where_time_goes.py", "--", *command, "--device", self.device, "-q")
        print(self.newest.python(*arguments)[0], flush=True)

    def told(self, text: str) -> None:
        print(f"{time.perf_counter() - self.began:.0f} s: {text}", flush=True)

    def save(self) -> None:
        self.told("saved")
        if self.asked.json is not None:
            document = {
                **self.facts,
                "base": round(self.base, 3),
                "rows": [row.document(self.base) for row in self.rows if row.runs],
            }
            self.asked.json.write_text(json.dumps(document, indent=1) + "\n")


def main() -> None:
    asked = parse()
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        session = Session(asked, Path(name))
        session.run()
        session.save()


if __name__ == "__main__":
    main()
