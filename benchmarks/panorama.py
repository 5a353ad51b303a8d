"""360° pictures: cameras of sets that the ray caster draws, cut into views, from the network and with `--refine`; and
pictures of 2:1 that are no whole spheres, of which none may be cut.

A set is a procedural scene and a path through it; each picture is turned by up to 30° from its path. AUC@5 is that of
the 360° pictures. `--wide` names sets of photographs (folders with images/), the middle of which is cropped to 2:1. A
table, then one JSON line.

    python benchmarks/panorama.py [--pictures 12 --width 1024 --seeds 1 2 --kinds room street] [--wide SET...]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from refine import auc5

from lite3r_cli.config import InputConfig, PredictConfig
from lite3r_cli.console import Progress
from lite3r_cli.data.procedural import raycast_torch as caster
from lite3r_cli.data.procedural.camera_placement import CameraConfig
from lite3r_cli.data.procedural.ray_render import develop
from lite3r_cli.data.procedural.sampling import SceneConfig
from lite3r_cli.data.procedural.scene import pack_rows, unpack_scenes
from lite3r_cli.data.procedural.scene_batches import sample_posed
from lite3r_cli.data.procedural.shade_torch import hash32, shade, sky
from lite3r_cli.data.procedural.textures import Atlas, build_atlas
from lite3r_cli.io.images import discover
from lite3r_cli.pipelines.finding import find_images
from lite3r_cli.pipelines.predict import Predictor
from lite3r_cli.refine.pipeline import refine
from lite3r_cli.refine.refine_config import RefineConfig
from lite3r_cli.scene.facing import rigs_of
from lite3r_cli.scene.posed_view import View
from lite3r_cli.world.panorama import closes


def sphere(height: int, offset: tuple[float, float]) -> torch.Tensor:
    """Unit directions (H · 2 H, 3) of an equirectangular picture: +x right, +y down, +z its middle."""
    row = (torch.arange(height) + 0.5 + offset[1]) / height * math.pi - math.pi / 2
    column = (torch.arange(2 * height) + 0.5 + offset[0]) / (2 * height) * 2 * math.pi - math.pi
    down, right = torch.meshgrid(row, column, indexing="ij")
    return torch.stack([down.cos() * right.sin(), down.sin(), down.cos() * right.cos()], -1).reshape(-1, 3)


def draw(scenes, atlas: Atlas, poses: np.ndarray, height: int, samples: int, seed: int) -> np.ndarray:
    """The equirectangular pictures (S, H, 2 H, 3) uint8 of one packed scene at cam_from_world `poses` (S, 3, 4)."""
    scale = 2 * math.pi / (2 * height) * 2 ** (-0.25 * (samples - 1) ** 0.5)
    view = caster.View(
        scenes.geometry[0, : int(scenes.counts[0])], scenes.material[0], scenes.environment[0], atlas.texels, scale
    )
    linear = []
    for i, pose in enumerate(torch.from_numpy(poses).float()):
        total, centre = torch.zeros(()), -(pose[:, :3].T @ pose[:, 3])
        seeds = caster.pixel_seeds(seed, i, height, 2 * height, torch.device("cpu"))
        for k in range(samples):
            d = sphere(height, caster.OFFSETS[k & 7]) @ pose[:, :3]
            o = centre.expand_as(d)
            t, index, part = caster.nearest(view, o, d)
            color = sky(view, d)
            hit = (index >= 0).nonzero()[:, 0]
            mixed = hash32((seeds[hit] + 64 * k) & 0xFFFFFFFF)
            color[hit] = shade(view, o[hit], d[hit], t[hit], index[hit], part[hit], mixed)
            total = total + color
        linear.append((total / samples).T.reshape(3, height, 2 * height))
    shown = develop(torch.stack(linear)[None], scenes.environment[:, 65])[0]
    return np.round(shown.permute(0, 2, 3, 1).numpy() * 255).astype(np.uint8)


def make_set(folder: Path, kind: str, seed: int, pictures: int, width: int, samples: int, atlas: Atlas) -> np.ndarray:
    """Pictures of one scene in `folder`; their cam_from_world (S, 3, 4)."""
    rng = np.random.default_rng(seed)
    scenes = SceneConfig(atlas.catalog, weights={kind: 1.0})
    scene, _, poses = sample_posed(rng, scenes, CameraConfig(shuffled=0.0, rolled=0.0), pictures, 256, 256)
    poses = poses.astype(np.float64)
    for pose in poses:
        pose[:] = cv2.Rodrigues(np.radians([0, rng.uniform(-30, 30), 0]))[0] @ pose
    packed = unpack_scenes(torch.from_numpy(pack_rows([scene])))
    for i, rgb in enumerate(draw(packed, atlas, poses, width // 2, samples, seed)):
        cv2.imwrite(str(folder / f"{i:03d}.jpg"), rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    return poses


def judge(predictor: Predictor, folder: Path, poses: np.ndarray) -> dict[str, object]:
    truth = [View(f"{i:03d}.jpg", 1, 1, np.eye(3), pose) for i, pose in enumerate(poses)]
    images = find_images(InputConfig((folder,)), Progress(), print, "mini")
    start = time.perf_counter()
    pictures = predictor.read(images)
    views = predictor.predict_pictures(images, pictures).views
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
        "refined_views": sum(verdict["cameras"] != "kept" for verdict in answer.verdicts),
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
    parser.add_argument("--wide", type=Path, nargs="*", default=[])
    parser.add_argument("--model", default="mini")
    options = parser.parse_args()
    wide = wide_pictures(options.wide)
    print(f"{wide['pictures']} wide pictures, {wide['taken_for_spheres']} taken for spheres", flush=True)
    atlas, rows = build_atlas(None), []
    predictor = Predictor(PredictConfig(options.model, device="cpu", refine=True)) if options.kinds else None
    for kind in options.kinds:
        for seed in options.seeds:
            with tempfile.TemporaryDirectory() as scratch:
                poses = make_set(
                    Path(scratch), kind, seed, options.pictures, options.width, options.samples, atlas
                )  # fmt: skip
                assert predictor is not None
                rows.append({"kind": kind, "seed": seed, **judge(predictor, Path(scratch), poses)})
            print(
                "  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items()),
                flush=True,
            )
    machine = {"load_1min": round(os.getloadavg()[0], 1), "cores": os.cpu_count()}
    print(json.dumps({"benchmark": "panorama", "pictures": options.pictures, "width": options.width, **machine,
                      "sets": rows, "wide": wide}))  # fmt: skip


if __name__ == "__main__":
    main()
