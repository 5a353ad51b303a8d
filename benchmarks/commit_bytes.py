"""Whether a commit that only moves or joins code changes what `lite3r reconstruct` writes, and what it costs.

    python benchmarks/commit_bytes.py BEFORE AFTER [BEFORE AFTER ...] [--turns 2] [--json FILE]

BEFORE and AFTER are commits of this repository. Both are checked out beside each other and reconstruct the same images
in turn, on one CPU thread. The files of both are compared byte by byte; only run.json is left out, which has times and
versions. Each commit uses the weights that it ships. `processor` is the median of the processes' user and system time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from statistics import median

from reconstruct_cpu import processor

ROOT = Path(__file__).resolve().parents[1]
FORMATS = [part for name in ("colmap", "nerfstudio", "tum", "glb") for part in ("--format", name)]
# Scene → images, options. The options are those that the oldest commits have, too.
CASES = {
    "facade, all formats": ("facade", 4, ["--resolution", "224", *FORMATS]),
    "desk": ("desk", 4, ["--resolution", "224"]),
    "aloe": ("aloe", 2, ["--resolution", "224"]),
    "facade, refined": ("facade", 4, ["--resolution", "140", "--refine"]),
    "facade, sparse": ("facade", 4, ["--resolution", "140", "--attention", "sla", "--keep-ratio", "0.5"]),
}


def git(*arguments: str) -> bytes:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, capture_output=True).stdout


def check_out(commit: str, folder: Path) -> Path:
    """The package and its weights as they were."""
    target = folder / commit
    target.mkdir()
    archive = git("archive", commit, "lite3r_cli", "checkpoints")
    subprocess.run(["tar", "-x", "-C", str(target)], input=archive, check=True)
    return target


def reconstruct(checkout: Path, case: str, out: Path) -> tuple[dict[str, bytes], float]:
    """Name → content of every file, and the processor time in seconds."""
    scene, count, options = CASES[case]
    images = sorted(map(str, (ROOT / "sample_scenes" / scene / "images").iterdir()))[:count]
    command = [sys.executable, "-m", "lite3r_cli", "reconstruct", *images, "-o", str(out / "scene.ply"), "-q"]
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*command, "--device", "cpu", *options], check=True, cwd=checkout, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    files = {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != "run.json"
    }
    return files, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compare(commits: tuple[str, str], folder: Path, turns: int) -> dict[str, object]:
    """For each case the files that differ, the number of files and the processor times of both commits."""
    checkouts = [check_out(commit, folder) for commit in commits]
    cases = {}
    for number, case in enumerate(CASES):
        files: list[dict[str, bytes]] = [{}, {}]
        seconds: list[list[float]] = [[], []]
        for turn in range(turns):
            for side, checkout in enumerate(checkouts):
                out = folder / f"{number}-{turn}-{side}"
                out.mkdir()
                files[side], spent = reconstruct(checkout, case, out)
                seconds[side].append(spent)
        names = files[0].keys() | files[1].keys()
        cases[case] = {
            "files": len(files[0]),
            "different": sorted(name for name in names if files[0].get(name) != files[1].get(name)),
            "processor": [round(median(spent), 2) for spent in seconds],
        }
        print(f"  {case}: {cases[case]}", flush=True)
    return {
        "before": commits[0],
        "after": commits[1],
        "subject": git("log", "-1", "--format=%s", commits[1]).decode().strip(),
        "cases": cases,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commits", nargs="+")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    commits = [git("rev-parse", "--short", commit).decode().strip() for commit in options.commits]
    results = []
    for pair in zip(commits[::2], commits[1::2], strict=True):
        print(*pair, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            results.append(compare(pair, Path(folder), options.turns))
        if options.json:
            document = {"processor": processor(), "torch": version("torch"), "turns": options.turns, "pairs": results}
            options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
