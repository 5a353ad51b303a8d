"""`--refine` beside pycolmap alone: cameras, depth and time on scenes with ground truth, all images of each at once.
"given" is the refinement with the true cameras, where there is true depth.

pycolmap alone: SIFT, exhaustive matching, incremental mapping, defaults, one simple pinhole camera an image. Ours: the
network, the refinement, and the fusion. A scene is a folder with images/ and cameras.json. An image without a camera
counts as 180° off. A table, then one JSON line.

    python benchmarks/refine.py SCENE... [--cores 2] [--model mini] [--methods pycolmap network refine given]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np

from lite3r_cli.config import PredictConfig
from lite3r_cli.io.cameras_json import read_cameras_json
from lite3r_cli.pipelines.evaluate_scenes import Scene, open_scene
from lite3r_cli.pipelines.predict import Predictor
from lite3r_cli.refine.backend import quiet_pycolmap, require_pycolmap
from lite3r_cli.scene import geometry, metrics
from lite3r_cli.scene.fusion import fuse
from lite3r_cli.scene.posed_view import View

DEPTH_COLUMNS = ("absrel", "delta105", "absrel_two_views", "median_two_views", "delta105_two_views")
METHODS = ("pycolmap", "network", "refine", "given")


def auc5(poses: dict[int, np.ndarray], truth: list[View]) -> float:
    """AUC@5 of all pairs; those with an image that has no pose count as failed."""
    known = sorted(poses)
    pairs = len(truth) * (len(truth) - 1) // 2
    if len(known) < 2:
        return 0.0
    true_poses = np.stack([truth[i].cam_from_world for i in known])
    larger = metrics.pair_errors(np.stack([poses[i] for i in known]), true_poses, 1e-6).larger
    return metrics.auc(np.concatenate([larger, np.full(pairs - len(larger), 180.0)]), 5)


def depth_measures(views: list[View], truth: list[View]) -> dict[str, float | None]:
    """AbsRel, the median error and the share within 5 %, of all pixels and of those that another view sees."""
    if any(view.depth is None for view in truth):
        return dict.fromkeys(DEPTH_COLUMNS)
    shown = [_seen_twice(truth, i) for i in range(len(truth))]
    known = [view.depth > 0 for view in truth]
    p = np.concatenate([metrics.resample_depth(v.depth, k.shape)[k] for v, k in zip(views, known, strict=True)])
    t = np.concatenate([g.depth[k] for g, k in zip(truth, known, strict=True)])
    twice = np.concatenate([s[k] for s, k in zip(shown, known, strict=True)])
    p = p * metrics.depth_scale(p, t)
    error = np.abs(p - t) / t
    close = (p < 1.05 * t) & (t < 1.05 * p)
    return {
        "absrel": float(error.mean()),
        "delta105": float(close.mean()),
        "absrel_two_views": float(error[twice].mean()),
        "median_two_views": float(np.median(error[twice])),
        "delta105_two_views": float(close[twice].mean()),
    }


def _seen_twice(truth: list[View], i: int) -> np.ndarray:
    """Pixels (h, w) of view i whose true point lies on the true surface of another view, to 2 %."""
    seen = np.zeros(truth[i].depth.shape, bool)
    points = geometry.unproject(truth[i].depth, truth[i].K, truth[i].cam_from_world)
    for j, other in enumerate(truth):
        if j == i:
            continue
        pixel, z = geometry.project(points, other.K, other.cam_from_world)
        inside = (z > 0) & (pixel >= 0).all(-1) & (pixel < [other.width, other.height]).all(-1)
        column, row = np.where(inside[..., None], pixel, 0).astype(np.int64).transpose(2, 0, 1)
        seen |= inside & (np.abs(z / np.maximum(other.depth[row, column], 1e-9) - 1) < 0.02)
    return seen


@quiet_pycolmap()
def colmap_alone(scene: Scene, truth: list[View]) -> dict[str, object]:
    pycolmap = require_pycolmap()
    with tempfile.TemporaryDirectory() as folder:
        work, images = Path(folder), scene.folder / "images"
        reader = pycolmap.ImageReaderOptions(camera_model="SIMPLE_PINHOLE")
        start = time.perf_counter()
        pycolmap.extract_features(work / "db", images, camera_mode=pycolmap.CameraMode.PER_IMAGE, reader_options=reader)
        pycolmap.match_exhaustive(work / "db")
        models = pycolmap.incremental_mapping(work / "db", images, work)
        seconds = time.perf_counter() - start
    number = {view.name: i for i, view in enumerate(truth)}
    poses: dict[int, np.ndarray] = {}
    if models:
        best = max(models.values(), key=lambda model: model.num_reg_images())
        registered = (image for image in best.images.values() if image.has_pose)
        poses = {number[image.name]: image.cam_from_world().matrix() for image in registered}
    return {"seconds": round(seconds, 1), "auc5": auc5(poses, truth), "images": len(poses)}


def ours(predictor: Predictor, scene: Scene, truth: list[View]) -> dict[str, object]:
    start = time.perf_counter()
    answer = predictor.predict(scene.images, indices=scene.indices)
    cloud = fuse(answer.views, lambda j: scene.images.read(scene.indices[j]))
    seconds = time.perf_counter() - start
    assert len(cloud) and np.isfinite(cloud.points).all(), "an empty cloud, or points that are not finite"
    poses = {i: view.cam_from_world for i, view in enumerate(answer.views)}
    refined = sum(verdict["cameras"] != "kept" for verdict in answer.verdicts or ())
    measures = {"seconds": round(seconds, 1), "auc5": auc5(poses, truth), "images": refined, "points": len(cloud)}
    return {**measures, **depth_measures(answer.views, truth)}


def show(value: object) -> str:
    return "–" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenes", type=Path, nargs="+")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.cores])
    predictors = {
        name: Predictor(PredictConfig(arguments.model, device="cpu", refine=name == "refine"))
        for name in arguments.methods
        if name in ("network", "refine")
    }
    columns = ("seconds", "auc5", "images", *DEPTH_COLUMNS, "points")
    print(f"{'scene':16}{'method':10}" + "".join(f"{name:>19}" for name in columns))
    results: dict[str, dict] = {}
    for folder in arguments.scenes:
        scene = open_scene(folder)
        truth = read_cameras_json(folder)
        rows = {"pycolmap": colmap_alone(scene, truth)} if "pycolmap" in arguments.methods else {}
        rows |= {name: ours(predictor, scene, truth) for name, predictor in predictors.items()}
        if "given" in arguments.methods and truth[0].depth is not None:
            config = PredictConfig(arguments.model, device="cpu", refine=True, cameras=folder / "cameras.json")
            rows["given"] = ours(Predictor(config), scene, truth)
        results[folder.name] = rows
        for method, row in rows.items():
            cells = "".join(f"{show(row.get(name)):>19}" for name in columns)
            print(f"{folder.name:16}{method:10}{cells}", flush=True)
    summary = {"benchmark": "refine", "cores": arguments.cores, "python": platform.python_version()}
    print(json.dumps({**summary, "load_1min": round(os.getloadavg()[0], 1), "scenes": results}))


if __name__ == "__main__":
    main()
