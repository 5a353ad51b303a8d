"""`--refine` on pictures of lenses that bend lines: focal length, distortion and cameras, beside pycolmap's.

Cameras only: the depth maps stay the network's.

The pictures are those of given scenes, seen through a lens: each pixel of the new picture is read where its ray meets
the old one, so that the truth is exact. A scene is a folder with images/ and cameras.json, undistorted. pycolmap alone:
one SIMPLE_RADIAL camera for all images. A table, then one JSON line.

    python benchmarks/refine_lenses.py SCENE... [--k1 0 -0.02 -0.05 -0.12] [--camera-model auto]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from refine import auc5

from lite3r_cli.config import PredictConfig
from lite3r_cli.io.cameras_json import read_cameras_json, write_cameras_json
from lite3r_cli.pipelines.evaluate_scenes import open_scene
from lite3r_cli.pipelines.predict import Predictor
from lite3r_cli.refine.backend import quiet_pycolmap, require_pycolmap
from lite3r_cli.refine.pipeline import refine
from lite3r_cli.refine.refine_config import RefineConfig
from lite3r_cli.scene.distortion import DistortedCamera
from lite3r_cli.scene.posed_view import View

QUALITY = 97  # of the JPEGs


def distorted_camera(view: View, k1: float) -> DistortedCamera:
    """A SIMPLE_RADIAL camera of the picture's size that sees only what the undistorted view does, as wide as it can."""
    focal = float(np.sqrt(view.K[0, 0] * view.K[1, 1]))
    x, y = np.linspace(0, view.width, 64), np.linspace(0, view.height, 64)
    border = np.concatenate([np.stack([x, x * 0 + end], 1) for end in (0, view.height)]
                            + [np.stack([y * 0 + end, y], 1) for end in (0, view.width)])  # fmt: skip

    def inside(grown: float) -> bool:
        camera = DistortedCamera(
            "SIMPLE_RADIAL", (focal * grown, view.width / 2, view.height / 2, k1), view.width, view.height
        )
        rays = camera.rays(border)
        pixel = rays[:, :2] / rays[:, 2:] * [view.K[0, 0], view.K[1, 1]] + view.K[:2, 2]
        return bool((pixel >= -1e-6).all() and (pixel <= np.array([view.width, view.height]) + 1e-6).all())

    low, high = 0.7, 2.0
    while high - low > 1e-4:
        low, high = (low, (low + high) / 2) if inside((low + high) / 2) else ((low + high) / 2, high)
    return DistortedCamera(
        "SIMPLE_RADIAL", (focal * high, view.width / 2, view.height / 2, k1), view.width, view.height
    )


