"""Changed files through every reader of the package: how many, and what was found, reader by reader.

    python benchmarks/fuzz.py --seconds 600 [--jobs 2] [--only text,pnm] [--json benchmarks/results/fuzz.json]

Runs tests/fuzz/run.py, whose limits hold: no exception that is not the package's own, no answer that is not sound, 5 s
of processor time, 2 GB, no end of the process. Run again with the same --json, it adds other cases to those that are
there. Readers that are quick get more cases, for the time is shared: each gets about as much of it as any other.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

RUN = Path(__file__).resolve().parents[1] / "tests/fuzz/run.py"
SHARES = {"cloud": 12, "pnm": 8, "bmp": 6, "depth": 6, "cameras": 6, "transforms": 8, "colmap_text": 8,
          "colmap_binary": 8, "flight": 12, "training_set": 12, "batch": 12, "scene": 6, "archive": 6, "leftovers": 3,
          "run_json": 4, "chunks": 4, "heif": 4, "avif": 4, "jpeg2000": 4,
          "gif": 4, "mask": 2, "parts": 12, "live": 4, "resumed": 4, "manifest": 6, "older": 6, "given_depth": 6,
          "cache": 6, "page": 12, "photo_set": 2, "dtu": 2, "trajectory": 3}  # fmt: skip


def started(names: list[str], seconds: float, seed: int) -> subprocess.Popen[str]:
    command = [sys.executable, str(RUN), "--seconds", str(seconds), "--seed", str(seed), "--only", ",".join(names)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def result(names: list[str], process: subprocess.Popen[str]) -> tuple[Counter[str], list[dict]]:
    """Cases by reader, and the faults."""
    from run import names_of  # the same order as there: a case's number says which reader it was

    out, told = process.communicate()
    total = re.findall(r"^(\d+) cases, \d+ faults", told, re.MULTILINE)
    if not total:
        return Counter(), [{"fault": "the fuzzer ended", "text": told[-2000:]}]
    order = names_of(",".join(names))
    counts = Counter(order[number % len(order)] for number in range(int(total[-1])))
    return counts, [json.loads(line) for line in out.splitlines()]


def measure() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=600, help="of each portion")
    options.add_argument("--jobs", type=int, default=1, help="processes side by side, each with its own seed")
    options.add_argument("--only", help="names of readers, with commas; default: all")
    options.add_argument("--seed", type=int, help="the first; default: one that no portion of --json had")
    options.add_argument("--json", type=Path)
    asked = options.parse_args()
    sys.path[:0] = [str(folder) for folder in list(RUN.parents)[:3]]
    from readers import readers

    known = asked.only.split(",") if asked.only else list(readers())
    names = [name for name in known for _ in range(SHARES.get(name, 1))]
    random.Random(0).shuffle(names)
    before = json.loads(asked.json.read_text()) if asked.json is not None and asked.json.exists() else {}
    first = 1 + max(before.get("seeds", [999])) if asked.seed is None else asked.seed
    seeds = list(range(first, first + asked.jobs))
    running = [started(names, asked.seconds, seed) for seed in seeds]
    cases, faults = Counter(before.get("by_reader", {})), list(before.get("faults", ()))
    for seed, process in zip(seeds, running):
        counts, found = result(names, process)
        cases.update(counts)
        faults += found
        new, everything = sum(counts.values()), sum(cases.values())
        print(f"{new} cases, {len(found)} faults, seed {seed}; {everything} in all", flush=True)
        for fault in found:
            print(json.dumps(fault), flush=True)
    if asked.json is not None:
        document = {"cases": sum(cases.values()), "faults": faults, "seeds": [*before.get("seeds", ()), *seeds],
                    "by_reader": dict(sorted(cases.items()))}  # fmt: skip
        asked.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    measure()
