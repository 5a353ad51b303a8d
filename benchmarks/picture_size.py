"""Compares small images at their own size inside the network with the same images enlarged to its default resolution.

The pictures of each scene are shrunk to a longest side, as if they had been taken so, and scored both ways. A table,
then one JSON line.

    python benchmarks/picture_size.py SCENE… [--sides 336 420] [--enlarged 518] [--model mini] [--views 4]
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np

from lite3r_cli.config import EvaluateConfig, PredictConfig
from lite3r_cli.pipelines.evaluate_scenes import evaluate

SHOWN = ("auc30", "focal_pct", "absrel", "delta1")


def shrink(scene: Path, target: Path, side: int) -> None:
    """`scene` with pictures of `side` pixels at most; its depth maps keep their size."""
    shutil.copytree(scene, target, copy_function=shutil.copyfile)
    document = json.loads((scene / "cameras.json").read_text())
    small = {}
    for name, camera in document["images"].items():
        picture = cv2.imread(str(target / "images" / name))
        (target / "images" / name).unlink()
        scale = min(1.0, side / max(camera["width"], camera["height"]))
        size = round(camera["width"] * scale), round(camera["height"] * scale)
        ratio = np.array([[size[0] / camera["width"]], [size[1] / camera["height"]], [1.0]])
        lossless = f"{Path(name).stem}.png"
        cv2.imwrite(str(target / "images" / lossless), cv2.resize(picture, size, interpolation=cv2.INTER_AREA))
        depth = {"depth_width": camera["width"], "depth_height": camera["height"]} if camera.get("depth") else {}
        K = (np.array(camera["K"]) * ratio).tolist()
        small[lossless] = depth | camera | {"K": K, "width": size[0], "height": size[1]}
    (target / "cameras.json").write_text(json.dumps(document | {"images": small}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenes", nargs="+", type=Path)
    parser.add_argument("--sides", nargs="+", type=int, default=[336, 420])
    parser.add_argument("--enlarged", type=int, default=518)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--views", type=int, default=4)
    o = parser.parse_args()
    report = []
    print("| pictures | inside | scene | " + " | ".join(SHOWN) + " |\n" + "|---" * (3 + len(SHOWN)) + "|")
    for side in o.sides:
        with tempfile.TemporaryDirectory() as folder:
            scenes = tuple(Path(folder) / scene.name for scene in o.scenes)
            for scene, small in zip(o.scenes, scenes):
                shrink(scene, small, side)
            for resolution in (None, o.enlarged):
                result = evaluate(EvaluateConfig(scenes, PredictConfig(o.model, resolution=resolution), o.views))
                for name, scores in {**result.scenes, "mean": result.mean}.items():
                    row = {"pictures": side, "inside": resolution or "own size", "scene": name} | {
                        key: getattr(scores, key) for key in SHOWN
                    }
                    report.append(row)
                    cells = ("–" if v is None else f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values())
                    print("| " + " | ".join(cells) + " |", flush=True)
    print("\n" + json.dumps({"model": o.model, "views": o.views, "rows": report}))


if __name__ == "__main__":
    main()
