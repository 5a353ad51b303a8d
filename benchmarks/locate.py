"""Locates photos that were left out of a scene: every third image of a set is left out, the rest is reconstructed, and
the images left out are located in it; three times, so that each image is left out once. A scene is a folder with
images/ and cameras.json (the truth).

A row for each set: AUC@5 and AUC@30 over the pairs with an image that was left out, of the three times together, beside
those of one joint reconstruction of all images; own photos refused; photos of other sets accepted; seconds a photo.

    python benchmarks/locate.py SCENE... [--model mini] [--resolution 518] [--views 3] [--thirds 0 1 2] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lite3r_cli.cli import main as lite3r
from lite3r_cli.config import PredictConfig
from lite3r_cli.config.locating import LocateConfig
from lite3r_cli.io.cameras_json import read_cameras_json
from lite3r_cli.io.images import discover
from lite3r_cli.pipelines.locate_photos import locate
from lite3r_cli.pipelines.predict import Predictor
from lite3r_cli.runtime import processor
from lite3r_cli.scene import metrics
from lite3r_cli.scene.posed_view import View


def pictures(scene: Path) -> list[Path]:
    return [record.path for record in discover([scene / "images"]).records]


def errors(found: dict[str, np.ndarray], truth: dict[str, np.ndarray], new: set[str]) -> np.ndarray:
    """For each pair that contains an image of `new` the larger of both angles; 180 degrees for images that were not
    found.
    """
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


@dataclass(frozen=True)
class Third:
    """The outcome of one third left out."""

    mine: np.ndarray  # degrees, of the pairs
    joint: np.ndarray
    refused: int
    accepted: int
    seconds: list[float]


def third(k: int, scene: Path, joint: dict[str, np.ndarray], foreign: list[Path], options: argparse.Namespace,
          scratch: Path) -> Third:  # fmt: skip
    files = pictures(scene)
    held = files[k::3]
    truth = {Path(view.name).name: view.cam_from_world for view in read_cameras_json(scene, load_depth=False)}
    truth = {file.name: truth[file.name] for file in files}
    written = scratch / f"{scene.name}-{k}.ply"
    words = ["reconstruct", *(file for file in files if file not in held), "-o", written, "--model", options.model]
    words += ["-q", "--no-previews", *(() if options.resolution is None else ("--resolution", options.resolution))]
    if lite3r([str(word) for word in words]) != 0:
        raise SystemExit(f"{scene}: was not reconstructed")
    found = locate(LocateConfig(written, tuple(held), options.views))
    captured = read_cameras_json(written.with_suffix("") / "cameras.json", load_depth=False)
    new = {file.name for file in held}
    mine = errors(poses([*captured, *(each.view for each in found.located)]), truth, new)
    strangers = locate(LocateConfig(written, tuple(foreign), options.views)) if foreign else None
    return Third(
        mine, errors(joint, truth, new), len(found.refused), 0 if strangers is None else len(strangers.located),
        [each.seconds for each in found.located],
    )  # fmt: skip


def row(scene: Path, options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    predict = PredictConfig(options.model, resolution=options.resolution)
    joint = poses(Predictor(predict).predict(discover(pictures(scene))).views)
    others = [pictures(each) for each in options.scenes if each != scene]
    foreign = {k: [files[k] for files in others] for k in options.thirds}
    each = [third(k, scene, joint, foreign[k], options, scratch) for k in options.thirds]
    mine, together = (np.concatenate([getattr(one, name) for one in each]) for name in ("mine", "joint"))
    seconds = [value for one in each for value in one.seconds]
    return {
        "scene": scene.name, "images": len(pictures(scene)), "thirds": options.thirds,
        "refused": sum(one.refused for one in each),
        "auc5": metrics.auc(mine, 5), "auc5_joint": metrics.auc(together, 5),
        "auc30": metrics.auc(mine, 30), "auc30_joint": metrics.auc(together, 30),
        "auc5_of_thirds": [[metrics.auc(one.mine, 5), metrics.auc(one.joint, 5)] for one in each],
        "foreign": sum(len(files) for files in foreign.values()), "accepted": sum(one.accepted for one in each),
        "seconds": statistics.median(seconds) if seconds else None,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenes", nargs="+", type=Path)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--resolution", type=int)
    parser.add_argument("--views", type=int, default=LocateConfig.views)
    parser.add_argument("--thirds", type=int, nargs="+", default=[0, 1, 2], help="first image of each third left out")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    columns = ("auc5", "auc5_joint", "auc30", "auc30_joint")
    print("| set | images | refused | AUC@5 | joint | AUC@30 | joint | foreign accepted | s a photo |")
    print("|---" * 9 + "|")
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for scene in options.scenes:
            r = row(scene, options, Path(scratch))
            rows.append(r)
            cells = " | ".join(f"{r[name]:.3f}" for name in columns)
            seconds = "–" if r["seconds"] is None else f"{r['seconds']:.2f}"
            counts = f"{r['accepted']} of {r['foreign']}"
            print(f"| {r['scene']} | {r['images']} | {r['refused']} | {cells} | {counts} | {seconds} |", flush=True)
            if options.json is not None:
                facts = {"torch": torch.__version__, "processor": processor(), "threads": torch.get_num_threads(),
                         "load": os.getloadavg()[0]}  # fmt: skip
                asked = {"model": options.model, "resolution": options.resolution, "views": options.views}
                options.json.write_text(json.dumps({**facts, **asked, "scenes": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
