"""The tables of docs/performance.md from what `lite3r bench --json` and `speed_kernels.py --json` wrote.

python benchmarks/speed_table.py vggt-2.json vggt.json da3.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+")
    documents = [json.loads(path.read_text()) for path in parser.parse_args().files]
    rows = [row for document in documents for row in document["rows"] if "variant" in row]
    if rows:
        print("| model | views | size | | ms | ± | peak GiB | floor ms | skipped | speed-up |")
        print("|---|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        speedup = "–" if row["speedup"] is None else f"{row['speedup']:.2f} ×"
        print(
            f"| {row['model']} | {row['views']} | {row['height']}×{row['width']} | {row['variant']} "
            f"| {row['median_ms']:.1f} | {row['spread_ms']:.1f} | {row['peak_gib']:.2f} | {row['floor_ms']:.1f} "
            f"| {100 * row['skipped']:.0f} % | {speedup} |"
        )
    stages = [row for row in rows if row["stages"]]
    if stages:
        names = list(stages[0]["stages"])
        print(f"\n| model | views | | {' | '.join(names)} |\n|{'---|' * (3 + len(names))}")
    for row in stages:
        cells = " | ".join(f"{row['stages'][name]:.1f}" for name in names)
        print(f"| {row['model']} | {row['views']} | {row['variant']} | {cells} |")
    kernels = [row for document in documents for row in document["rows"] if "what" in row]
    if kernels:
        print("\n| tokens | kernel | ms | rate |\n|---|---|---|---|")
    for row in kernels:
        rate = f"{row['tflops']:.0f} TF/s" if "tflops" in row else f"{row['gb_s']:.0f} GB/s"
        print(f"| {row['tokens']:,} | {row['what']} | {row['ms']:.3f} | {rate} |")
    for document in documents:
        environment = document.get("environment", {})
        if environment:
            words = ("gpu", "driver", "clock_sm", "torch", "triton", "weights")
            print("\n" + ", ".join(f"{word} {environment[word]}" for word in words if word in environment))


if __name__ == "__main__":
    main()
