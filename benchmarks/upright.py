"""Measures the angle between the estimated and the true up direction, with the true cameras and with a network's.

A scene is a folder with images/ and cameras.json in a frame whose up is known: +y in one of `lite3r synth`, otherwise
what `--up` says of all the others. A table, then one JSON line.

    python benchmarks/upright.py SCENE... [--up 0,0,1] [--model mini] [--true-cameras]
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path

import cv2
import numpy as np

from lite3r_cli.config import PredictConfig, WorldConfig
from lite3r_cli.io.cameras_json import read_cameras_json
from lite3r_cli.pipelines.evaluate_scenes import open_scene
from lite3r_cli.pipelines.predict import Predictor
from lite3r_cli.pipelines.standing import which_way_is_up
from lite3r_cli.scene import geometry
from lite3r_cli.world.gravity import Up, find_up
from lite3r_cli.world.registration import mean_rotation

SYNTH_UP = np.array([0.0, 1.0, 0.0])


def degrees(found: Up, true: np.ndarray) -> float:
    return float(np.degrees(geometry.vector_angle(found.direction, true / np.linalg.norm(true))))


def judge(folder: Path, up: np.ndarray, predictor: Predictor | None) -> dict[str, object]:
    scene, truth = open_scene(folder), read_cameras_json(folder, load_depth=False)
    up = SYNTH_UP if (folder / "synth.json").is_file() else up
    rgb = [scene.images.read(i) for i in scene.indices]
    greys = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in rgb]
    given = find_up(truth, greys)
    row = {
        "scene": folder.name, "images": len(truth), "true_cameras": degrees(given, up), "true_found": given.found,
        "true_edges": given.edges, "true_stands_out": given.stands_out,
    }  # fmt: skip
    if predictor is not None:
        answer = predictor.predict(scene.images, indices=scene.indices)
        found = which_way_is_up(WorldConfig(), scene.images, answer)
        poses, true = (np.stack([v.cam_from_world[:, :3] for v in views]) for views in (answer.views, truth))
        turn = mean_rotation(np.swapaxes(true, 1, 2) @ poses)  # from the network's frame to the truth's
        turned = Up(turn @ found.direction, found.source, found.found)
        row |= {"network": degrees(turned, up), "found": found.found, "stands_out": found.stands_out}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenes", type=Path, nargs="+")
    parser.add_argument("--up", default="0,0,1")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--true-cameras", action="store_true", help="leave out the network")
    options = parser.parse_args()
    up = np.array([float(x) for x in options.up.split(",")])
    predictor = None if options.true_cameras else Predictor(PredictConfig(model=options.model, device="cpu"))
    rows = []
    for folder in options.scenes:
        rows.append(judge(folder, up, predictor))
        print(
            "  ".join(f"{k} {v:.2f}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items()), flush=True
        )
    summary = {}
    for angle, said in (("true_cameras", "true_found"), ("network", "found")):
        known = [row for row in rows if angle in row]
        if known:
            good = [row for row in known if row[said] and row[angle] <= 2]
            wrong = [row["scene"] for row in known if row[said] and row[angle] > 2]
            summary[angle] = {"scenes": len(known), "within_2_degrees": len(good), "wrong": wrong}
    print(summary)
    print(json.dumps({"benchmark": "upright", "cpu": platform.machine(), "summary": summary, "scenes": rows}))


if __name__ == "__main__":
    main()
