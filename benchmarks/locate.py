"""New photos in a scene that is there: every third picture of each set is left out, the rest is reconstructed, and what
was left out is located in it. A scene is a folder with images/ and cameras.json (the truth).

A row a scene: AUC@5 and AUC@30 over the pairs of pictures with one that was left out, beside those of one joint
reconstruction of all pictures; own pictures refused; photos of the other scenes accepted; seconds a photo.

    python benchmarks/locate.py SCENE... [--model mini] [--resolution 518] [--views 4] [--foreign 2] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from pathlib import Path

import numpy as np
import torch

from lite3r_cli.cli import main as lite3r
from lite3r_cli.config import PredictConfig
from lite3r_cli.config.locating import LocateConfig
from lite3r_cli.io.cameras_json import read_cameras_json
from lite3r_cli.io.images import discover
from lite3r_cli.pipelines.locate_photos import Locations, locate
from lite3r_cli.pipelines.predict import Predictor
from lite3r_cli.scene import metrics
from lite3r_cli.scene.posed_view import View


def pictures(scene: Path) -> list[Path]:
    return [record.path for record in discover([scene / "images"]).records]


def errors(found: dict[str, np.ndarray], truth: dict[str, np.ndarray], new: set[str]) -> np.ndarray:
    """The larger of both angles, of the pairs with a picture of `new`; what was not found is off by 180 degrees."""
    names = sorted(truth)
    poses = np.stack([found.get(name, np.eye(3, 4)) for name in names])
    pairs = metrics.pair_errors(poses, np.stack([truth[name] for name in names]), 1e-6).larger
    first, second = np.triu_indices(len(names), k=1)
    lost = np.array([name not in found for name in names])
    pairs[lost[first] | lost[second]] = 180.0
    isnew = np.array([name in new for name in names])
    return pairs[isnew[first] | isnew[second]]


def poses(views: list[View]) -> dict[str, np.ndarray]:
    return {Path(view.name).name: view.cam_from_world for view in views}


def row(scene: Path, foreign: list[Path], options: argparse.Namespace, scratch: Path) -> dict[str, object]:
    files = pictures(scene)
    held = files[1::3]
    kept = [file for file in files if file not in held]
    truth = {Path(view.name).name: view.cam_from_world for view in read_cameras_json(scene, load_depth=False)}
    truth = {file.name: truth[file.name] for file in files}
    words = ["reconstruct", *kept, "-o", scratch / f"{scene.name}.ply", "--model", options.model, "-q"]
    words += [] if options.resolution is None else ["--resolution", options.resolution]
    if lite3r([str(word) for word in words]) != 0:
        raise SystemExit(f"{scene}: was not reconstructed")
    written = scratch / f"{scene.name}.ply"
    found = locate(LocateConfig(written, tuple(held), options.views))
    captured = read_cameras_json(scratch / scene.name / "cameras.json", load_depth=False)
    mine = errors(poses([*captured, *(each.view for each in found.located)]), truth, {file.name for file in held})
    predict = PredictConfig(options.model, resolution=options.resolution)
    joint = errors(poses(Predictor(predict).predict(discover(files)).views), truth, {file.name for file in held})
    strangers = locate(LocateConfig(written, tuple(foreign), options.views)) if foreign else None
    return {
        "scene": scene.name, "views": len(kept), "left_out": len(held), "refused": len(found.refused),
        "auc5": metrics.auc(mine, 5), "auc5_joint": metrics.auc(joint, 5),
        "auc30": metrics.auc(mine, 30), "auc30_joint": metrics.auc(joint, 30),
        "foreign": len(foreign), "accepted": accepted(strangers),
        "seconds": float(np.median([each.seconds for each in found.located])) if found.located else None,
    }  # fmt: skip


def accepted(found: Locations | None) -> int:
    return 0 if found is None else len(found.located)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenes", nargs="+", type=Path)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--resolution", type=int)
    parser.add_argument("--views", type=int, default=LocateConfig.views)
    parser.add_argument("--foreign", type=int, default=2, help="photos of each other scene that are tried")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    columns = ("auc5", "auc5_joint", "auc30", "auc30_joint")
    print("| scene | captured | left out | refused | AUC@5 | joint | AUC@30 | joint | foreign accepted | s a photo |")
    print("|---" * 10 + "|")
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for scene in options.scenes:
            others = [file for each in options.scenes if each != scene for file in pictures(each)[: options.foreign]]
            r = row(scene, others, options, Path(scratch))
            rows.append(r)
            cells = [f"{r[name]:.3f}" for name in columns]
            counts = f"{r['views']} | {r['left_out']} | {r['refused']}"
            seconds = "–" if r["seconds"] is None else f"{r['seconds']:.2f}"
            print(
                f"| {r['scene']} | {counts} | {' | '.join(cells)} | {r['accepted']} of {r['foreign']} | {seconds} |",
                flush=True,
            )
            if options.json is not None:
                facts = {"torch": torch.__version__, "machine": platform.machine(), "threads": torch.get_num_threads()}
                asked = {"model": options.model, "resolution": options.resolution, "views": options.views}
                options.json.write_text(json.dumps({**facts, **asked, "scenes": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
