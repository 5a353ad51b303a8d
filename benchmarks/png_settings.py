"""Compares the PNG settings of OpenCV for depth maps and colour images: bytes and processor time.

    python benchmarks/png_settings.py

Depth maps are those of the sample scenes at the network's size; a picture is the coloured preview of one.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import product
from pathlib import Path

import cv2
import numpy as np

from lite3r_cli.io import depth_files
from lite3r_cli.io.cameras_json import read_cameras_json

ROOT = Path(__file__).resolve().parents[1]
STRATEGIES = ("default", "filtered", "huffman_only", "rle")
FILTERS = ("none", "sub", "up", "avg", "paeth", "all")
SIZE = (518, 350)  # width, height
REPEATS = 9


def pictures() -> dict[str, list[np.ndarray]]:
    """16-bit depth and coloured pictures of the first four views of each scene."""
    found: dict[str, list[np.ndarray]] = {"depth": [], "coloured": []}
    for name in ("desk", "facade", "aloe"):
        for view in [v for v in read_cameras_json(ROOT / "sample_scenes" / name) if v.depth is not None][:4]:
            depth = cv2.resize(view.depth, SIZE, interpolation=cv2.INTER_NEAREST)
            depth = cv2.GaussianBlur(depth, (0, 0), 1.5)  # as smooth as what a network predicts
            known = depth > 0
            found["depth"].append(np.rint(depth * depth_files.depth_scale(depth)).astype(np.uint16))
            inverse = np.divide(1.0, depth, out=np.zeros(depth.shape), where=known)
            found["coloured"].append(depth_files._coloured(inverse, known, cv2.COLORMAP_TURBO))
    return found


def measure(images: list[np.ndarray], flags: list[int]) -> tuple[float, int]:
    """Milliseconds of processor time and bytes of one picture, means over the pictures, the best of several rounds."""
    best = float("inf")
    for _ in range(REPEATS):
        start = time.process_time()
        sizes = [len(cv2.imencode(".png", image, flags)[1]) for image in images]
        best = min(best, time.process_time() - start)
    return 1000 * best / len(images), round(sum(sizes) / len(images))


def settings() -> dict[str, list[int]]:
    found: dict[str, list[int]] = {"OpenCV's default": []}
    for level, strategy, name in product((1, 3, 6), STRATEGIES, FILTERS):
        if level > 1 and (strategy != "default" or name not in ("none", "all")):
            continue
        constant = "ALL_FILTERS" if name == "all" else f"FILTER_{name.upper()}"
        found[f"level {level}, {strategy}, {name}"] = [
            cv2.IMWRITE_PNG_COMPRESSION, level,
            cv2.IMWRITE_PNG_STRATEGY, getattr(cv2, f"IMWRITE_PNG_STRATEGY_{strategy.upper()}"),
            cv2.IMWRITE_PNG_FILTER, getattr(cv2, f"IMWRITE_PNG_{constant}"),
        ]  # fmt: skip
    found["chosen for depth"], found["chosen for pictures"] = depth_files._DEPTH, depth_files._COLOURED
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the table there, too")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    rows = []
    for kind, images in pictures().items():
        for name, flags in settings().items():
            milliseconds, size = measure(images, flags)
            rows.append({"picture": kind, "setting": name, "ms": round(milliseconds, 2), "bytes": size})
            print(f"{kind:9s} {name:34s} {milliseconds:7.2f} ms {size:9,d} bytes", flush=True)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"opencv": cv2.__version__, "size": SIZE, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
