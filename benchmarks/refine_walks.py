"""`--refine` on drawn walks with a loop, of 50 and 100 pictures: cameras, and time beside pycolmap's on the same cores.

A walk leads once and a quarter round a block of houses (walk_scenes.py). Cameras only: depth maps stay the network's.
AUC@5 is that of all pairs. The two sides take turns. A table, then one JSON line.

    python benchmarks/refine_walks.py [--frames 50 100] [--seeds 0] [--device cpu] [--cores 2] [--methods refine]
                                      [--json FILE]
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from refine import auc5, colmap_alone
from walk_scenes import make_walk, write_walk

from lite3r_cli.config import PredictConfig
from lite3r_cli.data.procedural.textures import build_atlas
from lite3r_cli.io.images import discover
from lite3r_cli.pipelines.predict import Predictor
from lite3r_cli.refine.backend import require_pycolmap
from lite3r_cli.refine.pipeline import refine
from lite3r_cli.refine.refine_config import RefineConfig
from lite3r_cli.scene.posed_view import View

WAY = {50: 40.0, 100: 48.0}  # metres round the block: a turn of at most 20° between two pictures
ROUNDS = 1.25


def ours(predictor: Predictor, folder: Path, truth: list[View]) -> dict[str, object]:
    images, start = discover([folder / "images"]), time.perf_counter()
    views = predictor.predict_pictures(images, predictor.read(images)).views
    predicted = time.perf_counter()
    answer = refine(views, images.read, config=RefineConfig(depth=False))
    cameras = time.perf_counter() - predicted
    poses = [{i: view.cam_from_world for i, view in enumerate(each)} for each in (views, answer.views)]
    account = answer.account or {}
    return {
        "auc5_network": auc5(poses[0], truth),
        "auc5": auc5(poses[1], truth),
        "refined": sum(verdict["cameras"] != "kept" for verdict in answer.verdicts),
        "path": account.get("path"),
        "hypotheses": account.get("hypotheses"),
        "pairs": account.get("pairs"),
        "warnings": answer.warnings,
        "seconds_network": round(predicted - start, 1),
        "seconds_cameras": round(cameras, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, nargs="+", default=[50, 100])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--device", default="cpu", help="of the network")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--methods", nargs="+", choices=("refine", "pycolmap"), default=("refine", "pycolmap"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    faulthandler.dump_traceback_later(60, repeat=True)  # if it is stopped, it has told where it was
    atlas, rows = build_atlas(None), []
    predictor = Predictor(PredictConfig(options.model, device=options.device, refine=True))
    machine = {"cores": options.cores, "device": options.device, "python": platform.python_version(),
               "pycolmap": require_pycolmap().__version__}  # fmt: skip
    for frames in options.frames:
        for seed in options.seeds:
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch)
                step = ROUNDS * WAY.get(frames, 0.5 * frames) / frames
                walk = make_walk(frames, True, seed, 392, 518, atlas, step)
                write_walk(folder, walk, atlas, 392, 518)
                truth = [View(f"{i:05d}.jpg", 518, 392, walk.K, pose) for i, pose in enumerate(walk.cam_from_world)]
                row: dict[str, Any] = {"frames": frames, "seed": seed}
                if "refine" in options.methods:
                    row["refine"] = ours(predictor, folder, truth)
                if "pycolmap" in options.methods:
                    row["pycolmap"] = colmap_alone(SimpleNamespace(folder=folder), truth)
            rows.append(row)
            print(f"{frames} pictures, seed {seed}: {row}", flush=True)
            document = json.dumps({"benchmark": "refine_walks", **machine, "load_1min": round(os.getloadavg()[0], 1),
                                   "walks": rows})  # fmt: skip
            if options.json is not None:
                options.json.write_text(document + "\n", encoding="utf-8")
    print(document)


if __name__ == "__main__":
    main()
