"""Runs `--refine` on fisheye images of a drawn, furnished room with exact rays and walking cameras. Reports focal
length, distortion and cameras for each field of view, with the camera model found or given.

A table, then one JSON line.

    python benchmarks/fisheye_room.py [--fields 150] [--camera-models auto opencv-fisheye] [--seeds 3]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from refine_lenses import ours

from lite3r_cli.config import PredictConfig
from lite3r_cli.io.cameras_json import write_cameras_json
from lite3r_cli.pipelines.predict import Predictor
from lite3r_cli.scene.distortion import DistortedCamera
from lite3r_cli.scene.posed_view import View

SIDE = 1024  # texels of a face
VIEWS = 8
OVER = 2  # rays along each side of a pixel


def noise(rng: np.random.Generator) -> np.ndarray:
    """A texture (SIDE, SIDE, 3) float32 in 0..1 with detail at every scale; each seed has its own colours."""
    sizes = (4, 12, 36, 100, 280, 700)
    layers = [cv2.resize(rng.random((n, n, 3), np.float32), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) for n in sizes]
    mixed = sum(layer - 0.5 for layer in layers)
    return np.clip(0.35 + 0.3 * rng.random(3, np.float32) + 0.4 * mixed, 0, 1)


def hit(low: np.ndarray, high: np.ndarray, origin: np.ndarray, rays: np.ndarray, inside: bool):
    """Distance (N,), face (N,) 0..5 and place on it (N, 2) in 0..1 where rays (N, 3) meet a box; infinite where not."""
    with np.errstate(all="ignore"):
        ends = np.stack([(low - origin) / rays, (high - origin) / rays])  # (2, N, 3)
    near, far = ends.min(axis=0), ends.max(axis=0)
    axis = far.argmin(axis=1) if inside else near.argmax(axis=1)
    row = np.arange(len(rays))
    t = (far if inside else near)[row, axis]
    met = np.ones(len(rays), bool) if inside else (near.max(axis=1) < far.min(axis=1)) & (t > 0)
    place = (origin + t[:, None] * rays - low) / (high - low)
    others = np.array([[1, 2], [0, 2], [0, 1]])[axis]
    face = 2 * axis + (rays[row, axis] > 0)
    return np.where(met, t, np.inf), face, place[row[:, None], others]


def colour(rays: np.ndarray, origin: np.ndarray, boxes: list[tuple]) -> np.ndarray:
    """(N, 3) uint8 seen along rays (N, 3)."""
    best, seen = np.full(len(rays), np.inf), np.zeros((len(rays), 3), np.float32)
    for low, high, textures, inside in boxes:
        t, face, place = hit(low, high, origin, rays, inside)
        for k in range(6):
            mine = np.flatnonzero((t < best) & (face == k))
            xy = (place[mine] * SIDE - 0.5).astype(np.float32)[:, None]
            for part in np.array_split(np.arange(len(mine)), len(mine) // 30000 + 1):  # cv2 takes 32767 rows
                if len(part):
                    at = xy[part]
                    found = cv2.remap(
                        textures[k], at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
                    )
                    seen[mine[part]] = found[:, 0]
        best = np.minimum(best, t)
    return np.round(255 * seen).astype(np.uint8)


def make_room(camera: DistortedCamera, seed: int, target: Path) -> list[View]:
    """Photographs of a room in `target`, `VIEWS` of them; views whose `lens` is the truth."""
    rng = np.random.default_rng(seed)
    boxes = [(np.array([-4.0, -1.6, -3.0]), np.array([4.0, 1.4, 3.0]), [noise(rng) for _ in range(6)], True)]
    for _ in range(5):
        foot, size = rng.uniform([-3.5, 0, -2.5], [2.6, 0, 1.8]), rng.uniform(0.5, 1.3, 3)
        low = np.array([foot[0], 1.4 - size[1], foot[2]])
        boxes.append((low, low + size, [noise(rng) for _ in range(6)], False))
    u, v = np.meshgrid(np.arange(camera.width * OVER) + 0.5, np.arange(camera.height * OVER) + 0.5)
    rays = camera.rays(np.stack([u, v], axis=-1).reshape(-1, 2) / OVER)
    known = np.isfinite(rays).all(axis=1)
    views = []
    (target / "images").mkdir(parents=True)
    for i in range(VIEWS):
        centre = np.array([-1.5 + 3 * i / (VIEWS - 1), -0.7 + 0.1 * rng.normal(), -1.2 + 0.3 * rng.normal()])
        turn = cv2.Rodrigues(
            np.radians([6 * rng.normal(), 25 - 50 * i / (VIEWS - 1) + 5 * rng.normal(), 3 * rng.normal()])
        )[0]
        seen = np.zeros((len(rays), 3), np.uint8)
        seen[known] = colour(rays[known] @ turn, centre, boxes)
        large = seen.reshape(camera.height * OVER, camera.width * OVER, 3)
        small = cv2.resize(large, (camera.width, camera.height), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(target / "images" / f"{i}.jpg"), small, [cv2.IMWRITE_JPEG_QUALITY, 97])
        K = np.array([[camera.focal[0], 0, camera.centre[0]], [0, camera.focal[1], camera.centre[1]], [0, 0, 1.0]])
        pose = np.column_stack([turn, -turn @ centre])
        views.append(View(f"{i}.jpg", camera.width, camera.height, K, pose, lens=camera))
    # without the lens: nothing may know it but the comparison
    write_cameras_json(target / "cameras.json", [replace(view, lens=None) for view in views])
    return views


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fields", type=float, nargs="+", default=[150.0], help="degrees along the longer side")
    parser.add_argument("--camera-models", nargs="+", default=["auto", "opencv-fisheye"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[3])
    parser.add_argument("--size", type=int, nargs=2, default=(640, 480))
    parser.add_argument("--model", default="mini")
    options = parser.parse_args()
    width, height = options.size
    rows = []
    for field in options.fields:
        focal = width / np.radians(field)
        params = (focal, focal, width / 2, height / 2, -0.01, 0.0, 0.0, 0.0)
        for seed in options.seeds:
            with tempfile.TemporaryDirectory() as scratch:
                truth = make_room(
                    DistortedCamera("OPENCV_FISHEYE", params, width, height), seed, Path(scratch) / "room"
                )
                for model in options.camera_models:
                    config = PredictConfig(options.model, device="cpu", refine=True, camera_model=model)
                    row = ours(Predictor(config), Path(scratch) / "room", truth)
                    rows.append({"field": field, "seed": seed, "camera_model": model, **row})
                    print(
                        f"{field:.0f}° seed {seed}  --camera-model {model:15} AUC@5 {row['auc5']:.3f}  "
                        f"focal length {100 * row['focal_error']:.2f} % off  {row['model']} {row['distortion']}",
                        flush=True,
                    )
    machine = {"python": platform.python_version(), "load_1min": round(os.getloadavg()[0], 1)}
    print(json.dumps({"benchmark": "fisheye_room", "images": VIEWS, **machine, "rows": rows}))


if __name__ == "__main__":
    main()
