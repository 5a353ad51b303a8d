"""Measures the effect of masks on a reconstruction: a foreign object is pasted into a scene, and masked.

    python benchmarks/masked_keys.py [SCENE…] [--model mini] [--json FILE]

SCENE is a folder with images/, cameras.json and depth/ of every view (default: sample_scenes/facade). A picture of
another scene, cut to an ellipse, is pasted into every view at another place. Compared are

    absent      the pictures without the object
    seen        with the object, no mask
    black       its pixels black, all patches are keys of attention
    plain       its pixels the picture's mean colour, all patches are keys
    left out    plain, and patches that lie in it as a whole are no keys (what `--masks` does)
    left, black and left, seen: as left out, with black or with the object's own pixels

by AUC@5 of the poses, focal length, AbsRel of the depth outside the object (one scale for the scene, the same pixels
for all), and points of the cloud that, in some view, lie at the object's place and before the scene.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import torch

from lite3r_cli.config import FusionConfig, PredictConfig
from lite3r_cli.io.cameras_json import read_cameras_json
from lite3r_cli.io.images import discover
from lite3r_cli.pipelines import planned, predict
from lite3r_cli.scene import geometry
from lite3r_cli.scene.fusion import fuse_with_statistics
from lite3r_cli.scene.metrics import auc, depth_errors, focal_error, pair_errors, resample_depth

ROOT = Path(__file__).resolve().parents[1]
NEARER = 0.9  # of the scene's depth: a point there is none of the scene's


def object_masks(count: int, height: int, width: int, share: float, seed: int) -> list[np.ndarray]:
    """Per view an upright ellipse (H, W) bool that covers `share` of the picture, at a random place."""
    rng = np.random.default_rng(seed)
    across = np.sqrt(share * height * width / np.pi / 2)  # half axes in the ratio of 1 to 2
    v, u = np.mgrid[:height, :width]
    masks = []
    for _ in range(count):
        x, y = rng.uniform(across, width - across), rng.uniform(0.45, 0.75) * height
        masks.append(((u - x) / across) ** 2 + ((v - y) / (2 * across)) ** 2 < 1)
    return masks


def run(folder: Path, masks: Path | None, config: PredictConfig, network: Callable | None = None, keys: bool = True):
    """Predictions for a folder; `keys`: masked patches are none."""
    images = discover([folder], masks=masks)
    predictor = predict.Predictor(config)
    with ExitStack() as stack:
        if not keys:
            stack.enter_context(mock.patch.object(planned.PlannedNetwork, "_masked", lambda self, unseen: None))
        if network is not None:
            stack.enter_context(mock.patch.object(predict, "shown_to_network", network))
        found = predictor.predict(images)
    cloud, _ = fuse_with_statistics(
        found.views,
        lambda j: images.read(found.indices[j]),
        lambda j: images.read_mask(found.indices[j]),
        FusionConfig(),
    )
    return found.views, cloud


def black(item) -> np.ndarray:
    return item.rgb if item.masked is None else np.where(item.masked[..., None], np.uint8(0), item.rgb)


def scores(views, cloud, truth, masks: list[np.ndarray]) -> dict[str, float]:
    poses = np.stack([view.cam_from_world for view in views])
    true_poses = np.stack([view.cam_from_world for view in truth])
    centres = geometry.camera_centres(true_poses)
    baseline = 0.01 * float(np.linalg.norm(centres - centres[0], axis=1).max())
    errors = pair_errors(poses, true_poses, baseline).larger
    focal = focal_error(np.stack([v.K for v in views]), np.stack([v.K for v in truth])).mean()
    predicted, known = [], []
    for view, true, mask in zip(views, truth, masks, strict=True):
        depth = resample_depth(view.depth, true.depth.shape)
        outside = ~cv2.resize(mask.astype(np.uint8), true.depth.shape[::-1], interpolation=cv2.INTER_NEAREST).astype(
            bool
        )
        outside &= true.depth > 0
        predicted.append(depth[outside])
        known.append(true.depth[outside])
    p, t = np.concatenate(predicted), np.concatenate(known)
    both = p > 0
    scale = np.median(t[both] / p[both])
    absrel, _ = depth_errors(np.where(both, p * scale, 0), t)
    ghosts = sum(_nearer(cloud.points, *each, scale) for each in zip(views, truth, masks))
    return {
        "auc5": auc(errors, 5),
        "auc15": auc(errors, 15),
        "focal_pct": float(focal),
        "absrel": float(absrel),
        "points": len(cloud),
        "ghosts": ghosts,
    }


def _nearer(points: np.ndarray, view, true, mask: np.ndarray, scale: float) -> int:
    """Points that lie before the scene where `view` has the object."""
    pixel, z = geometry.project(points, view.K, view.cam_from_world)
    z = z * scale
    with np.errstate(invalid="ignore"):
        column, row = np.floor(pixel).T
    ok = (z > 0) & (row >= 0) & (row < view.height) & (column >= 0) & (column < view.width)
    row, column, z = row[ok].astype(int), column[ok].astype(int), z[ok]
    there = mask[row, column]
    h, w = true.depth.shape
    depth = true.depth[row[there] * h // view.height, column[there] * w // view.width]
    return int(((depth > 0) & (z[there] < NEARER * depth)).sum())


def measure(scene: Path, config: PredictConfig, share: float, seed: int) -> dict[str, dict[str, float]]:
    truth = read_cameras_json(scene)
    files = sorted((scene / "images").iterdir())
    truth = [next(v for v in truth if v.name == f.name) for f in files]
    height, width = cv2.imread(str(files[0])).shape[:2]
    objects = object_masks(len(files), height, width, share, seed)
    other = ROOT / "sample_scenes" / ("desk" if scene.name != "desk" else "facade") / "images"
    thing = cv2.resize(cv2.imread(str(sorted(other.iterdir())[0])), (width, height))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for part in ("with", "masks", "without"):
            (folder / part).mkdir()
        for file, mask in zip(files, objects, strict=True):
            picture = cv2.imread(str(file))
            cv2.imwrite(str(folder / "without" / f"{file.stem}.png"), picture)
            y, x = (int(places.mean()) for places in mask.nonzero())
            moved = np.roll(thing, (y - height // 2, x - width // 2), (0, 1))  # the same thing at another place
            cv2.imwrite(str(folder / "with" / f"{file.stem}.png"), np.where(mask[..., None], moved, picture))
            cv2.imwrite(str(folder / "masks" / f"{file.stem}.png"), np.where(mask, 0, 255).astype(np.uint8))
        pasted, masks = folder / "with", folder / "masks"
        found = {
            "absent": run(folder / "without", None, config),
            "seen": run(pasted, None, config),
            "black": run(pasted, masks, config, black, keys=False),
            "plain": run(pasted, masks, config, keys=False),
            "left out": run(pasted, masks, config),
            "left, black": run(pasted, masks, config, black),
            "left, seen": run(pasted, masks, config, lambda item: item.rgb),
        }
    return {name: scores(*result, truth, objects) for name, result in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scenes", nargs="*", type=Path, default=[ROOT / "sample_scenes/facade"])
    parser.add_argument("--model", default="mini")
    parser.add_argument("--resolution", type=int, help="longest side in the network")
    parser.add_argument("--share", type=float, default=0.12, help="of a picture that the object covers")
    parser.add_argument("--seeds", type=int, default=3, help="places of the object")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    config = PredictConfig(arguments.model, resolution=arguments.resolution, device="cpu")
    report: dict = {
        "torch": torch.__version__,
        "model": arguments.model,
        "share": arguments.share,
        "resolution": arguments.resolution,
        "scenes": {},
    }
    for scene in arguments.scenes:
        rows = [measure(scene, config, arguments.share, seed) for seed in range(arguments.seeds)]
        means = {name: {k: float(np.mean([r[name][k] for r in rows])) for k in rows[0][name]} for name in rows[0]}
        report["scenes"][scene.name] = {"mean": means, "seeds": rows}
        print(f"\n| {scene.name} | AUC@5 | AUC@15 | focal % | AbsRel | points | before the scene |")
        print("|---" * 7 + "|")
        for name, row in means.items():
            values = (f"{row[k]:.3f}" for k in ("auc5", "auc15", "focal_pct", "absrel"))
            print(f"| {name} | {' | '.join(values)} | {row['points']:.0f} | {row['ghosts']:.0f} |", flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
