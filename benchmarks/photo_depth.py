"""Makes a training set with depth maps from posed photographs: swept with the given cameras, kept where confirmed.

Each SCENE holds `images/` and `cameras.json`; DIR/SCENE gets both and depth maps of the pixels that other views confirm
(0 elsewhere), which `lite3r train --photos DIR` takes. An image that cannot be refined gets no depth map; `points.npz`,
if SCENE has one, is copied for such images.

    python benchmarks/photo_depth.py SCENE… -o DIR [--least 0.7] [--model mini] [--resolution 518] [--device auto]
        [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path

import numpy as np

import lite3r_cli
from lite3r_cli.errors import Lite3RError
from lite3r_cli.io.depth_files import write_depth_png
from lite3r_cli.refine.depth_refinement import STEREO
from lite3r_cli.scene.posed_view import View

DEPTH_STEPS = 2048  # of the median depth: the maps are not more accurate, and finer steps make larger files


def confirmed(view: View, least: float) -> np.ndarray:
    """The depth (h, w) of the pixels whose confidence is `least` at least. An unconfirmed pixel has 0.505 at most, one
    confirmed by two views 0.5 and half of the correlation of its windows (refine/confidence.py).
    """
    return np.where(view.confidence >= least, view.depth, np.float32(0))


def make(folder: Path, target: Path, options: dict, least: float) -> dict:
    """Writes the scene `folder` with depth maps to `target`, and returns what the report says about it."""
    began = time.monotonic()
    scene = lite3r_cli.reconstruct(folder / "images", cameras=folder / "cameras.json", refine=True, **options)
    swept = {image["name"] for image in scene.info["images"] if image.get("refinement", {}).get("depth") == STEREO}
    (target / "depth").mkdir(parents=True)
    shutil.copytree(folder / "images", target / "images")
    document = json.loads((folder / "cameras.json").read_text())
    shares = []
    for view in scene.views:
        depth = confirmed(view, least)
        if view.name not in swept or not depth.any():
            continue
        file = f"depth/{Path(view.name).stem}.png"
        scale = write_depth_png(target / file, depth, DEPTH_STEPS / float(np.median(depth[depth > 0])), 9)
        document["images"][view.name] |= {
            "depth": file,
            "depth_scale": scale,
            "depth_width": depth.shape[1],
            "depth_height": depth.shape[0],
        }
        shares.append(float((depth > 0).mean()))
    (target / "cameras.json").write_text(json.dumps(document, indent=1) + "\n")
    if (folder / "points.npz").exists():
        shutil.copyfile(folder / "points.npz", target / "points.npz")
    size = sum(path.stat().st_size for path in (target / "depth").iterdir())
    return {
        "scene": folder.name,
        "photos": len(document["images"]),
        "with_depth": len(shares),
        "confirmed": round(float(np.mean(shares)), 3) if shares else 0.0,
        "depth_megabytes": round(size / 1e6, 2),
        "seconds": round(time.monotonic() - began, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenes", nargs="+", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--least", type=float, default=0.7, help="smallest confidence of a pixel that is kept")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--resolution", type=int, default=518)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    o = parser.parse_args()
    report = []
    print("| scene | photos | with depth | share of pixels | MB | seconds |\n|---|---|---|---|---|---|")
    for folder in o.scenes:
        options = {"model": o.model, "resolution": o.resolution, "device": o.device, "keep_unrelated": True}
        try:
            row = make(folder, o.output / folder.name, options, o.least)
        except Lite3RError as error:
            print(f"{folder}: {error}")
            continue
        report.append(row)
        print("| " + " | ".join(str(value) for value in row.values()) + " |", flush=True)
    if o.json:
        o.json.write_text(json.dumps({"least": o.least, "resolution": o.resolution, "scenes": report}, indent=1) + "\n")


if __name__ == "__main__":
    main()
