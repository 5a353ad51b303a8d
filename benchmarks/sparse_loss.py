"""Measures how each setting of sparse-linear attention changes a network's prediction before any training.

Each scene's first images, with dense attention and with each setting: mean relative depth difference after one scale,
mean rotation between the cameras, their mean shift in median depths, all in the frame of the first camera, averaged
over scenes; and the share of key blocks skipped. Correctness first: keeping everything must change nothing. A table,
then one JSON line.

    python benchmarks/sparse_loss.py sample_scenes/facade sample_scenes/desk [--views 8] [--resolution 392] [--layers]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from lite3r_cli.attention.sparse_config import PRESETS
from lite3r_cli.config import PredictConfig
from lite3r_cli.io.images import discover
from lite3r_cli.networks.family import global_layers_of
from lite3r_cli.networks.sparsify import skipped_share, sparsify
from lite3r_cli.pipelines.predict import Predictor
from lite3r_cli.scene import geometry
from lite3r_cli.scene.posed_view import View

BLOCKS = PRESETS["shallow blocks"]
ONE_SIZE = {"key_block": None, "scores": "pooled"}
TILES = ONE_SIZE | {"summaries": False}
PLAIN = TILES | {"tiles": False}
Setting = tuple[str, float, dict[str, object]]


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", type=Path, nargs="+", help="folders with images/")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--resolution", type=int, default=392)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--only", type=int, nargs="+", help="numbers of settings, from 0")
    parser.add_argument("--layers", action="store_true", help="each layer alone keeps a quarter, without summaries")
    return parser.parse_args()


def settings(layers: int) -> Iterator[Setting]:
    """(name, keep ratio, settings of `sparsify`); unless its name says otherwise, each differs from the previous one in
    one setting.
    """
    for keep in (0.25, 0.1):
        equal = {"keep_ratios": (keep,) * layers}
        yield "runs of tokens (published)", keep, PLAIN | equal
        yield "rectangles", keep, TILES | equal
        yield "summaries", keep, ONE_SIZE | equal
        yield "ratios by layer", keep, ONE_SIZE
        yield "key blocks of 32", keep, {"key_block": 32, "scores": "pooled"}
        yield "key blocks of 16", keep, {"scores": "pooled"}
        yield "kept by mass (the form of blocks)", keep, {}
        yield "the form of blocks, key blocks of 64", keep, {"key_block": 64}
        yield "the form of blocks, key blocks of 8", keep, {"key_block": 8}
        yield "the form of blocks, equal ratios", keep, equal
        yield "the form of blocks, nothing protected", keep, {"protect": "none"}
        yield "the form of blocks, reference frame protected", keep, {"protect": "reference"}
        yield "packed tokens, 64 queries a list (the default)", keep, {"packed": True}
        yield "packed tokens, 128 queries a list", keep, {"packed": True, "group": 128}


def one_by_one(layers: int) -> Iterator[Setting]:
    for i in range(layers):
        keeps = tuple(0.25 if j == i else 1.0 for j in range(layers))
        yield f"layer {i + 1} alone", sum(keeps) / layers, TILES | {"keep_ratios": keeps}


def difference(exact: Sequence[View], other: Sequence[View]) -> tuple[float, float, float]:
    """Relative depth where neither sees sky, degrees, shift in median depths."""
    depth, found = (np.concatenate([view.depth.ravel() for view in views]) for views in (exact, other))
    depth, found = (values[(depth > 0) & (found > 0)] for values in (depth, found))
    scale = float(np.median(depth / found))
    poses, others = (geometry.rebase(np.stack([view.cam_from_world for view in views])) for views in (exact, other))
    angles = np.degrees(geometry.rotation_angle(poses[:, :, :3] @ others[:, :, :3].transpose(0, 2, 1)))
    shift = np.linalg.norm(geometry.camera_centres(poses) - scale * geometry.camera_centres(others), axis=1)
    shares = np.abs(scale * found - depth) / depth
    return float(shares.mean()), float(angles[1:].mean()), float(shift[1:].mean() / np.median(depth))


def main() -> None:
    o = options()
    predictor = Predictor(PredictConfig(o.model, o.resolution, o.device, "float32"))
    model, device = predictor.backbone, predictor.runtime.torch_device
    sets = [discover((folder / "images",)) for folder in o.scenes]
    exact = [predictor.predict(images, indices=range(min(o.views, len(images)))).views for images in sets]
    layers = len(global_layers_of(model))
    rows = []
    print(f"{'setting':40} {'keep':>5} {'skipped':>8} {'depth':>7} {'rotation':>9} {'shift':>7}")
    chosen = list(one_by_one(layers) if o.layers else settings(layers))
    chosen = chosen if o.only is None else [chosen[i] for i in o.only]
    for name, keep, values in [("everything", 1.0, {}), *chosen]:
        sparsify(model, keep, **values if values.get("packed") else BLOCKS | values)
        found, skipped = [], []
        for images, views in zip(sets, exact, strict=True):
            found.append(difference(views, predictor.predict(images, indices=range(len(views))).views))
            skipped.append(skipped_share(model))
        depth, rotation, shift = np.mean(found, axis=0).tolist()
        if keep == 1:
            assert depth < 1e-3 and rotation < 0.01, "keeping everything is not dense attention"
        rows.append(
            {
                "setting": name,
                "keep_ratio": keep,
                "skipped": float(np.mean(skipped)),
                "depth": depth,
                "rotation_deg": rotation,
                "shift": shift,
            }
        )
        print(f"{name:40} {keep:5.2f} {np.mean(skipped):8.1%} {depth:7.4f} {rotation:8.3f}° {shift:7.4f}", flush=True)
    about = {"model": o.model, "views": o.views, "resolution": o.resolution, "scenes": [p.name for p in o.scenes]}
    print(
        json.dumps(
            {"benchmark": "sparse_loss", "torch": torch.__version__, "device": str(device), **about, "results": rows}
        )
    )


if __name__ == "__main__":
    main()
