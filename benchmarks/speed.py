"""The runs behind docs/performance.md in one process: VGGT-1B and DA3-Large, 2 to 1,000 views, and `mini`, on one GPU.

Each run is one of `lite3r bench`; its JSON, with the date, goes to DIR/NAME.json as soon as it is there, so that a run
that fails or lacks memory costs no other. `benchmarks/speed_table.py DIR/*.json` makes the tables. Hundreds of views
(`…-long`) are run twice without a graph, after a warm-up with few, and the second run counts: what a launch costs does
not matter there, and a pass takes seconds.

    python benchmarks/speed.py DIR [--only NAME …] [--seconds 600]
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import time
import traceback
from dataclasses import asdict
from pathlib import Path

import torch

from lite3r_cli.attention.sparse_config import PRESETS
from lite3r_cli.bench.floor import floor_ms, rates_of, work_of
from lite3r_cli.bench.measure import GIB, Peak, Timer, once
from lite3r_cli.bench.run import Bench, Row, run
from lite3r_cli.bench.stages import with_rest
from lite3r_cli.bench.subjects import image_sets
from lite3r_cli.bench.variants import Request, build
from lite3r_cli.config.benchmark import BenchConfig
from lite3r_cli.config.prediction import LiteConfig
from lite3r_cli.engine.packing import Shape

SQUARE, WIDE = (518, 518), (392, 518)
ALL, BOTH, LITE = ("dense-eager", "dense", "lite"), ("dense", "lite"), ("lite",)


def config(
    model: str, views: tuple[int, ...], size: tuple[int, int], compare=ALL, keep: float = 0.1, repeats: int = 5
) -> BenchConfig:
    lite = LiteConfig("sla", keep)
    return BenchConfig(model, views, size, compare=compare, lite=lite, repeats=repeats, device="cuda")


RUNS = {
    "vggt-2": config("vggt-1b", (2,), SQUARE, BOTH),
    "vggt-8-32": config("vggt-1b", (8, 32), WIDE, BOTH),
    "vggt-100": config("vggt-1b", (100,), WIDE, BOTH, repeats=2),
    "vggt-75": config("vggt-1b", (32, 100), WIDE, LITE, keep=0.25, repeats=3),
    "vggt-eager": config("vggt-1b", (8, 32, 100), WIDE, ("dense-eager",), repeats=2),
    "da3-2": config("da3-large", (2,), SQUARE, BOTH),
    "da3-8-32-100": config("da3-large", (8, 32, 100), WIDE, BOTH, repeats=3),
    "da3-eager": config("da3-large", (8, 32, 100), WIDE, ("dense-eager",), repeats=3),
    "mini-100": config("mini", (8, 32, 100), (350, 518), BOTH, repeats=3),
    "vggt-long": config("vggt-1b", (300, 500, 1000), WIDE, LITE, repeats=2),
    "mini-long": config("mini", (300, 1000), (350, 518), LITE, repeats=2),
}


def long_run(asked: BenchConfig) -> Bench:
    """The lite form, `repeats` times without a graph for each number of views; the last run counts."""
    device = torch.device("cuda")
    request = Request(asked.model, device, torch.bfloat16, asked.seed, asked.lite)
    variant, sizes, origin = build("lite", request)
    rates = rates_of(device, torch.bfloat16)
    words = {"lite": {"description": variant.description, **variant.choices}}
    told = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "weights": origin}
    found = Bench({**told, "rates": asdict(rates), "variants": words}, {})
    height, width = asked.size
    for views in (8, *asked.views):
        (images,) = image_sets(1, views, height, width, device, asked.seed)
        peak = Peak(device)
        for _ in range(asked.repeats):
            timer = Timer(device)
            with peak.watch(variant.held + images.nbytes):
                whole = once(device, lambda images=images, timer=timer: variant.staged(images, timer))
        skipped = variant.skipped(Shape.equal(views, height, width))
        least = floor_ms(work_of(sizes, views, height, width), rates, variant.weight_bytes, variant.fp8, skipped)
        variant.forget()
        row = Row(
            asked.model, "lite", views, height, width, whole, 0.0, peak.allocated / GIB, peak.reserved / GIB, least,
            skipped, 0.0, "sparse", with_rest(timer.totals(), whole), withheld="nothing to compare with was run",
        )  # fmt: skip
        if views in asked.views:
            found.rows.append(row)
            print(line(row), flush=True)
    return found


def line(row: Row) -> str:
    return (
        f"{row.model} {row.views:4} {row.variant:12} {row.median_ms:8.1f} ms ± {row.spread_ms:.1f} "
        f"{row.peak_gib:6.2f} GiB  floor {row.floor_ms:7.1f}  skipped {row.skipped:.3f}  "
        f"depth {row.depth_difference:.4f}  " + " ".join(f"{stage} {ms:.1f}" for stage, ms in row.stages.items())
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--seconds", type=float, default=3600, help="no run is started later than this")
    parser.add_argument("--parts", type=float, help="parted blocks for each kept one, instead of the presets'")
    o = parser.parse_args()
    if o.parts is not None:
        for name in ("shallow", "deep"):
            PRESETS[name] = {**PRESETS[name], "parts": o.parts}
    o.folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    for name in o.only:
        if time.monotonic() - start > o.seconds:
            print(f"{name}: no time left", flush=True)
            continue
        try:
            result = (long_run if name.endswith("-long") else run)(RUNS[name])
        except Exception:  # the other runs still count
            traceback.print_exc()
            continue
        finally:
            gc.collect()
            torch.cuda.empty_cache()
        document = {"date": datetime.date.today().isoformat(), "run": name, **result.as_dict()}
        (o.folder / f"{name}.json").write_text(json.dumps(document) + "\n")
        print(f"{name}, {time.monotonic() - start:.0f} s", flush=True)
        if name.endswith("-long"):
            continue
        for row in result.rows:
            print(line(row), flush=True)
        print("gate:", "green" if result.gate["passed"] else result.gate["complaints"], flush=True)


if __name__ == "__main__":
    main()
