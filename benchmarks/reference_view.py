"""The first view of a prediction is the network's frame: what another first view changes.

    python benchmarks/reference_view.py SCENE... --json reference-view.json [--model mini] [--device cuda] [--poses F]

SCENE is a folder with images/ and cameras.json. A row for each set of images: all of a scene; two thirds of it (as in
benchmarks/locate.py); halves that share images and every second image (as in benchmarks/living_scene.py). AUC@5 and
AUC@30 with each image as the first one, in order of the files. `--poses` keeps the cameras (.npz).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from lite3r_cli.config import PredictConfig
from lite3r_cli.io.cameras_json import read_cameras_json
from lite3r_cli.io.images import discover
from lite3r_cli.pipelines.predict import Predictor
from lite3r_cli.scene.metrics import auc, pair_errors


def sets_of(count: int) -> dict[str, list[int]]:
    """Name → positions of the images."""
    middle, over = count // 2, max(1, count // 8)
    everything = list(range(count))
    sets = {"all": everything}
    sets |= {f"without every third from {k}": [i for i in everything if i % 3 != k] for k in range(3)}
    sets |= {"first half": everything[: middle + over], "second half": everything[middle - over :]}
    return sets | {f"every second from {k}": everything[k::2] for k in range(2)}


def measure(scene: Path, predictor: Predictor, most: int, kept: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """A row for each set; `kept` gets the cameras (first view, view, 3, 4)."""
    images = discover([scene / "images"])
    truth = {Path(view.name).name: view.cam_from_world for view in read_cameras_json(scene, load_depth=False)}
    true = np.stack([truth[Path(record.name).name] for record in images.records])
    pictures = predictor.read(images)
    rows = []
    for name, which in sets_of(len(true)).items():
        if name != "all" and len(which) > most:
            continue
        found = []
        for first in which:
            order = [first, *(i for i in which if i != first)]
            views = dict(zip(order, predictor.predict_pictures(images, pictures.only(order)).views, strict=True))
            found.append(np.stack([views[i].cam_from_world for i in which]))
        kept[f"{scene.name}/{name}"] = np.stack(found)
        errors = [pair_errors(poses, true[which], 1e-6).larger for poses in found]
        row = {"scene": scene.name, "set": name, "images": which}
        row |= {f"auc{limit}": [round(auc(each, limit), 4) for each in errors] for limit in (5, 30)}
        rows.append(row)
        print(json.dumps(row), flush=True)
    kept[f"{scene.name}/truth"] = true
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenes", type=Path, nargs="+")
    parser.add_argument("--json", type=Path, default=Path("reference-view.json"))
    parser.add_argument("--poses", type=Path)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--resolution", type=int)
    parser.add_argument("--most", type=int, default=20, help="images of a set, beside all of a scene")
    options = parser.parse_args()
    config = PredictConfig(options.model, device=options.device, dtype=options.dtype, resolution=options.resolution)
    predictor = Predictor(config)
    rows: list[dict[str, Any]] = []
    kept: dict[str, np.ndarray] = {}
    for scene in options.scenes:
        rows += measure(scene, predictor, options.most, kept)
        document = {"benchmark": "reference view", "model": options.model, "rows": rows}
        options.json.write_text(json.dumps(document, indent=1) + "\n")
        if options.poses is not None:
            np.savez_compressed(options.poses, **{name: poses.astype(np.float32) for name, poses in kept.items()})


if __name__ == "__main__":
    main()
