"""A bounded cache inside `mini` instead of chunks: frames streamed one by one by LingBot-Map's rules, untrained.

    python benchmarks/bounded_cache.py WALK --json bounded-cache.json [--frames 200] [--anchors 8] [--window 64]

WALK is a folder of benchmarks/long_walk.py (images/, walk.json). The first `--anchors` frames are predicted together.
Each later frame is predicted alone: in every layer across views it attends to itself and to the keys and values that
were computed for the anchors, for the last `--window` frames, and for the first (special) token of every older frame.
Nothing old is computed again; memory grows by one token per frame and layer. Rows: drift (walk_scores.py) and bytes
of the cache for these rules, for a window alone, and for a cache that keeps everything. Chunks of the same walk are in
the JSON file of long_walk.py. The first check is that a cache that keeps everything equals, for the anchors, one pass.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]


class Cache:
    """Keys and values of one layer: (1, H, T, D) for each frame."""

    def __init__(self, anchors: int, window: int, summaries: bool) -> None:
        self.anchors, self.window, self.summaries = anchors, window, summaries
        self.frames: list[tuple[Tensor, Tensor]] = []

    def append(self, k: Tensor, v: Tensor, views: int) -> None:
        self.frames += list(zip(k.chunk(views, dim=2), v.chunk(views, dim=2)))
        old = len(self.frames) - self.window - 1
        if old >= self.anchors:  # what leaves the window
            some = 1 if self.summaries else 0
            self.frames[old] = tuple(part[:, :, :some].clone() for part in self.frames[old])  # type: ignore[assignment]

    def all(self) -> tuple[Tensor, Tensor]:
        k, v = zip(*self.frames)
        return torch.cat(k, dim=2), torch.cat(v, dim=2)

    @property
    def bytes(self) -> int:
        return sum(2 * k.numel() * k.element_size() for k, _ in self.frames)


def stream(model, images: list[Tensor], anchors: int, window: int, summaries: bool) -> tuple[np.ndarray, int, float]:
    """cam_from_world (S, 3, 4), bytes of the cache, and processor seconds per frame."""
    from lite3r_cli.layers.dense import dense
    from lite3r_cli.networks.mini.network import cam_from_world

    config = model.config
    across = [block.attn for i, block in enumerate(model.blocks) if config.is_global(i)]
    caches = [Cache(anchors, window, summaries) for _ in across]
    views = 1

    def mixing(cache: Cache):
        def mix(q: Tensor, k: Tensor, v: Tensor, keys: Tensor | None = None) -> Tensor:
            cache.append(k, v, views)
            return dense(q, *cache.all())

        return mix

    for attention, cache in zip(across, caches):
        attention.mix = mixing(cache)
    poses, start = [], time.process_time()
    steps = [list(range(anchors)), *([i] for i in range(anchors, len(images)))]
    with torch.inference_mode():
        for step in steps:
            views = len(step)
            stack = torch.stack([images[i] for i in step])[None]
            grid = stack.shape[-2] // model.patch_size, stack.shape[-1] // model.patch_size
            first = torch.tensor([[i == 0 for i in step]])
            taps = model.trunk([model.embed(stack)], [grid], [first])
            rotation, centre, _ = model.camera(taps[0][-1][:, :, 0].float())
            poses.append(cam_from_world(rotation, centre)[0].numpy())
    used = (time.process_time() - start) / len(images)
    for attention in across:
        del attention.mix
    return np.concatenate(poses).astype(np.float64), sum(cache.bytes for cache in caches), used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path, default=Path("bounded-cache.json"))
    for name, default in (("frames", 200), ("anchors", 8), ("window", 64)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    from walk_scores import score

    from lite3r_cli.config import PredictConfig
    from lite3r_cli.io.images import discover
    from lite3r_cli.pipelines.no_scene import shown_to_network
    from lite3r_cli.pipelines.predict import Predictor

    found = discover([options.folder / "images"])
    predictor = Predictor(PredictConfig(device="cpu", dtype="float32"))
    pictures = predictor.read(found, indices=range(min(options.frames, len(found))))
    images = [torch.from_numpy(shown_to_network(item)).permute(2, 0, 1).float() / 255 for item in pictures.inputs]
    names, model = [found.records[i].name for i in pictures.indices], predictor.backbone
    whole = model.predict(images[: options.anchors]).cam_from_world.numpy()
    begun, *_ = stream(model, images[: options.anchors], options.anchors, options.window, True)
    if np.abs(whole - begun).max() > 1e-3:
        raise SystemExit(f"the first frames differ from one pass by {np.abs(whole - begun).max():.4f}")
    rows = []
    for what, window, summaries in (
        ("anchors, window, one token of older frames", options.window, True),
        ("anchors and window", options.window, False),
        ("everything", len(images), True),
    ):
        poses, size, used = stream(model, images, options.anchors, window, summaries)
        row = {"row": what, **score(options.folder, dict(zip(names, poses))), "cache_mib": round(size / 2**20, 1)}
        rows.append(row | {"processor_seconds_per_frame": round(used, 3)})
        print(json.dumps(rows[-1]), flush=True)
        document = {"benchmark": "bounded cache", "model": "mini", "anchors": options.anchors, "window": options.window,
                    "size": list(images[0].shape[1:]), "rows": rows}  # fmt: skip
        options.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
