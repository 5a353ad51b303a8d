"""Compares the PNG settings of OpenCV for depth maps, and with io/quick_png.py for coloured pictures of them: bytes
and processor time.

    python benchmarks/png_settings.py

Depth maps are those of the sample scenes at the network's size; a picture is the coloured preview of one.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import cv2
import numpy as np

from lite3r_cli.io import depth_files
from lite3r_cli.io.cameras_json import read_cameras_json
from lite3r_cli.io.quick_png import quick_png

ROOT = Path(__file__).resolve().parents[1]
STRATEGIES = ("default", "filtered", "huffman_only", "rle")
FILTERS = ("none", "sub", "up", "avg", "paeth", "all")
SIZE = (518, 350)  # width, height
REPEATS = 9


Map = tuple[np.ndarray, np.ndarray | None]  # values (h, w), and their colours


def pictures() -> dict[str, list[Map]]:
    """16-bit depth and coloured pictures of the first four views of each scene."""
    found: dict[str, list[Map]] = {"depth": [], "coloured": []}
    for name in ("desk", "facade", "aloe"):
        for view in [v for v in read_cameras_json(ROOT / "sample_scenes" / name) if v.depth is not None][:4]:
            depth = cv2.resize(view.depth, SIZE, interpolation=cv2.INTER_NEAREST)
            depth = cv2.GaussianBlur(depth, (0, 0), 1.5)  # as smooth as what a network predicts
            known = depth > 0
            found["depth"].append((np.rint(depth * depth_files.depth_scale(depth)).astype(np.uint16), None))
            inverse = np.divide(1.0, depth, out=np.zeros(depth.shape), where=known)
            found["coloured"].append(depth_files._coloured(inverse, known, cv2.COLORMAP_TURBO))
    return found


def measure(maps: list[Map], encode: Callable[[Map], bytes]) -> tuple[float, int]:
    """Milliseconds of processor time and bytes of one picture, means over the pictures, the best of several rounds."""
    best = float("inf")
    for _ in range(REPEATS):
        start = time.process_time()
        sizes = [len(encode(each)) for each in maps]
        best = min(best, time.process_time() - start)
    return 1000 * best / len(maps), round(sum(sizes) / len(maps))


def by_opencv(flags: list[int]) -> Callable[[Map], bytes]:
    def encode(each: Map) -> bytes:
        values, colours = each
        picture = values if colours is None else cv2.LUT(np.dstack([values] * 3), colours[:, None, ::-1])
        return cv2.imencode(".png", picture, flags)[1].tobytes()

    return encode


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
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the table there, too")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    rows = []
    for kind, images in pictures().items():
        ways = {name: by_opencv(flags) for name, flags in settings().items()}
        if kind == "coloured":
            ways["quick_png"] = lambda each: quick_png(*each)
        for name, encode in ways.items():
            milliseconds, size = measure(images, encode)
            rows.append({"picture": kind, "setting": name, "ms": round(milliseconds, 2), "bytes": size})
            print(f"{kind:9s} {name:34s} {milliseconds:7.2f} ms {size:9,d} bytes", flush=True)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"opencv": cv2.__version__, "size": SIZE, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
