"""Lists the kernels of one replay of a network's CUDA graph and their time: the profile in docs/performance.md.

    python benchmarks/speed_profile.py vggt-1b lite --views 2 8 32 [--keep 0.1] [--json FILE] [--top 20]

Two views are 518×518, more are 392×518. A table for each number of views, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from lite3r_cli.bench.measure import once
from lite3r_cli.bench.subjects import image_sets
from lite3r_cli.bench.variants import Request, build
from lite3r_cli.config import LiteConfig

DEVICE = torch.device("cuda")


@torch.inference_mode()
def kernels_of(model: str, variant: str, views: int, keep: float) -> dict[str, object]:
    network, _, _ = build(variant, Request(model, DEVICE, torch.bfloat16, 0, LiteConfig("sla", keep)))
    images = image_sets(1, views, *((518, 518) if views == 2 else (392, 518)), DEVICE, 0)[0]
    for _ in range(2):  # compiles and captures
        network.run(images)
    took = min(once(DEVICE, lambda: network.run(images)) for _ in range(3))
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        network.run(images)
        torch.cuda.synchronize()
    total, count = Counter(), Counter()
    for event in found.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            total[event.name] += event.device_time / 1e3
            count[event.name] += 1
    rows = [{"kernel": name, "ms": ms, "launches": count[name]} for name, ms in total.most_common()]
    network.forget()
    return {"model": model, "variant": variant, "views": views, "replay_ms": took, "kernels": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("variant", choices=("dense-eager", "dense", "lite"))
    parser.add_argument("--views", type=int, nargs="+", default=[2, 8, 32])
    parser.add_argument("--keep", type=float, default=0.1)
    parser.add_argument("--top", type=int, default=20)
    parser.add_argument("--json", type=Path)
    o = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("this benchmark needs a GPU")
    runs = []
    for views in o.views:
        run = kernels_of(o.model, o.variant, views, o.keep)
        busy = sum(row["ms"] for row in run["kernels"])
        launches = sum(row["launches"] for row in run["kernels"])
        print(
            f"\n{o.model}, {o.variant}, {views} views: {run['replay_ms']:.1f} ms, "
            f"kernels {busy:.1f} ms, {launches} launches"
        )
        for row in run["kernels"][: o.top]:
            print(f"{row['ms']:9.3f} ms {row['launches']:5}  {row['kernel'][:110]}", flush=True)
        runs.append(run)
    text = json.dumps(
        {"benchmark": "speed_profile", "gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "runs": runs}
    )
    print(text) if o.json is None else o.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
