"""Throughput of the procedural data engine: ray caster (Gpixel/s), augmentation, scene sampling.

`python benchmarks/raycast.py --device cuda [--textures FILE]` prints a table, then one JSON line.
Correctness first: on a GPU the kernel must agree with its torch twin before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from lite3r_cli.data.procedural import raycast_torch
from lite3r_cli.data.procedural.camera_placement import CameraConfig
from lite3r_cli.data.procedural.ray_render import RAYCASTERS
from lite3r_cli.data.procedural.sampling import SAMPLERS, SceneConfig
from lite3r_cli.data.procedural.scene_batches import render_batch, sample_batch
from lite3r_cli.data.procedural.textures import Atlas, build_atlas


def timed(function, device: torch.device, repeats: int) -> float:
    """Median milliseconds, after one warm-up call."""
    function()
    times = []
    for _ in range(repeats):
        if device.type == "cuda":
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            function()
            end.record()
            torch.cuda.synchronize(device)
            times.append(start.elapsed_time(end))
        else:
            begin = time.perf_counter()
            function()
            times.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(times)


def agreement(atlas: Atlas, device: torch.device) -> float:
    """Mean absolute difference of kernel and twin over one small batch."""
    batch = sample_batch(SceneConfig(atlas.catalog), CameraConfig(), (2, 2, 75, 113), 1, 0, 0)
    expected = render_batch(batch, Atlas(atlas.texels.cpu(), atlas.catalog), samples=2)[0]
    actual = render_batch(batch.to(device), atlas, samples=2)[0].cpu()
    return float((expected - actual).abs().mean())


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--textures", type=Path, default=None)
    parser.add_argument("--scenes", type=int, default=None, help="scenes in a batch (default 32 on a GPU, 1 on a CPU)")
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--height", type=int, default=224)
    parser.add_argument("--width", type=int, default=224)
    parser.add_argument("--samples", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--repeats", type=int, default=10)
    return parser.parse_args()


def main() -> None:
    arguments = options()
    device = torch.device(arguments.device)
    count = arguments.scenes or (32 if device.type == "cuda" else 1)
    atlas = build_atlas(arguments.textures).to(device)
    report: dict = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
    }
    if device.type == "cuda":
        report["difference"] = agreement(atlas, device)
        if report["difference"] > 1e-3:
            raise SystemExit(
                f"the kernel differs from its twin by {report['difference']:.2e} on average; not timing it"
            )

    print(
        f"{'scenes':<10} {'samples':>7} {'kernel ms':>10} {'Gpixel/s':>9} {'with exposure ms':>17} {'sampling ms':>12}"
    )
    for kind in ("all", *SAMPLERS):
        config = SceneConfig(atlas.catalog) if kind == "all" else SceneConfig(atlas.catalog, weights={kind: 1.0})
        begin = time.perf_counter()
        cpu_batch = sample_batch(
            config, CameraConfig(), (count, arguments.views, arguments.height, arguments.width), 0, 0, 0
        )
        sampling = 1e3 * (time.perf_counter() - begin) / count
        batch = cpu_batch.to(device)
        K, pose = batch.cameras
        cameras, scenes = torch.cat([K.flatten(2), pose.flatten(2)], 2).contiguous(), batch.scenes
        pixels = count * arguments.views * arguments.height * arguments.width
        for samples in arguments.samples:
            cast = RAYCASTERS.get(device.type, raycast_torch.raycast)
            repeats = arguments.repeats if device.type == "cuda" else 1
            kernel = timed(
                lambda: cast(scenes, atlas.texels, cameras, arguments.height, arguments.width, samples, 0.0, 0),
                device,
                repeats,
            )
            whole = timed(lambda: render_batch(batch, atlas, samples=samples), device, repeats)
            rate = pixels / kernel / 1e6
            print(f"{kind:<10} {samples:>7} {kernel:>10.3f} {rate:>9.3f} {whole:>17.3f} {sampling:>12.2f}")
            report[f"{kind}_{samples}spp_gpixel_s"] = round(rate, 4)
        report[f"{kind}_sampling_ms"] = round(sampling, 2)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
