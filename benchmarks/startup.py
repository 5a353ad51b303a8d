"""Measures the wall time of commands that compute nothing: the time before the work begins.

Prints a table, then one JSON line. Correctness first: each command must end with exit code 0 and must not import torch.

    python benchmarks/startup.py [--repeats 20] [--limit 0.3]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version

COMMANDS = (("--help",), ("--version",), ("reconstruct", "--help"), ("models",))
HEAVY = ("torch", "numpy", "cv2")


def check(arguments: tuple[str, ...]) -> None:
    """Run a command once with the names of all imported modules; fail if a heavy one is among them."""
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "lite3r_cli.cli", *arguments], capture_output=True, text=True
    )
    if run.returncode != 0:
        sys.exit(f"lite3r {' '.join(arguments)} ended with {run.returncode}: {run.stderr.strip().splitlines()[-1]}")
    imported = {line.rsplit("|", 1)[-1].strip() for line in run.stderr.splitlines() if line.startswith("import time:")}
    found = imported & set(HEAVY)
    if found:
        sys.exit(f"lite3r {' '.join(arguments)} imports {', '.join(sorted(found))}")


def measure(arguments: tuple[str, ...], repeats: int) -> list[float]:
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "lite3r_cli.cli", *arguments], capture_output=True, check=True)
        seconds.append(time.perf_counter() - start)
    return seconds[1:]  # the first run fills the file cache


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--limit", type=float, help="fail if the median of --help takes longer than this, seconds")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one core, inherited by the commands

    results = {}
    print(f"{'command':30} {'median':>9} {'best':>9} {'worst':>9}")
    for arguments in COMMANDS:
        check(arguments)
        seconds = measure(arguments, options.repeats)
        name = " ".join(("lite3r", *arguments))
        results[name] = {"median_s": statistics.median(seconds), "best_s": min(seconds), "worst_s": max(seconds)}
        print(f"{name:30}" + "".join(f" {value * 1000:6.0f} ms" for value in results[name].values()))
    machine = {"python": platform.python_version(), "processor": platform.machine(), "cores_used": 1}
    packages = {name: version(name) for name in ("typer", "rich")}
    print(json.dumps({"benchmark": "startup", **machine, **packages, "repeats": options.repeats, "results": results}))
    if options.limit is not None and results["lite3r --help"]["median_s"] > options.limit:
        sys.exit(f"lite3r --help takes longer than {options.limit} s")


if __name__ == "__main__":
    main()
