"""Measures the speed of `lite3r render`: frames per second of a drawn room, without reading and without encoding.

Correctness first: the frame has to be full, and a frame of a GPU has to equal that of the processor but for rounding.
A table, then one JSON line.

    python benchmarks/render_speed.py [--points 2000000] [--size 1920x1080] [--frames 10] [--device auto] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from lite3r_cli.config.rendering import size_of
from lite3r_cli.runtime import choose, processor
from lite3r_cli.scene.point_rendering import Frame, PointRenderer
from lite3r_cli.scene.posed_view import PointCloud, View


def room(count: int) -> tuple[PointCloud, np.ndarray]:
    """Points on the walls of a box of 4 × 3 × 4, and their spacing."""
    rng = np.random.default_rng(0)
    half = np.array([2.0, 1.5, 2.0])
    points = rng.uniform(-1, 1, (count, 3)) * half
    axis = rng.choice(3, count, p=[0.3, 0.4, 0.3])
    points[np.arange(count), axis] = half[axis] * rng.choice([-1, 1], count)
    area = 8 * (half[0] * half[1] + half[1] * half[2] + half[0] * half[2])
    colors = rng.integers(0, 256, (count, 3), dtype=np.uint8)
    cloud = PointCloud(points.astype(np.float32), colors, np.ones(count, np.float32))
    return cloud, np.full(count, 1.5 * (area / count) ** 0.5, np.float32)


def share_that_differs(frame: Frame, other: Frame) -> float:
    """The share of the pixels whose colour is off by more than 2 of 255, or whose depth is off by more than 1 %."""
    color = (frame.rgb.cpu().int() - other.rgb.cpu().int()).abs().amax(dim=-1) > 2
    depth = (frame.depth.cpu() - other.depth.cpu()).abs() > 0.01 * other.depth.cpu()
    return (color | depth).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=2_000_000)
    parser.add_argument("--size", type=size_of, default=(1920, 1080))
    parser.add_argument("--frames", type=int, default=10)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    o = parser.parse_args()
    device = choose(o.device).torch_device
    cloud, spacing = room(o.points)
    renderer = PointRenderer(cloud, spacing, device)
    width, height = o.size
    seconds, processor_seconds = [], []
    for i in range(o.frames + 1):
        turn = 0.3 * i
        rotation = np.array([[np.cos(turn), 0, -np.sin(turn)], [0, 1, 0], [np.sin(turn), 0, np.cos(turn)]])
        K = np.array([[0.7 * width, 0, width / 2], [0, 0.7 * width, height / 2], [0, 0, 1]])
        start, spent = time.perf_counter(), time.process_time()
        camera = View("", width, height, K, np.column_stack([rotation, np.zeros(3)]))
        frame = renderer.render(camera)
        frame.rgb.cpu()
        seconds.append(time.perf_counter() - start)
        processor_seconds.append(time.process_time() - spent)
        assert frame.seen.float().mean() > 0.99
    median, spent = (statistics.median(each[1:]) for each in (seconds, processor_seconds))
    differs = None
    if device.type != "cpu":
        differs = share_that_differs(frame, PointRenderer(cloud, spacing, torch.device("cpu")).render(camera))
        assert differs < 0.01, f"{differs:.2%} of the pixels differ from the frame of the processor"
    name = torch.cuda.get_device_name() if device.type == "cuda" else processor()
    print(
        f"{o.points} points, {width}×{height}, {name}: {1000 * median:.0f} ms a frame, {1 / median:.1f} frames/s, "
        f"{1000 * spent:.0f} ms of processor time"
    )
    document = {
        "benchmark": "render_speed", "device": name, "threads": torch.get_num_threads(), "torch": torch.__version__,
        "points": o.points, "size": [width, height], "median_ms": 1000 * median, "frames_per_s": 1 / median,
        "processor_ms": 1000 * spent, "load": os.getloadavg()[0], "differs_from_processor": differs,
    }  # fmt: skip
    print(json.dumps(document))
    if o.json:
        o.json.write_text(json.dumps(document) + "\n")


if __name__ == "__main__":
    main()
