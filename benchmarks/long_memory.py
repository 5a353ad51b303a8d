"""Measures how memory grows with the number of frames of a set in chunks, without a network: a stand-in predicts a
plane for images of 98 × 70 pixels or a video of them. Each number of frames has its own process.

    python benchmarks/long_memory.py --frames 200 1000 3000 --json long-memory.json [--video] [--work DIR]

The peak of a run with a network is this growth on top of a chunk's memory, which does not depend on the length.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import cv2
import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]
SIZE = (98, 70)
STEP = 2.0  # pixels from frame to frame


def main() -> None:
    options = _options()
    if options.one is not None:
        print(json.dumps(measure(options.one, options.folder, options.video)))
        return
    rows = []
    with tempfile.TemporaryDirectory(dir=options.work) as scratch:
        for frames in options.frames:
            folder = Path(scratch) / str(frames)
            draw(folder, frames, options.video)
            given = ["--one", str(frames), "--folder", str(folder), *(["--video"] if options.video else [])]
            done = subprocess.run([sys.executable, __file__, *given], capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            rows.append(json.loads(done.stdout.strip().splitlines()[-1]))
            print(json.dumps(rows[-1]), flush=True)
    pairs = list(itertools.pairwise(rows))
    grown = [b["peak_mib"] - a["peak_mib"] for a, b in pairs]
    steps = [b["frames"] - a["frames"] for a, b in pairs]
    rates = [round(1024 * g / n, 1) for g, n in zip(grown, steps)]
    document = {"benchmark": "long memory", "video": options.video, "rows": rows, "kib_for_each_further_frame": rates}
    print(json.dumps({"kib_for_each_further_frame": rates}))
    if options.json is not None:
        options.json.write_text(json.dumps(document, indent=1) + "\n")


def draw(folder: Path, frames: int, video: bool) -> None:
    """A picture that moves over a texture and comes back."""
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (40, 200, 3), np.uint8)
    texture = cv2.resize(noise, (1600, 160), interpolation=cv2.INTER_CUBIC)
    film = cv2.VideoWriter(str(folder / "walk.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 30, SIZE) if video else None
    for i in range(frames):
        across = abs((i * STEP) % 2800 - 1400)
        moved = cv2.warpAffine(texture, np.float32([[1, 0, -across], [0, 1, -20]]), SIZE)
        if film is not None:
            film.write(moved)
        elif not cv2.imwrite(str(folder / f"{i:05d}.jpg"), moved):
            raise SystemExit(f"{folder}: OpenCV cannot write picture {i}")
    if film is not None:
        film.release()


class Plane:
    """Sees the plane z = 2 from cameras on a line."""

    name, patch_size = "plane", 14

    def named_modules(self):
        return []  # no attention that could be set

    def predict(self, images):
        import torch

        from lite3r_cli.networks.base import Prediction

        count, (height, width) = len(images), images[0].shape[-2:]
        poses = torch.eye(3, 4).repeat(count, 1, 1)
        poses[:, 0, 3] = -STEP * 2 / SIZE[0] * torch.arange(count)
        K = torch.tensor([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]]).repeat(count, 1, 1)
        depth = [torch.full((height, width), 2.0) for _ in images]
        confidence = [torch.linspace(1, 2, width).expand(height, width).clone() for _ in images]
        return Prediction(depth, confidence, poses, K)


def measure(frames: int, folder: Path, video: bool) -> dict:
    """One run; the peak of the process, and the largest resident size in each stage."""
    from lite3r_cli.config import FusionConfig, InputConfig, PredictConfig, ReconstructConfig
    from lite3r_cli.config.sequence import LongConfig
    from lite3r_cli.console import Progress
    from lite3r_cli.networks.checkpoint import Checkpoint
    from lite3r_cli.pipelines.reconstruct_scene import reconstruct

    Checkpoint.build = lambda self: Plane()  # type: ignore[method-assign, assignment, return-value]
    Checkpoint.load = lambda self, *options: Plane()  # type: ignore[method-assign, assignment, return-value]
    config = ReconstructConfig(
        InputConfig((folder,), frames="all" if video else "auto", keep_unrelated=True),
        PredictConfig(device="cpu", dtype="float32", resolution=SIZE[0]),
        FusionConfig(max_points=200_000),
        output=str(folder / "out"),
        long=LongConfig("24"),
    )
    progress, largest, done = Progress(), {}, threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            running = next(reversed(list(progress._running)), "between")
            largest[running] = max(largest.get(running, 0.0), _resident())

    threading.Thread(target=watch, daemon=True).start()
    used = time.process_time()
    reconstruct(config, progress)
    done.set()
    return {
        "frames": frames,
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "stages_mib": {stage: round(value, 1) for stage, value in largest.items()},
        "processor_seconds_per_frame": round((time.process_time() - used) / frames, 4),
    }


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, nargs="+", default=[200, 1000])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--video", action="store_true")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
