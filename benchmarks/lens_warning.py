"""The warning of lenses that bend lines, without `--refine`: what straight edges of sets of pictures say as they are,
and of those with a cameras.json as lenses with k1 would show them. A set is a folder with images/.

A table, then one JSON line.

    python benchmarks/lens_warning.py SET... [--k1 -0.05 -0.12] [--side 518]
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
from refine_lenses import distorted_camera, through

from lite3r_cli.config import PredictConfig
from lite3r_cli.io.cameras_json import read_cameras_json
from lite3r_cli.io.images import ImageSet, discover
from lite3r_cli.io.video import even_indices
from lite3r_cli.networks.pictures import NetworkInput
from lite3r_cli.pipelines.ahead import Edges
from lite3r_cli.pipelines.lens_hints import PICTURES, lens_warnings
from lite3r_cli.world.bent_lines import measure_bending


def at_side(rgb: np.ndarray, side: int) -> np.ndarray:
    scale = min(1.0, side / max(rgb.shape[:2]))
    return rgb if scale == 1 else cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def judge(images: ImageSet, indices: list[int], pictures: list[np.ndarray], side: int) -> dict[str, object]:
    """The measured values, and whether they lead to a warning."""
    inputs = [NetworkInput(small, small.shape[:2]) for small in (at_side(rgb, side) for rgb in pictures)]
    records = [images.records[i] for i in indices]
    found = measure_bending([cv2.cvtColor(item.rgb, cv2.COLOR_RGB2GRAY) for item in inputs])
    said = lens_warnings(PredictConfig(), records, inputs, Edges())
    return {**{key: round(value, 4) for key, value in asdict(found).items()}, "warned": bool(said)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", type=Path, nargs="+")
    parser.add_argument("--k1", type=float, nargs="*", default=(-0.05, -0.12))
    parser.add_argument("--side", type=int, default=518)
    options = parser.parse_args()
    results: dict[str, dict] = {}
    print(f"{'set':14}{'k1':>7}{'coefficient':>13}{'evidence':>10}{'edges':>7}  warned")
    for folder in options.sets:
        images = discover([folder / "images"])
        indices = even_indices(len(images), PICTURES)
        pictures = [images.read(i) for i in indices]
        rows = {"as it is": judge(images, indices, pictures, options.side)}
        views = {}
        if options.k1 and (folder / "cameras.json").is_file():
            views = {view.name: view for view in read_cameras_json(folder, load_depth=False)}
        if all(images.records[i].name in views for i in indices):
            mine = [views[images.records[i].name] for i in indices]
            for k1 in options.k1:
                bent = [through(rgb, view, distorted_camera(view, k1)) for rgb, view in zip(pictures, mine)]
                rows[str(k1)] = judge(images, indices, bent, options.side)
        results[folder.name] = rows
        for k1, row in rows.items():
            print(
                f"{folder.name:14}{k1[:6]:>7}{row['coefficient']:13.3f}{row['evidence']:10.1f}{row['edges']:7}  "
                f"{row['warned']}",
                flush=True,
            )
    print(json.dumps({"benchmark": "lens_warning", "side": options.side, "sets": results}))


if __name__ == "__main__":
    main()
