"""What a user of `lite3r reconstruct` waits for, stage by stage, in fresh processes: from photographs to files.

    python benchmarks/end_to_end.py                                        # mini, 8, 100 and 300 photographs
    python benchmarks/end_to_end.py --networks mini vggt vggt-lite --views 8 --json end.json
    python benchmarks/end_to_end.py --quick --against ../before            # two checkouts in alternation
    python benchmarks/end_to_end.py --batch 50                             # lite3r batch beside a shell loop

`base` is `python -c "import torch; torch.zeros(1, device=…)"`, measured in the same run: nobody who uses torch can be
faster. `network` is the network alone, in a process that has predicted before. `beyond` is what is left of the wall
time without both. Stages may overlap: they need not add up to the wall time. `start` is what the process takes until
torch is there, `exit` what its parent waits for beyond its own account. The pictures are a drawn pattern.
VGGT-1B has stand-in weights (of its shapes, at random), written to a file first: `vggt` in bfloat16 and dense,
`vggt-lite` as `lite3r convert` makes it. The caches (hashes, compiled kernels) are empty at the beginning; the first
run of each kind fills them and is told apart. Correctness first: every scene must be complete and finite.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.reconstruct_cpu import draw_pictures  # noqa: E402
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
BASE = "import torch; torch.zeros(1, device={device!r})"
NETWORK_ALONE = """
import json, sys, time
from pathlib import Path
import torch
from lite3r_cli.config import PredictConfig
from lite3r_cli.io.images import discover
from lite3r_cli.pipelines.predict import Predictor
folder, model, device = sys.argv[1:]
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
images = discover([Path(folder)])
for _ in range(3):
    predictor.predict(images)
print(json.dumps({"seconds": min(seconds[1:]), "device": predictor.choices()["device"]["reason"]}))
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
        cache = str(caches / name)
        path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
        own = {"PYTHONPATH": path, "XDG_CACHE_HOME": cache, "TRITON_CACHE_DIR": cache}
        # modules are compiled once, as those of an installed package are
        own |= {"PYTHONPYCACHEPREFIX": cache, "PYTHONDONTWRITEBYTECODE": ""}
        self.environment = {**os.environ, **own}

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
        arguments = ("reconstruct", str(pictures), "-o", str(output), "--model", model, "--device", device)
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


def median(runs: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


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


def measure(checkouts: list[Checkout], pictures: Path, model: str, device: str, repeats: int) -> list[dict]:
    """For each checkout the medians of its runs, in alternation, its first run, and the network alone."""
    first, runs = {}, {each.name: [] for each in checkouts}
    for _ in range(repeats + 1):
        for each in checkouts:
            with tempfile.TemporaryDirectory(dir=pictures.parent) as folder:
                taken = each.reconstruct(pictures, Path(folder, "scene.ply"), model, device)
            (runs[each.name].append if each.name in first else lambda t: first.update({each.name: t}))(taken)
    results = []
    for each in checkouts:
        alone = json.loads(each.python("-c", NETWORK_ALONE, str(pictures), model, device)[0].splitlines()[-1])
        taken = {**median(runs[each.name]), "network": alone["seconds"]}
        spread = [round(run["wall"], 2) for run in runs[each.name]]
        result = {"checkout": each.name, "device": alone["device"], "median": taken, "walls": spread}
        results.append({**result, "first": first[each.name]})
    return results


def batch_and_loop(checkout: Checkout, folder: Path, scenes: int, device: str) -> dict[str, float]:
    """Scenes of eight photographs: one `lite3r batch`, and a shell loop over a tenth of them (two at least)."""
    root = folder / "scenes"
    for i in range(scenes):
        (root / f"scene{i:03d}").mkdir(parents=True)
        draw_pictures(root / f"scene{i:03d}", 8, 1024, 683)
    text, wall = checkout.python("-m", "lite3r_cli", "batch", str(root), "-o", str(folder / "out"), "--device", device,
                                 "--json", "-q")  # fmt: skip
    document = json.loads(text)
    assert [entry["status"] for entry in document["scenes"]] == ["done"] * scenes
    some = max(2, scenes // 10)
    loop = sum(
        checkout.reconstruct(root / f"scene{i:03d}", folder / f"loop{i}.ply", "mini", device)["wall"]
        for i in range(some)
    )
    after_start = document["wall_seconds"] - document["start_seconds"]
    return {"scenes": scenes, "batch_wall": wall, "scenes_per_s": scenes / wall, "after_start": scenes / after_start,
            "loop_scenes_per_s": some / loop, "batch_over_loop": scenes / wall / (some / loop)}  # fmt: skip


def show(rows: list[dict], base: float) -> None:
    keys = ["start", "load", "read", "compare", "predict", "network", "fuse", "level", "write", "exit", "wall"]
    wide = max(len(row["name"]) for row in rows) + max(len(row["checkout"]) for row in rows) + 2
    print(
        f"base {base:.2f} s; seconds, medians\n{'':{wide}}" + "".join(f"{key:>9}" for key in [*keys, "beyond", "1st"])
    )
    for row in rows:
        taken = row["median"]
        cells = [*(taken[key] for key in keys), taken["wall"] - base - taken["network"], row["first"]["wall"]]
        print(f"{row['name'] + '  ' + row['checkout']:{wide}}" + "".join(f"{cell:9.2f}" for cell in cells))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["mini"])
    parser.add_argument("--views", nargs="+", type=int, default=[8, 100, 300])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one run of each kind after the first")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--size", default="1024x683", metavar="WIDTHxHEIGHT")
    parser.add_argument("--against", type=Path, metavar="PATH", help="the root of another checkout")
    parser.add_argument("--batch", type=int, metavar="N", help="N scenes by lite3r batch beside a shell loop, alone")
    parser.add_argument("--folder", type=Path, help="where pictures, networks and scenes may lie (some GB)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    return parser.parse_args()


def main() -> None:
    asked = parse()
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        checkouts = [Checkout("here", ROOT, folder)]
        if asked.against is not None:
            checkouts.insert(0, Checkout("against", asked.against.resolve(), folder))
        device = asked.device
        if device == "auto":
            text, _ = checkouts[0].python("-c", "import torch; print('cuda' if torch.cuda.is_available() else 'cpu')")
            device = text.strip()
        document = {
            "benchmark": "end_to_end",
            "processor": processor(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "python": platform.python_version(),
            "torch": version("torch"),
            "size": asked.size,
        }
        bases = [checkouts[0].python("-c", BASE.format(device=device))[1] for _ in range(4)][1:]
        document["base"] = statistics.median(bases)
        if asked.batch:
            document["batch"] = batch_and_loop(checkouts[-1], folder, asked.batch, device)
            print("\n".join(f"{key:20} {value:.2f}" for key, value in document["batch"].items()))
        else:
            document["rows"] = rows = []
            networks = make_networks(asked.networks, folder, checkouts[-1], device)
            for network, model in networks.items():
                for views in asked.views:
                    pictures = folder / f"pictures{views}"
                    if not pictures.exists():
                        pictures.mkdir()
                        draw_pictures(pictures, views, *map(int, asked.size.split("x")))
                    found = measure(checkouts, pictures, model, device, 1 if asked.quick else asked.repeats)
                    rows += [{"name": f"{network}, {views}", **each} for each in found]
                    show(rows[-len(found) :], document["base"])
            print()
            show(rows, document["base"])
        text = json.dumps(document)
        print(text)
        if asked.json is not None:
            asked.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
