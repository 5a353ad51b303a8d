"""`lite3r reconstruct` on a CPU as a user runs it: a fresh process, wall time from start to end, peak memory.

Default: 8 JPEG pictures of 1024×683 on two cores at the default resolution. The pictures are a drawn pattern: the time
does not depend on what they show. Measure on idle cores: other work slows the threads of torch far out of proportion.
`processor` is the user and system time of all threads, which other work changes less. Modules are compiled once, as
those of an installed package are; this and the file cache are the work of a first run that is not counted. With
`--against` another checkout runs in turn. Correctness first: the scene must be complete and finite. A table, then one
JSON line.

    python benchmarks/reconstruct_cpu.py [--views 8] [--size 1024x683] [--cores 2] [--repeats 3] [-- OPTIONS]
    python benchmarks/reconstruct_cpu.py --against ../before -- --dtype float32
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
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np

from lite3r_cli.io.output_layout import is_complete
from lite3r_cli.io.ply import read_ply

ROOT = Path(__file__).resolve().parents[1]


def draw_pictures(folder: Path, views: int, width: int, height: int) -> None:
    """Smooth noise that drifts from view to view, with some fine grain: compresses and decodes like a photograph."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 48, 3), dtype=np.uint8)
    coarse = cv2.resize(noise, (2 * width, height), interpolation=cv2.INTER_CUBIC)

    def draw(i: int) -> None:
        shift = i * width // (2 * views)
        grain = np.random.default_rng(i).normal(0, 6, (height, width, 1))
        picture = np.clip(coarse[:, shift : shift + width] + grain, 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"view_{i:02d}.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 92])

    with ThreadPoolExecutor() as pool:
        list(pool.map(draw, range(views)))


def as_installed(checkout: Path, cache: Path) -> dict[str, str]:
    """The environment of a process that runs the package in `checkout`. Its modules are compiled once, into `cache`."""
    path = os.pathsep.join([str(checkout), *filter(None, [os.environ.get("PYTHONPATH")])])
    compiled = {"PYTHONPYCACHEPREFIX": str(cache), "PYTHONDONTWRITEBYTECODE": ""}
    return {**os.environ, "PYTHONPATH": path, **compiled}


def run_once(checkout: Path, cache: Path, pictures: Path, output: Path, options: list[str]) -> dict:
    """One process; wall and processor seconds, its own account, and the peak memory that the system charged it with."""
    command = [sys.executable, "-m", "lite3r_cli", "reconstruct", str(pictures), "-o", str(output), "--device", "cpu"]
    environment = as_installed(checkout, cache)
    start = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--json", "-q", *options], stdout=subprocess.PIPE, env=environment, cwd=checkout
    )
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    if os.waitstatus_to_exitcode(status) != 0:
        sys.exit(f"lite3r reconstruct ended with {os.waitstatus_to_exitcode(status)}")
    unit = 1 if sys.platform == "darwin" else 1024
    spent = usage.ru_utime + usage.ru_stime
    return {"wall_s": wall, "processor_s": spent, "peak_bytes": usage.ru_maxrss * unit, "report": json.loads(text)}


def check(output: Path, report: dict, views: int) -> None:
    cloud = read_ply(output)
    assert is_complete(output) and report["views"] == views and len(cloud) == report["points"] > 0
    assert np.isfinite(cloud.points).all(), "points that are not finite"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--size", default="1024x683", metavar="WIDTHxHEIGHT")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--against", type=Path, metavar="PATH", help="the root of another checkout")
    parser.add_argument("--limit", type=float, help="fail if the median wall time is longer, seconds")
    parser.add_argument("--limit-gb", type=float, help="fail if the peak memory is larger, GB")
    parser.add_argument("options", nargs="*", help="handed to lite3r reconstruct, after --")
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.cores])  # inherited by the runs

    checkouts = [ROOT] if arguments.against is None else [arguments.against.resolve(), ROOT]
    runs: dict[Path, list[dict]] = {checkout: [] for checkout in checkouts}
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder, "pictures")
        pictures.mkdir()
        draw_pictures(pictures, arguments.views, width, height)
        for i in range(1 + arguments.repeats):
            for k, checkout in enumerate(checkouts):
                output, cache = Path(folder, f"run{i}-{k}", "scene.ply"), Path(folder, f"cache{k}")
                found = run_once(checkout, cache, pictures, output, arguments.options)
                check(output, found["report"], arguments.views)
                if i:
                    runs[checkout].append(found)
    facts = {
        "benchmark": "reconstruct_cpu",
        "processor": processor(),
        "cores": arguments.cores,
        "python": platform.python_version(),
        "torch": version("torch"),
        "views": arguments.views,
        "size": arguments.size,
        "options": arguments.options,
    }
    print(f"{arguments.views} of {arguments.size}, {arguments.cores} cores")
    summaries = [summary("here" if checkout == ROOT else "against", runs[checkout]) for checkout in checkouts]
    print(json.dumps({**facts, "order": "in alternation, fresh processes", "runs": summaries}))
    newest = summaries[-1]
    if arguments.limit is not None and statistics.median(newest["wall_s"]) > arguments.limit:
        sys.exit(f"slower than {arguments.limit} s")
    if arguments.limit_gb is not None and newest["peak_gb"] > arguments.limit_gb:
        sys.exit(f"more than {arguments.limit_gb} GB")


def summary(name: str, runs: list[dict]) -> dict:
    """What is stored of the runs of one checkout; the stages are those of the run in the middle. Prints them, too."""
    wall = statistics.median(run["wall_s"] for run in runs)
    middle = min(runs, key=lambda run: abs(run["wall_s"] - wall))
    spent, peak = statistics.median(run["processor_s"] for run in runs), max(run["peak_bytes"] for run in runs)
    stages = {**middle["report"]["seconds"]}
    stages["interpreter, imports, exit"] = middle["wall_s"] - sum(stages.values())
    dtype = middle["report"]["runtime"]["dtype"]
    print(f"{name}: {dtype['chosen']} ({dtype['reason']})")
    for stage, seconds in stages.items():
        print(f"  {stage:28} {seconds:7.2f} s")
    print(f"  {'wall time, median':28} {wall:7.2f} s    processor {spent:.2f} s    peak memory {peak / 1e9:.2f} GB")
    return {
        "checkout": name,
        "wall_s": [round(run["wall_s"], 2) for run in runs],
        "processor_s": [round(run["processor_s"], 2) for run in runs],
        "peak_gb": round(peak / 1e9, 3),
        "points": middle["report"]["points"],
        "dtype": dtype["chosen"],
        "stages_s": {stage: round(seconds, 2) for stage, seconds in stages.items()},
    }


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


if __name__ == "__main__":
    main()
