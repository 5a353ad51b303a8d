"""The runs behind docs/performance.md in one process: VGGT-1B and DA3-Large, 2 to 300 views, on one GPU.

Each run is one of `lite3r bench`; its JSON, with the date, goes to DIR/NAME.json as soon as it is there, so that a run
that fails or lacks memory costs no other. `benchmarks/speed_table.py DIR/*.json` makes the tables.

    python benchmarks/speed.py DIR [--only NAME …] [--seconds 600]
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import time
import traceback
from pathlib import Path

import torch

from lite3r_cli.bench.run import run
from lite3r_cli.config.benchmark import BenchConfig
from lite3r_cli.config.prediction import LiteConfig

SQUARE, WIDE = (518, 518), (392, 518)
ALL, LITE = ("dense-eager", "dense", "lite"), ("lite",)


def config(
    model: str, views: tuple[int, ...], size: tuple[int, int], compare=ALL, keep: float = 0.1, repeats: int = 5
) -> BenchConfig:
    lite = LiteConfig("sla", keep)
    return BenchConfig(model, views, size, compare=compare, lite=lite, repeats=repeats, device="cuda")


RUNS = {
    "vggt-2": config("vggt-1b", (2,), SQUARE),
    "vggt-8-32": config("vggt-1b", (8, 32), WIDE),
    "da3-2": config("da3-large", (2,), SQUARE),
    "da3-8-32": config("da3-large", (8, 32), WIDE),
    "vggt-100": config("vggt-1b", (100,), WIDE, repeats=3),
    "da3-100": config("da3-large", (100,), WIDE, repeats=3),
    "vggt-75": config("vggt-1b", (8, 32, 100), WIDE, LITE, keep=0.25, repeats=3),
    "vggt-lite": config("vggt-1b", (8, 32, 100), WIDE, LITE, repeats=3),
    "da3-lite": config("da3-large", (8, 32, 100), WIDE, LITE, repeats=3),
    "mini-100": config("mini", (100,), (350, 518), ("dense", "lite"), repeats=3),
    "vggt-300": config("vggt-1b", (300,), WIDE, LITE, repeats=2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--seconds", type=float, default=3600, help="no run is started later than this")
    o = parser.parse_args()
    o.folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    for name in o.only:
        if time.monotonic() - start > o.seconds:
            print(f"{name}: no time left", flush=True)
            continue
        try:
            result = run(RUNS[name])
        except Exception:  # the other runs still count
            traceback.print_exc()
            continue
        finally:
            gc.collect()
            torch.cuda.empty_cache()
        document = {"date": datetime.date.today().isoformat(), "run": name, **result.as_dict()}
        (o.folder / f"{name}.json").write_text(json.dumps(document) + "\n")
        for row in result.rows:
            print(
                f"{time.monotonic() - start:4.0f} s  {row.model} {row.views:4} {row.variant:12} "
                f"{row.median_ms:8.1f} ms ± {row.spread_ms:.1f} "
                f"{row.peak_gib:6.2f} GiB  floor {row.floor_ms:7.1f}  "
                f"skipped {row.skipped:.2f}  depth {row.depth_difference:.4f}  "
                + " ".join(f"{stage} {ms:.1f}" for stage, ms in row.stages.items()),
                flush=True,
            )
        print("gate:", "green" if result.gate["passed"] else result.gate["complaints"], flush=True)


if __name__ == "__main__":
    main()
