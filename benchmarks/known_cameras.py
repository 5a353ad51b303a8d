"""Measures the effect of known values: focal lengths from EXIF, cameras with fx ≠ fy, cameras of some images.

exif: the first pictures of a scene, with and without EXIF that says their focal length as a camera does, to 0.1 mm on a
sensor 22.3 mm wide; the median error of K, and AUC@5. squeezed: pictures made 3 % wider, so that fx ≠ fy, with their
true cameras; the median reprojection error of the triangulated points, in pixels of the picture. partly: the true
cameras of the first, third, … picture are given, at most five; how far the others are from theirs in the given frame.
input: what `mini` itself predicts for the first windows of four pictures with nothing known, with focal lengths, poses,
and both: error of the focal length, AUC of the cameras, AbsRel.

A scene is a folder with images/ and cameras.json. Lines, then one JSON line.

    python benchmarks/known_cameras.py SCENE... [--only exif squeezed partly input] [--images 5] [--widths 1024 4096]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from refine import auc5

import lite3r_cli as lite3r
from lite3r_cli.config import PredictConfig
from lite3r_cli.io.cameras_json import read_cameras_json, write_cameras_json
from lite3r_cli.io.images import discover
from lite3r_cli.networks.base import KnownCameras
from lite3r_cli.pipelines.predict import Predictor
from lite3r_cli.refine.camera_refinement import triangulate
from lite3r_cli.refine.refine_config import RefineConfig
from lite3r_cli.scene import geometry, metrics
from lite3r_cli.scene.posed_view import View

SENSOR = 22.3  # mm, its width
SQUEEZE = 1.03
GIVEN = 5  # cameras at most
KINDS = ("exif", "squeezed", "partly", "input")
WINDOW = 4


def write_exif(source: Path, target: Path, view: View) -> None:
    """The picture as a JPEG that says its focal length."""
    exif = Image.Exif()
    mm = round(float(view.K[0, 0]) * SENSOR / view.width, 1)
    entries = {0x920A: mm, 0xA20E: view.width / SENSOR * 10, 0xA20F: view.width / SENSOR * 10, 0xA210: 3,
               0xA002: view.width, 0xA003: view.height}  # fmt: skip
    exif.get_ifd(0x8769).update(entries)
    Image.open(source).convert("RGB").save(target, quality=97, exif=exif)


def by_name(truth: Sequence[View], found: Sequence[View]) -> list[tuple[View, View]]:
    known = {Path(view.name).stem: view for view in truth}
    return [(known[Path(view.name).stem], view) for view in found]


def with_exif(scene: Path, count: int, device: str) -> dict[str, object]:
    truth = read_cameras_json(scene, load_depth=False)[:count]
    with tempfile.TemporaryDirectory() as folder:
        for view in truth:
            write_exif(scene / "images" / view.name, Path(folder) / f"{Path(view.name).stem}.jpg", view)
        row: dict[str, object] = {"kind": "exif", "scene": scene.name, "images": len(truth)}
        for name, focal in (("without", "network"), ("with", "auto")):
            found = lite3r.reconstruct(folder, device=device, focal=focal, keep_unrelated=True).views
            pairs = by_name(truth, found)
            row[f"focal_percent_{name}"] = 100 * float(
                np.median([abs(other.K[0, 0] / true.K[0, 0] - 1) for true, other in pairs])
            )
            row[f"auc5_{name}"] = auc5(
                {i: other.cam_from_world for i, (_, other) in enumerate(pairs)}, [true for true, _ in pairs]
            )
    return row


def squeezed(scene: Path, count: int, width: int) -> dict[str, object]:
    truth = read_cameras_json(scene, load_depth=False)[:count]
    pictures, views = [], []
    for view in truth:
        rgb = cv2.imread(str(scene / "images" / view.name))[..., ::-1]
        size = width, round(width / SQUEEZE * view.height / view.width)
        pictures.append(cv2.resize(rgb, size, interpolation=cv2.INTER_CUBIC if width > view.width else cv2.INTER_AREA))
        K = geometry.scale_intrinsics(view.K, size[0] / view.width, size[1] / view.height)
        views.append(replace(view, width=size[0], height=size[1], K=K))
    found = triangulate(views, pictures.__getitem__, None, RefineConfig())
    assert found.sparse is not None
    return {
        "kind": "squeezed", "scene": scene.name, "images": len(views), "width": width,
        "fx_over_fy": float(views[0].K[0, 0] / views[0].K[1, 1]), "points": len(found.sparse.points),
        "median_pixels": float(np.median(found.sparse.errors)),
        "median_at_features": float(np.median(found.sparse.errors)) * min(1.0, RefineConfig().feature_size / width),
    }  # fmt: skip


def partly(scene: Path, device: str) -> dict[str, object]:
    truth = read_cameras_json(scene, load_depth=False)
    given = truth[::2][:GIVEN]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cameras.json"
        write_cameras_json(file, [replace(view, depth=None) for view in given])
        found = lite3r.reconstruct(scene / "images", device=device, cameras=str(file), keep_unrelated=True)
    names = {view.name for view in given}
    centres = geometry.camera_centres(np.stack([view.cam_from_world for view in truth]))
    extent = float(np.linalg.norm(centres - centres.mean(axis=0), axis=1).max())
    turns, moves, kept = [], [], 0.0
    for true, view in by_name(truth, found.views):
        off = view.cam_from_world[:, :3] @ true.cam_from_world[:, :3].T
        turn = float(np.degrees(geometry.rotation_angle(off)))
        here, there = (geometry.camera_centres(v.cam_from_world) for v in (view, true))
        move = float(np.linalg.norm(here - there)) / extent
        if view.name in names:
            kept = max(kept, turn, move)
        else:
            turns.append(turn)
            moves.append(100 * move)
    return {
        "kind": "partly", "scene": scene.name, "images": len(truth), "given": len(given), "given_moved": kept,
        "turn_degrees": float(np.median(turns)), "centre_percent": float(np.median(moves)),
    }  # fmt: skip


def network_input(scene: Path, side: int, windows: int, device: str) -> list[dict[str, object]]:
    """One row a window and case; pictures have `side` pixels along the longer side."""
    predictor = Predictor(PredictConfig("mini", device=device, resolution=side, dtype="float32"))
    predict, seen = predictor.backbone.predict, []
    predictor.backbone.predict = lambda images: (seen.clear(), seen.extend(images), predict(images))[-1]
    views, rows = read_cameras_json(scene), []
    for window in [views[i : i + WINDOW] for i in range(0, len(views) - WINDOW + 1, WINDOW)][:windows]:
        predictor.predict(discover([scene / "images" / view.name for view in window]))
        images, K = list(seen), []  # as the network gets them
        for view, image in zip(window, images, strict=True):
            height, width = image.shape[-2:]
            K.append(geometry.scale_intrinsics(view.K, width / view.width, height / view.height))
        truth, K = np.stack([view.cam_from_world for view in window]), np.stack(K)
        every = np.arange(len(window))
        cases = {"nothing": ([], []), "focal": (every, []), "poses": ([], every), "both": (every, every)}
        for case, (focal, poses) in cases.items():
            given = KnownCameras(torch.full((len(K), 3, 4), torch.nan), torch.full((len(K), 3, 3), torch.nan))
            given.K[focal] = torch.from_numpy(K[focal]).float()
            given.cam_from_world[poses] = torch.from_numpy(geometry.rebase(truth)[poses]).float()
            found = predict(images, None if case == "nothing" else given)
            errors = metrics.pair_errors(found.cam_from_world.double().numpy(), truth, 0.0).larger
            depths = []
            for predicted, view in zip(found.depth, window):
                if view.depth is not None:
                    depth = metrics.resample_depth(predicted.cpu().numpy(), view.depth.shape)
                    scale = metrics.depth_scale(depth, view.depth)
                    depths.append(metrics.depth_errors(scale * depth, view.depth)[0])
            rows.append({
                "kind": "input", "scene": scene.name, "first": window[0].name, "case": case, "side": side,
                "focal_percent": float(metrics.focal_error(found.K.numpy(), K).mean()),
                "auc5": metrics.auc(errors, 5), "auc30": metrics.auc(errors, 30),
                "absrel": float(np.mean(depths)) if depths else None,
            })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenes", type=Path, nargs="+")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--images", type=int, default=5, help="pictures of a scene for exif and squeezed")
    parser.add_argument("--side", type=int, default=518, help="of the pictures of the kind `input`")
    parser.add_argument("--windows", type=int, default=1, help="of a scene, of the kind `input`")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--widths", type=int, nargs="+", default=[1024, 4096])
    options = parser.parse_args()
    rows: list[dict[str, object]] = []

    def say(row: dict[str, object]) -> None:
        rows.append(row)
        print("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)
        if options.json is not None:
            options.json.write_text(json.dumps({"benchmark": "known_cameras", "rows": rows}) + "\n", encoding="utf-8")

    for scene in options.scenes:
        if "exif" in options.only:
            say(with_exif(scene, options.images, options.device))
        if "squeezed" in options.only:
            for width in options.widths:
                say(squeezed(scene, options.images, width))
        if "partly" in options.only:
            say(partly(scene, options.device))
        for row in (
            network_input(scene, options.side, options.windows, options.device) if "input" in options.only else ()
        ):
            say(row)
    print(json.dumps({"benchmark": "known_cameras", "rows": rows}))


if __name__ == "__main__":
    main()
