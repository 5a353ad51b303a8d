"""Compares `--format mesh` with the fused cloud: the share of each that lies on the true surface, and the share of the
surface that each covers.

A scene is a folder with images/, cameras.json and depth maps. Its geometry is the true depth, unprojected; what is
reconstructed is brought into the frame of the true cameras by the similarity that fits the camera centres best.
Accuracy: share of the points within a share of the diagonal of the truth; completeness: share of the true points within
it of a result. A mesh is sampled evenly by area; then cloud, samples and truth are thinned to a point in each cube of a
quarter of that distance, so that every surface counts by its area and not by how often it was seen. A table, then JSON.

    python benchmarks/mesh_surface.py SCENE... [--refine] [--tolerance 0.01] [--alternatives] [--json FILE]

`--alternatives` also measures the mesh with other values of its constants, one at a time.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import lite3r_cli as lite3r
from lite3r_cli.io.cameras_json import read_cameras_json
from lite3r_cli.pipelines.scene_formats import mesh_of_scene
from lite3r_cli.scene import tsdf
from lite3r_cli.scene.geometry import Similarity, camera_centres, scale_intrinsics, umeyama, unproject
from lite3r_cli.scene.posed_view import View
from lite3r_cli.scene.surface_nets import Mesh

SAMPLES = 1_000_000
ALTERNATIVES: list[dict[str, Any]] = [
    {"SUPPORT": 2.0},
    {"SUPPORT": 4.0, "FEWEST": 1},
    {"TRUNCATION": (1.5, 2.5)},
    {"TRUNCATION": (4.0, 5.0)},
    {"BEHIND": 0.5},
    {"VIEW_WEIGHT": 1.0},
    {"FINEST": 1 / 500},
]  # of scene/tsdf.py
THINNED = 0.25  # side of the cubes, in distances


def true_points(views: list[View], rng: np.random.Generator) -> np.ndarray:
    """SAMPLES points (N, 3) of the true depth maps."""
    found = []
    for view in views:
        assert view.depth is not None
        height, width = view.depth.shape
        K = scale_intrinsics(view.K, width / view.width, height / view.height)
        found.append(unproject(np.where(view.depth > 0, view.depth, np.nan), K, view.cam_from_world).reshape(-1, 3))
    points = np.concatenate(found)
    points = points[np.isfinite(points).all(axis=1)]
    return points[rng.choice(len(points), min(SAMPLES, len(points)), replace=False)]


def samples_of(mesh: Mesh, rng: np.random.Generator) -> np.ndarray:
    """SAMPLES points (N, 3) of a mesh, evenly by area."""
    a, b, c = (mesh.vertices[mesh.triangles[:, k]].astype(np.float64) for k in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    chosen = rng.choice(len(area), SAMPLES, p=area / area.sum())
    u, v = rng.random((2, SAMPLES, 1))
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    return a[chosen] + u * (b - a)[chosen] + v * (c - a)[chosen]


def thinned(points: np.ndarray, side: float) -> np.ndarray:
    """One of the points (N, 3) in each cube."""
    places = np.floor((points - points.min(axis=0)) / side).astype(np.int64)
    size = places.max(axis=0) + 1
    _, first = np.unique((places[:, 0] * size[1] + places[:, 1]) * size[2] + places[:, 2], return_index=True)
    return points[first]


def near(points: np.ndarray, others: np.ndarray, distance: float) -> float:
    """Share of `points` within `distance` of one of `others`."""
    flann: Any = cv2
    index = flann.flann_Index(np.ascontiguousarray(others, np.float32), {"algorithm": 4, "leaf_max_size": 20})
    _, squared = index.knnSearch(np.ascontiguousarray(points, np.float32), 1, params={"checks": -1})
    return float((np.sqrt(squared[:, 0]) < distance).mean())


def placed(found: list[View], truth: list[View]) -> Similarity:
    """From the frame of the reconstruction to that of the truth; both sorted by name."""
    pose = {view.name: view.cam_from_world for view in truth}
    mine = camera_centres(np.stack([view.cam_from_world for view in found]))
    return umeyama(mine, camera_centres(np.stack([pose[view.name] for view in found])))


@contextmanager
def changed(constants: dict[str, Any]) -> Iterator[None]:
    """Other constants of the surface."""
    before = {name: getattr(tsdf, name) for name in constants}
    for name, value in constants.items():
        setattr(tsdf, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(tsdf, name, value)


def measure(folder: Path, model: lite3r.Reconstructor, tolerance: float, alternatives: bool) -> dict[str, Any]:
    truth, rng = read_cameras_json(folder), np.random.default_rng(0)
    scene = model(str(folder / "images"))
    begin = time.perf_counter()
    mesh = mesh_of_scene(scene)
    seconds = time.perf_counter() - begin
    similarity = placed(scene.views, truth)
    true = true_points(truth, rng)
    low, high = np.percentile(true, (1, 99), axis=0)
    limit = tolerance * float(np.linalg.norm(high - low))
    true = thinned(true, THINNED * limit)
    row: dict[str, Any] = {"scene": folder.name, "views": len(scene.views), "mesh_seconds": round(seconds, 2)}
    row |= {"points": len(scene.points), "vertices": len(mesh.vertices), "triangles": len(mesh.triangles)}

    def both(points: np.ndarray) -> list[float]:
        moved = thinned(similarity.apply(points), THINNED * limit)
        return [round(near(moved, true, limit), 4), round(near(true, moved, limit), 4)]

    for name, points in (("cloud", scene.points), ("mesh", samples_of(mesh, rng))):
        row[f"{name}_accuracy"], row[f"{name}_completeness"] = both(points)
    others = []
    for constants in ALTERNATIVES if alternatives else ():
        with changed(constants):
            accuracy, completeness = both(samples_of(mesh_of_scene(scene), rng))
        others.append({"constants": constants, "accuracy": accuracy, "completeness": completeness})
        print("   ", constants, accuracy, completeness, flush=True)
    return row | ({"alternatives": others} if others else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", type=Path, nargs="+", metavar="SCENE")
    parser.add_argument("--refine", action="store_true")
    parser.add_argument("--tolerance", type=float, default=0.01, help="share of the true points' diagonal")
    parser.add_argument("--alternatives", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    model = lite3r.Reconstructor("mini", refine=arguments.refine)
    print(
        f"{'scene':16} {'cloud: accurate':>16} {'complete':>9} {'mesh: accurate':>15} {'complete':>9} {'triangles':>10}"
    )
    rows = []
    for folder in arguments.scenes:
        row = measure(folder, model, arguments.tolerance, arguments.alternatives)
        shares = (row[key] for key in ("cloud_accuracy", "cloud_completeness", "mesh_accuracy", "mesh_completeness"))
        a, b, c, d = (f"{100 * share:.1f} %" for share in shares)
        print(f"{row['scene']:16} {a:>15} {b:>15} {c:>15} {d:>15} {row['triangles']:>15,}", flush=True)
        rows.append(row)
    shown = [key for key in rows[0] if key.endswith(("_accuracy", "_completeness"))]
    document = {
        "what": "share of points within the tolerance of the truth, and of true points within it of the result",
        "tolerance": arguments.tolerance,
        "refine": arguments.refine,
        "machine": platform.processor() or platform.machine(),
        "scenes": rows,
        "mean": {key: round(float(np.mean([row[key] for row in rows])), 4) for key in shown},
    }
    text = json.dumps(document, indent=1)
    if arguments.json is None:
        print(text)
    else:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
