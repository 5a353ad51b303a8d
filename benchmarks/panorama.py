"""360° images: cameras of drawn sets that are split into views, from the network and with `--refine`; and 2:1 images
that are not 360° and must not be split.

A set is a procedural scene and a path through it; each picture is turned by up to 30° from its path. AUC@5 is that of
the 360° pictures. `--keep` names a folder for what was drawn and predicted: a run that was stopped goes on from there.
`--wide` names sets of photographs (folders with images/), the middle of which is cropped to 2:1. A table, then one JSON
line.

    python benchmarks/panorama.py [--pictures 12 --width 1024 --seeds 1 2 --kinds room street] [--keep DIR]
                                  [--wide SET...]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pickle
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from refine import auc5
from walk_scenes import caster

from lite3r_cli.config import InputConfig, PredictConfig
from lite3r_cli.console import Progress
from lite3r_cli.data.procedural.camera_placement import CameraConfig
from lite3r_cli.data.procedural.ray_render import develop
from lite3r_cli.data.procedural.sampling import SceneConfig
from lite3r_cli.data.procedural.scene import pack_rows, unpack_scenes
from lite3r_cli.data.procedural.scene_batches import sample_posed
from lite3r_cli.data.procedural.textures import Atlas, build_atlas
from lite3r_cli.io.images import discover
from lite3r_cli.pipelines.finding import find_images
from lite3r_cli.pipelines.predict import Predictor
from lite3r_cli.refine.pipeline import refine
from lite3r_cli.refine.refine_config import RefineConfig
from lite3r_cli.scene.facing import rigs_of
from lite3r_cli.scene.posed_view import View
from lite3r_cli.world.panorama import closes

FACE_MARGIN = 8  # pixels of a face beyond 90°, so that seams are interpolated within one face


def sphere(height: int) -> np.ndarray:
    """Unit directions (H, 2 H, 3) of an equirectangular picture: +x right, +y down, +z its middle."""
    row = (np.arange(height) + 0.5) / height * math.pi - math.pi / 2
    column = (np.arange(2 * height) + 0.5) / (2 * height) * 2 * math.pi - math.pi
    down, right = np.meshgrid(row, column, indexing="ij")
    return np.stack([np.cos(down) * np.sin(right), np.sin(down), np.cos(down) * np.cos(right)], -1)


def face_turns() -> list[np.ndarray]:
    """face_from_picture (3, 3) of the six faces of a cube: four around, then up and down."""
    around = [cv2.Rodrigues(np.array([0.0, -math.pi / 2 * k, 0.0]))[0] for k in range(4)]
    return [*around, *(cv2.Rodrigues(np.array([sign * math.pi / 2, 0.0, 0.0]))[0] for sign in (-1, 1))]


def draw(scenes, atlas: Atlas, poses: np.ndarray, height: int, samples: int, seed: int) -> np.ndarray:
    """The equirectangular pictures (S, H, 2 H, 3) uint8 of one packed scene at cam_from_world `poses` (S, 3, 4), out of
    the faces of cubes that are a little wider than 90° and have as many pixels an angle."""
    side = FACE_MARGIN + height
    focal = height / 2  # pixels a radian in the middle of a face; the picture itself has height / π
    K = np.array([[focal, 0, side / 2], [0, focal, side / 2], [0, 0, 1]])
    turns, rays, cast = face_turns(), sphere(height), caster("cpu")
    nearest = np.argmax([(rays @ turn.T)[..., 2] for turn in turns], axis=0)
    linear = []
    for i, pose in enumerate(poses):
        rows = [np.concatenate([K.ravel(), (turn @ pose).ravel()]) for turn in turns]
        cameras = torch.from_numpy(np.stack(rows).astype(np.float32))[None].contiguous()
        bias = -0.25 * (samples - 1) ** 0.5
        faces, _ = cast(scenes, atlas.texels, cameras, side, side, samples, bias, seed + i)
        seen = np.zeros((height, 2 * height, 3), np.float32)
        for k, turn in enumerate(turns):
            face = np.ascontiguousarray(faces[0, k].permute(1, 2, 0).numpy())
            at = rays @ turn.T
            pixel = (focal * at[..., :2] / np.maximum(at[..., 2:], 1e-6) + side / 2 - 0.5).astype(np.float32)
            mapped = cv2.remap(face, pixel[..., 0], pixel[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            seen[nearest == k] = mapped[nearest == k]
        linear.append(torch.from_numpy(seen).permute(2, 0, 1))
    shown = develop(torch.stack(linear)[None], scenes.environment[:, 65])[0]
    return np.round(shown.permute(0, 2, 3, 1).numpy() * 255).astype(np.uint8)


def make_set(folder: Path, kind: str, seed: int, pictures: int, width: int, samples: int) -> np.ndarray:
    """Pictures of one scene in `folder`; their cam_from_world (S, 3, 4)."""
    if (folder / "poses.npy").is_file():
        return np.load(folder / "poses.npy")
    folder.mkdir(parents=True, exist_ok=True)
    atlas = build_atlas(None)
    rng = np.random.default_rng(seed)
    scenes = SceneConfig(atlas.catalog, weights={kind: 1.0})
    scene, _, poses = sample_posed(rng, scenes, CameraConfig(shuffled=0.0, rolled=0.0), pictures, 256, 256)
    poses = poses.astype(np.float64)
    for pose in poses:
        pose[:] = cv2.Rodrigues(np.radians([0, rng.uniform(-30, 30), 0]))[0] @ pose
    packed = unpack_scenes(torch.from_numpy(pack_rows([scene])))
    for i, rgb in enumerate(draw(packed, atlas, poses, width // 2, samples, seed)):
        cv2.imwrite(str(folder / f"{i:03d}.jpg"), rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    np.save(folder / "poses.npy", poses)
    return poses


def judge(predictor: Predictor, folder: Path, poses: np.ndarray) -> dict[str, object]:
    truth = [View(f"{i:03d}.jpg", 1, 1, np.eye(3), pose) for i, pose in enumerate(poses)]
    images = find_images(InputConfig((folder,)), Progress(), print, "mini")
    start, kept = time.perf_counter(), folder / "views.pickle"
    pictures = predictor.read(images)
    if kept.is_file():
        views = pickle.loads(kept.read_bytes())
    else:
        views = predictor.predict_pictures(images, pictures).views
        kept.write_bytes(pickle.dumps(views))
    predicted = time.perf_counter()
    config = RefineConfig(depth=False, fixed_focal=tuple(range(len(views))))
    answer = refine(views, lambda i: images.read(pictures.indices[i]), config=config)
    seconds = time.perf_counter() - predicted
    rows = {}
    for name, found in (("network", views), ("refine", answer.views)):
        first = {v.facing.picture: v.cam_from_world for v in found if v.facing is not None and v.facing.number == 0}
        rows[name] = auc5({i: first[view.name] for i, view in enumerate(truth) if view.name in first}, truth)
    return {
        "views": len(views),
        "cut": len(rigs_of([view.facing for view in views])),
        "auc5_network": rows["network"],
        "auc5_refine": rows["refine"],
        "refined_views": sum(verdict["cameras"] == "refined" for verdict in answer.verdicts),
        "rotation_views": sum(verdict["cameras"] == "rotation" for verdict in answer.verdicts),
        "path": (answer.account or {}).get("path"),
        "seconds_network": round(predicted - start, 1),
        "seconds_cameras": round(seconds, 1),
    }


def wide_pictures(folders: list[Path]) -> dict[str, int]:
    """How many pictures of 2:1 were cropped out of photographs, and how many of them look like whole spheres."""
    count = wrong = 0
    for folder in folders:
        images = discover([folder / "images"])
        for i in range(len(images)):
            rgb = images.read(i)
            width = min(rgb.shape[1], 2 * rgb.shape[0])
            top = (rgb.shape[0] - width // 2) // 2
            count += 1
            wrong += closes(rgb[top : top + width // 2, :width])
    return {"pictures": count, "taken_for_spheres": wrong}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=12)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--kinds", nargs="*", default=["room", "street"])
    parser.add_argument("--keep", type=Path, help="folder for what was drawn and predicted")
    parser.add_argument("--wide", type=Path, nargs="*", default=[])
    parser.add_argument("--model", default="mini")
    parser.add_argument("--device", default="cpu", help="of the network")
    options = parser.parse_args()
    wide = wide_pictures(options.wide)
    print(f"{wide['pictures']} wide pictures, {wide['taken_for_spheres']} taken for spheres", flush=True)
    rows: list[dict[str, object]] = []
    predictor = Predictor(PredictConfig(options.model, device=options.device, refine=True)) if options.kinds else None
    for kind in options.kinds:
        for seed in options.seeds:
            with tempfile.TemporaryDirectory() as scratch:
                folder = (options.keep or Path(scratch)) / f"{kind}-{seed}-{options.pictures}-{options.width}"
                poses = make_set(folder, kind, seed, options.pictures, options.width, options.samples)
                assert predictor is not None
                rows.append({"kind": kind, "seed": seed, **judge(predictor, folder, poses)})
            print(
                "  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items()),
                flush=True,
            )
    machine = {"load_1min": round(os.getloadavg()[0], 1), "cores": os.cpu_count()}
    print(json.dumps({"benchmark": "panorama", "pictures": options.pictures, "width": options.width, **machine,
                      "sets": rows, "wide": wide}))  # fmt: skip


if __name__ == "__main__":
    main()
