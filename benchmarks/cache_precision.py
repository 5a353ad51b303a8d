"""What the precision of LingBot-Map's cached keys and values changes: a stream with random weights, beside float32.

    python benchmarks/cache_precision.py [--frames 24] [--json FILE]

Only what is stored in the cache is rounded. Angles are between the cameras of both runs, positions relative to their
size. Random weights exaggerate: they say which precision costs how many times another, not what a video would lose.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from lite3r_cli.networks import standin
from lite3r_cli.networks.lingbot_map.cache import FrameCache
from lite3r_cli.networks.lingbot_map.network import LingBotMap, LingBotMapConfig
from lite3r_cli.networks.lingbot_map.plan import StreamPlan
from lite3r_cli.quant.fp8 import E4M3_MAX

SMALL = LingBotMapConfig(
    dim=384, pairs=5, heads=6, encoder_depth=4, encoder_heads=6, taps=(0, 2, 3, 4), head_features=64,
    head_stages=(48, 96, 192, 384), camera_heads=16,
)  # fmt: skip


def half(x: torch.Tensor) -> torch.Tensor:
    return x.bfloat16().to(x.dtype)


def eight(x: torch.Tensor) -> torch.Tensor:
    return x.clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn).to(x.dtype)


ROUNDED = {"bfloat16": (half, half), "E4M3 keys": (eight, half), "E4M3 keys and values": (eight, eight)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    model = LingBotMap(SMALL)
    standin.fill(model, 7)
    model.eval().plan = StreamPlan(first=3, anchors=3, window=8)
    frames = list(standin.image_batch(asked.frames, 70, 98, 5)[0])
    exact = model.predict(frames)
    rows = []
    plain = FrameCache.store
    for name, (of_keys, of_values) in ROUNDED.items():

        def store(self, k, v, of_keys=of_keys, of_values=of_values):
            plain(self, of_keys(k), of_values(v))

        FrameCache.store = store
        found = model.predict(frames)
        FrameCache.store = plain
        (R, t), (R0, t0) = ((p.cam_from_world[:, :, :3], p.cam_from_world[:, :, 3:]) for p in (found, exact))
        angle = (((R @ R0.mT).diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1).acos().rad2deg()
        centre, before = -R.mT @ t, -R0.mT @ t0
        depth, depth0 = (torch.stack(p.depth) for p in (found, exact))
        rows.append({
            "cache": name, "degrees": float(angle.mean()), "positions": float((centre - before).norm() / before.norm()),
            "depth": float((depth - depth0).norm() / depth0.norm()),
        })  # fmt: skip
        print(rows[-1], flush=True)
    if asked.json is not None:
        document = {"benchmark": "cache_precision", "torch": torch.__version__, "frames": asked.frames, "rows": rows}
        asked.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
