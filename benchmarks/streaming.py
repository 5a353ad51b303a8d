"""Frames a second and memory of a stream: LingBot-Map with random values, frame by frame.

    python benchmarks/streaming.py [--forms ordinary fast fp8] [--frames 300] [--size 378x518] [--json FILE]

`ordinary` runs layer by layer; `fast` is the fast engine in bfloat16, one CUDA graph a step; `fp8` has E4M3 weights.
Every 50 frames one line: frames a second since the last one, bytes on the device, bytes that the network said before.
No form runs longer than `--seconds`. On a GPU the fast forms are first compared with the ordinary network in float32 on
small frames. The JSON is written as it goes. `--small` tries the script with a tiny network.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from lite3r_cli import runtime
from lite3r_cli.bench.subjects import network
from lite3r_cli.engine.layers import Settings
from lite3r_cli.engine.runner import Stepwise
from lite3r_cli.layers import fa4_backend
from lite3r_cli.networks import standin
from lite3r_cli.networks.arithmetic import set_precision
from lite3r_cli.networks.fast_form import fast_runner
from lite3r_cli.networks.lingbot_map.network import LingBotMap, LingBotMapConfig
from lite3r_cli.networks.lingbot_map.plan import StreamPlan

SMALL = LingBotMapConfig(
    dim=128, pairs=4, heads=2, encoder_depth=1, encoder_heads=2, taps=(0, 1, 2, 3), head_features=16,
    head_stages=(8, 8, 8, 8), camera_depth=1, camera_heads=2, position_grid=5,
)  # fmt: skip
EVERY = 50
CHECKED = (112, 140, 90)  # height, width, frames: the cache is full after 72


def pictures(count: int, height: int, width: int, device: torch.device) -> Iterator[torch.Tensor]:
    """Random pictures, made on the device."""
    make = torch.Generator(device).manual_seed(0)
    for _ in range(count):
        yield torch.rand(3, height, width, generator=make, device=device)


def load(asked: argparse.Namespace, device: torch.device) -> LingBotMap:
    if asked.small:
        model = LingBotMap(SMALL)
        standin.fill(model, 0)
        return model.eval().to(device)
    return network("lingbot-map", device, 0)[0]


def form_of(name: str, model: LingBotMap, dtype: torch.dtype, device: torch.device) -> LingBotMap | Stepwise:
    """What streams: the network itself, or its fast form."""
    if name == "ordinary":
        set_precision(model, dtype)
        return model
    return fast_runner(model, Settings(dtype=dtype, fp8=name == "fp8", sparse=False), device)


def check(asked: argparse.Namespace, dtype: torch.dtype, device: torch.device) -> dict[str, dict[str, float]]:
    """The errors of each form in `dtype` against the ordinary form in float32, at a small size."""
    height, width, count = CHECKED if not asked.small else (28, 42, 80)
    model = load(asked, device)

    def answers(stream) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.inference_mode():
            found = list(stream.stream(pictures(count, height, width, device), count))
        return torch.stack([a.depth for a in found]), torch.stack([a.cam_from_world for a in found])

    exact = answers(model)
    found = {}
    for name in reversed(asked.forms):  # the ordinary one last, because it rounds the weights
        some = answers(form_of(name, model, dtype, device))
        errors = (float((a - b).norm() / b.norm()) for a, b in zip(some, exact))
        found[name] = dict(zip(("depth", "cameras"), errors))
        print("error of", name, found[name], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forms", nargs="+", choices=("ordinary", "fast", "fp8"), default=["ordinary", "fast", "fp8"])
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--size", default="378x518", help="HEIGHTxWIDTH, multiples of 14")
    parser.add_argument("--seconds", type=float, default=60, help="for each form")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--small", action="store_true", help="a tiny network, to try the script")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    height, width = (int(side) for side in asked.size.split("x"))
    chosen = runtime.choose(asked.device, asked.dtype)
    device, dtype = chosen.torch_device, chosen.torch_dtype
    on_gpu = device.type == "cuda"
    if on_gpu:
        fa4_backend.load_at_once()
    name = torch.cuda.get_device_name(device) if on_gpu else "cpu"
    plan = StreamPlan.for_frames(asked.frames)
    document = {
        "benchmark": "streaming", "model": "small" if asked.small else "lingbot-map", "device": name,
        "dtype": str(dtype), "size": [height, width], "frames": asked.frames, "torch": torch.__version__,
        "flash-attn-4": fa4_backend.installed_reason() or "installed", "plan": vars(plan),
        "checks": check(asked, dtype, device) if on_gpu or asked.small else {}, "forms": {},
    }  # fmt: skip
    for which in asked.forms:
        gc.collect()
        if on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        model = load(asked, device)
        stream = form_of(which, model, dtype, device)
        model.compute_dtype = dtype
        said = model.stream_memory(height, width, asked.frames)
        if which != "ordinary":
            model = model.to("meta")
        rows: list[dict] = []
        document["forms"][which] = {"said_bytes": said, "rows": rows}
        print(f"{name}, {which}, {width}x{height}: {said / 1e9:.2f} GB said", flush=True)
        start = begin = time.perf_counter()
        for i, answer in enumerate(stream.stream(pictures(asked.frames, height, width, device), asked.frames), 1):
            late = time.perf_counter() - start > asked.seconds
            if i % EVERY == 0 or i == asked.frames or late:
                assert answer.depth.isfinite().all()
                seconds, begin = time.perf_counter() - begin, time.perf_counter()
                since = i - (rows[-1]["frame"] if rows else 0)
                held = torch.cuda.memory_allocated(device) if on_gpu else runtime.peak_memory(device)
                peak = torch.cuda.max_memory_allocated(device) if on_gpu else held
                rows.append({"frame": i, "frames_per_second": since / seconds, "memory": held, "peak": peak})
                print(f"{i:6d}  {since / seconds:8.2f} frames/s  {held}  peak {peak}", flush=True)
                if asked.json is not None:
                    asked.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
            if late:
                break
        whole = time.perf_counter() - start
        document["forms"][which]["frames_per_second"] = rows[-1]["frame"] / whole
        print(f"{which}: {rows[-1]['frame'] / whole:.1f} frames/s over {rows[-1]['frame']} frames", flush=True)
        if asked.json is not None:
            asked.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        del stream, model


if __name__ == "__main__":
    main()
