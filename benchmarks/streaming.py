"""Frames a second and memory of a stream: LingBot-Map with random values, frame by frame.

    python benchmarks/streaming.py [--frames 300] [--size 378x518] [--device cuda] [--small] [--json FILE]

Every 50 frames one line: frames a second since the last one, bytes on the device, bytes that the network said before.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from lite3r_cli import runtime
from lite3r_cli.bench.subjects import network
from lite3r_cli.networks import standin
from lite3r_cli.networks.arithmetic import set_precision
from lite3r_cli.networks.lingbot_map.network import LingBotMap, LingBotMapConfig

SMALL = LingBotMapConfig(
    dim=128, pairs=4, heads=2, encoder_depth=1, encoder_heads=2, taps=(0, 1, 2, 3), head_features=16,
    head_stages=(8, 8, 8, 8), camera_depth=1, camera_heads=2, position_grid=5,
)  # fmt: skip
EVERY = 50


def pictures(count: int, height: int, width: int, device: torch.device) -> Iterator[torch.Tensor]:
    """Random pictures, made on the device."""
    make = torch.Generator(device).manual_seed(0)
    for _ in range(count):
        yield torch.rand(3, height, width, generator=make, device=device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--size", default="378x518", help="HEIGHTxWIDTH, multiples of 14")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--small", action="store_true", help="a tiny network, to try the script")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    height, width = (int(side) for side in asked.size.split("x"))
    chosen = runtime.choose(asked.device, asked.dtype)
    device = chosen.torch_device
    if asked.small:
        model = LingBotMap(SMALL)
        standin.fill(model, 0)
        model = model.eval().to(device)
    else:
        model = network("lingbot-map", device, 0)[0]
    set_precision(model, chosen.torch_dtype)
    said = model.stream_memory(height, width, asked.frames)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    facts = {
        "benchmark": "streaming", "model": "small" if asked.small else "lingbot-map", "device": name,
        "dtype": str(chosen.torch_dtype), "size": [height, width], "frames": asked.frames, "said_bytes": said,
        "torch": torch.__version__, "rows": [],
    }  # fmt: skip
    print(f"{name}, {chosen.torch_dtype}, {width}x{height}: {said / 1e9:.2f} GB said", flush=True)
    begin = time.perf_counter()
    for i, answer in enumerate(model.stream(pictures(asked.frames, height, width, device), asked.frames), 1):
        if i % EVERY == 0 or i == asked.frames:
            assert answer.depth.isfinite().all()  # it is on the CPU: all of the frame is done
            seconds, begin = time.perf_counter() - begin, time.perf_counter()
            held = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else runtime.peak_memory(device)
            row = {"frame": i, "frames_per_second": ((i - 1) % EVERY + 1) / seconds, "memory": held}
            facts["rows"].append(row)
            print(f"{i:6d}  {row['frames_per_second']:8.2f} frames/s  {held}", flush=True)
            if asked.json is not None:
                asked.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