def through(rgb: np.ndarray, view: View, camera: DistortedCamera) -> np.ndarray:
    """The picture that `camera` takes where `view` was taken, out of the view's."""
    u, v = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    rays = camera.rays(np.stack([u, v], axis=-1).reshape(-1, 2))
    pixel = (rays[:, :2] / rays[:, 2:] * [view.K[0, 0], view.K[1, 1]] + view.K[:2, 2] - 0.5).astype(np.float32)
    x, y = (np.ascontiguousarray(p.reshape(u.shape)) for p in pixel.T)
    return cv2.remap(rgb, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def make_set(scene: Path, k1: float, target: Path) -> list[View]:
    """The scene seen through lenses with k1, in `target`; views whose `lens` is the truth."""
    truth = []
    (target / "images").mkdir(parents=True)
    for view in read_cameras_json(scene, load_depth=False):
        camera = distorted_camera(view, k1)
        rgb = cv2.imread(str(scene / "images" / view.name))
        name = Path(view.name).with_suffix(".jpg").name
        cv2.imwrite(str(target / "images" / name), through(rgb, view, camera), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        K = np.array([[camera.params[0], 0, camera.params[1]], [0, camera.params[0], camera.params[2]], [0, 0, 1]])
        truth.append(replace(view, name=name, K=K, lens=camera))
    # without the lens: nothing may know it but the comparison
    write_cameras_json(target / "cameras.json", [replace(view, lens=None) for view in truth])
    return truth


def focal_error(found: list[tuple[float, float]], truth: list[View]) -> float:
    """Median relative error of the focal lengths."""
    true = np.array([view.lens.params[0] for view in truth])
    return float(np.median(np.abs(np.sqrt(np.prod(found, axis=1)) / true - 1)))


def ours(predictor: Predictor, folder: Path, truth: list[View]) -> dict[str, object]:
    scene = open_scene(folder)
    start = time.perf_counter()
    pictures = predictor.read(scene.images, indices=scene.indices)
    views = predictor.predict_pictures(scene.images, pictures).views
    config = RefineConfig(depth=False, camera_model=predictor.config.camera_model)
    answer = refine(views, lambda i: scene.images.read(scene.indices[i]), config=config)
    seconds = time.perf_counter() - start
    of = {view.name: view for view in answer.views}
    views = [of[view.name] for view in truth]
    found = [view.lens.focal if view.lens else (view.K[0, 0], view.K[1, 1]) for view in views]
    lens = views[0].lens
    return {
        "seconds": round(seconds, 1),
        "auc5": auc5({i: view.cam_from_world for i, view in enumerate(views)}, truth),
        "focal_error": focal_error(found, truth),
        "model": "pinhole" if lens is None else lens.model,
        "distortion": [] if lens is None else [round(k, 4) for k in lens.coefficients],
        "refined": sum(verdict["cameras"] != "kept" for verdict in answer.verdicts),
    }


@quiet_pycolmap()
def colmap_alone(folder: Path, truth: list[View], model: str) -> dict[str, object]:
    pycolmap = require_pycolmap()
    with tempfile.TemporaryDirectory() as work:
        database, start = Path(work) / "db", time.perf_counter()
        reader = pycolmap.ImageReaderOptions(camera_model=model)
        mode = pycolmap.CameraMode.SINGLE
        pycolmap.extract_features(database, folder / "images", camera_mode=mode, reader_options=reader)
        pycolmap.match_exhaustive(database)
        models = pycolmap.incremental_mapping(database, folder / "images", work)
        seconds = time.perf_counter() - start
    if not models:
        return {"seconds": round(seconds, 1), "auc5": 0.0, "focal_error": None, "model": model, "distortion": []}
    best = max(models.values(), key=lambda found: found.num_reg_images())
    number = {view.name: i for i, view in enumerate(truth)}
    poses = {number[image.name]: image.cam_from_world().matrix() for image in best.images.values() if image.has_pose}
    camera = next(iter(best.cameras.values()))
    focal = camera.mean_focal_length()
    return {
        "seconds": round(seconds, 1), "auc5": auc5(poses, truth),
        "focal_error": focal_error([(focal, focal)] * len(truth), truth),
        "model": model, "distortion": [round(float(k), 4) for k in camera.params[3:]],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenes", type=Path, nargs="+")
    parser.add_argument("--k1", type=float, nargs="+", default=(0.0, -0.02, -0.05, -0.12))
    parser.add_argument("--camera-model", default="auto")
    parser.add_argument("--methods", nargs="+", choices=("pycolmap", "refine"), default=("pycolmap", "refine"))
    parser.add_argument("--model", default="mini")
    arguments = parser.parse_args()
    predictor = Predictor(
        PredictConfig(arguments.model, device="cpu", refine=True, camera_model=arguments.camera_model)
    )
    results: dict[str, dict] = {}
    print(f"{'scene':14}{'k1':>7}  {'method':10}{'AUC@5':>7}{'focal':>8}  model, distortion")
    for scene in arguments.scenes:
        for k1 in arguments.k1:
            with tempfile.TemporaryDirectory() as folder:
                truth = make_set(scene, k1, Path(folder) / "set")
                rows = {}
                if "pycolmap" in arguments.methods:
                    rows["pycolmap"] = colmap_alone(Path(folder) / "set", truth, "SIMPLE_RADIAL")
                if "refine" in arguments.methods:
                    rows["refine"] = ours(predictor, Path(folder) / "set", truth)
            results.setdefault(scene.name, {})[str(k1)] = rows
            for method, row in rows.items():
                focal = "–" if row["focal_error"] is None else f"{100 * row['focal_error']:.2f} %"
                print(
                    f"{scene.name:14}{k1:7.2f}  {method:10}{row['auc5']:7.3f}{focal:>8}  {row['model']}",
                    row["distortion"],
                    flush=True,
                )
    summary = {
        "benchmark": "refine_lenses",
        "camera_model": arguments.camera_model,
        "python": platform.python_version(),
    }
    print(json.dumps({**summary, "load_1min": round(os.getloadavg()[0], 1), "scenes": results}))


if __name__ == "__main__":
    main()
