"""How long the page of `lite3r view` takes to its first frame: a million points, WebGL in software, headless Chromium.

The cloud is a room of random colours, which packs worse than photographs do. Milliseconds from the start of loading to
the moments when the first frame is drawn, which has a quarter of the points, and when all points are (the page waits
for the pixels each time). Medians of several fresh tabs, as JSON.

    python benchmarks/view_page.py [--points 1000000] [--runs 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

from lite3r_cli.io.html_page import write_html
from lite3r_cli.io.scene_export import SceneExport
from lite3r_cli.scene.posed_view import PointCloud, View

FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


def room(count: int) -> PointCloud:
    """Points on floor and walls of a box, with noise."""
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (count, 3)) * [4, 1.5, 4] + [0, 0, 6]
    face = rng.integers(0, 3, count)
    points[face == 0, 1], points[face == 1, 2], points[face == 2, 0] = 1.5, 10, 4
    points += rng.normal(scale=0.004, size=points.shape)
    smooth = 127 + 90 * np.sin(points * 3) + rng.normal(scale=12, size=points.shape)
    return PointCloud(points.astype("f4"), smooth.clip(0, 255).astype("u1"), rng.random(count).astype("f4"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    K = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
    views = [View(f"{i}.jpg", 640, 480, K, np.hstack([np.eye(3), [[-0.3 * i], [0], [0]]])) for i in range(10)]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as player:
        begin = time.perf_counter()
        (page,) = write_html(SceneExport(Path(folder), views, room(arguments.points)))
        written = time.perf_counter() - begin
        chromium = next(path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if path)
        browser = player.chromium.launch(executable_path=chromium, args=FLAGS)
        times: dict[str, list[int]] = {"first-frame": [], "all-points": []}
        for _ in range(arguments.runs):
            tab = browser.new_page(viewport={"width": 1280, "height": 800})
            tab.goto(page.as_uri())
            tab.wait_for_selector("html[data-all-points]", state="attached", timeout=120_000)
            html = tab.locator("html")
            for name, found in times.items():
                found.append(int(html.get_attribute(f"data-{name}") or 0))
            tab.close()
        version, size = browser.version, page.stat().st_size
        browser.close()
    machine = f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}"
    result = {
        "machine": machine,
        "points": arguments.points,
        "bytes": size,
        "write_seconds": round(written, 2),
        "chromium": version,
    }
    medians = {name: float(np.median(found)) for name, found in times.items()}
    text = json.dumps({**result, "milliseconds": times, "medians": medians}, indent=1)
    print(text)
    if arguments.json is not None:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
