"""Where a training step's time goes: drawing scenes, rendering, forward and backward pass, optimiser.

    python benchmarks/train_step.py [--tokens 49152] [--compile] [--textures FILE]

Prints a table of milliseconds (medians), then one JSON line. On a CPU use a small --tokens.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch

from lite3r_cli.config.training_run import LoopConfig
from lite3r_cli.data.procedural.scene_batches import CameraConfig, SceneConfig, render_batch, sample_batch
from lite3r_cli.data.procedural.textures import build_atlas
from lite3r_cli.networks.mini.network import Mini
from lite3r_cli.training.losses import Targets, compute_losses
from lite3r_cli.training.train_loop import Trainer
from lite3r_cli.training.worker import Worker

SHAPES = ((4, 168, 224), (8, 168, 224), (2, 266, 392), (4, 350, 518), (4, 518, 350))


class Clock:
    """Seconds on the device between two marks."""

    def __init__(self, device: torch.device):
        self.device = device

    def __call__(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def measure(trainer: Trainer, atlas, scenes, shape, tokens: int, repeats: int) -> dict[str, float]:
    views, height, width = shape
    device = trainer.worker.device
    batch = max(1, tokens // (views * (1 + height * width // 196)))
    clock = Clock(device)
    rows: dict[str, list[float]] = {}
    for step in range(repeats + 2):
        marks = [clock()]
        drawn = sample_batch(scenes, CameraConfig(), (batch, views, height, width), 0, step, 0)
        marks.append(clock())
        images, depth, K, pose = render_batch(drawn.to(device), atlas)
        marks.append(clock())
        targets = Targets(depth, K, pose, torch.zeros(batch, dtype=torch.long, device=device))
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            out = trainer.model(images, targets.reference, rays=True)
        marks.append(clock())
        total = compute_losses(out, targets)["total"]
        marks.append(clock())
        total.backward()
        marks.append(clock())
        for optimiser in trainer.optimisers:
            optimiser.step()
            optimiser.zero_grad()
        trainer.average.update(step)
        marks.append(clock())
        if step >= 2:
            for name, a, b in zip(("draw", "render", "forward", "losses", "backward", "optimiser"), marks, marks[1:]):
                rows.setdefault(name, []).append(1e3 * (b - a))
    times = {name: round(statistics.median(values), 2) for name, values in rows.items()}
    return {"batch": batch, "views": views, "height": height, "width": width, **times,
            "mpix": round(batch * views * height * width / 1e6, 2)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=49_152)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--muon", action="store_true")
    parser.add_argument("--textures", type=Path)
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    atlas = build_atlas(arguments.textures)
    scenes, atlas = SceneConfig(atlas.catalog), atlas.to(device)
    model = Mini().to(device)
    model.head.to(memory_format=torch.channels_last)
    config = LoopConfig(Path("."), compile=arguments.compile, muon=arguments.muon)
    trainer = Trainer(model, config, Worker(0, 1, device), print)
    results = [measure(trainer, atlas, scenes, shape, arguments.tokens, arguments.repeats) for shape in SHAPES]
    names = list(results[0])
    print("  ".join(f"{n:>9}" for n in names))
    for result in results:
        print("  ".join(f"{result[n]:>9}" for n in names))
    hardware = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor()
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
    print(json.dumps({"hardware": hardware, "torch": torch.__version__, **vars(arguments), "textures": None,
                      "peak_gib": peak, "rows": results}))  # fmt: skip


if __name__ == "__main__":
    main()
