"""What limits the cameras of `mini`: rotations, positions or focal lengths, and whether the rays that it predicts in
training give better cameras than its decoder.

    python benchmarks/camera_errors.py SCENE… [--model mini] [--views 4] [--device cuda] [--json FILE]

SCENE is a folder with images/ and cameras.json; windows and means are those of `mini_accuracy.py`. Per kind of cameras:
AUC@5 and AUC@30 of pairs, AUC@5 of their rotations and of their directions alone, focal length in per cent.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from mini_sets import read_scene
from torch import Tensor

from lite3r_cli.layers.buckets import trunk_precision
from lite3r_cli.networks import registry
from lite3r_cli.networks.mini.network import Mini, cam_from_world
from lite3r_cli.pipelines.evaluate_scenes import windows
from lite3r_cli.scene import metrics
from lite3r_cli.scene.geometry import scale_intrinsics
from lite3r_cli.scene.posed_view import View

MEASURES = ("auc5", "auc30", "auc5_rotation", "auc5_direction", "focal_pct")
NO_BASELINE = 1e-6  # a true distance without a direction, scene units

Cameras = tuple[Tensor, Tensor, Tensor]  # world_from_cam rotations (S, 3, 3), centres (S, 3), log focal lengths (S,)


@torch.inference_mode()
def predicted(network: Mini, images: Tensor) -> tuple[Cameras, Cameras]:
    """The cameras of images (S, 3, H, W) from the decoder, and those fitted to the rays by least squares."""
    device = next(network.parameters()).device
    with trunk_precision(device, torch.bfloat16):
        out = network(images[None].to(device), decoded=torch.zeros(1, dtype=torch.long, device=device), rays=True)
    assert out.rays is not None
    decoder = (out.rotation[0].cpu(), out.centre[0].cpu(), out.log_focal[0].cpu())
    return decoder, from_rays(out.rays[0].float().cpu(), images.shape[-2:], network.patch_size)


def from_rays(rays: Tensor, size: torch.Size, patch: int) -> Cameras:
    """Rays (S, h, w, 6) of a pinhole camera with square pixels and a central principal point: d = R · diag(1/f, 1/f, 1)
    · p is linear in the image points p; the centre is the mean of all.
    """
    half = 0.5 * (size[0] ** 2 + size[1] ** 2) ** 0.5
    y, x = ((torch.arange(n) + 0.5) * patch - side / 2 for n, side in zip(rays.shape[1:3], size))
    y, x = torch.meshgrid(y / half, x / half, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)], -1).flatten(0, 1).double().expand(len(rays), -1, -1)
    fitted = torch.linalg.lstsq(points, rays[..., :3].flatten(1, 2).double()).solution.transpose(1, 2)
    length = fitted.norm(dim=1)  # (S, 3) of the columns
    log_focal = (length[:, 2] / length[:, :2].mean(1)).log()
    return nearest_rotation(fitted / length[:, None]).float(), rays[..., 3:].mean((1, 2)), log_focal.float()


def nearest_rotation(matrices: Tensor) -> Tensor:
    """The rotations (S, 3, 3) nearest to matrices."""
    U, _, V = torch.linalg.svd(matrices)
    U[..., 2] = U[..., 2] * torch.det(U @ V)[:, None]
    return U @ V


def kinds(network: Mini, images: Tensor, truth: Cameras) -> dict[str, Cameras]:
    """All kinds of cameras for a window."""
    decoder, rays = predicted(network, images)
    return {
        "decoder": decoder,
        "rays": rays,
        "mean of both": (
            nearest_rotation(decoder[0] + rays[0]),
            (decoder[1] + rays[1]) / 2,
            (decoder[2] + rays[2]) / 2,
        ),
        "decoder, true rotations": (truth[0], *decoder[1:]),
        "decoder, true positions": (decoder[0], truth[1], decoder[2]),
    }


def true_cameras(views: list[View], full: tuple[int, int]) -> Cameras:
    """Those of a window in the frame of its first view."""
    pose = torch.from_numpy(np.stack([view.cam_from_world for view in views])).float()
    R, t = pose[..., :3], pose[..., 3:]
    centre = R[0] @ (-R.transpose(1, 2) @ t) + t[0]
    K = np.stack([scale_intrinsics(view.K, full[1] / view.width, full[0] / view.height) for view in views])
    focal = np.sqrt(K[:, 0, 0] * K[:, 1, 1]) / (0.5 * np.hypot(*full))
    return R[0] @ R.transpose(1, 2), centre[..., 0], torch.from_numpy(np.log(focal)).float()


def scene_measures(network: Mini, folder: Path, views: int) -> dict[str, list[float]]:
    """Kind of cameras → MEASURES of a scene; pairs and views of all its windows count alike."""
    scene = read_scene(folder)
    found: dict[str, list[tuple[np.ndarray, ...]]] = {}
    for part in windows(len(scene.truth), views):
        inputs = [scene.inputs[i] for i in part]
        images = torch.from_numpy(np.stack([each.rgb for each in inputs])).permute(0, 3, 1, 2).float() / 255
        truth = true_cameras([scene.truth[i] for i in part], inputs[0].full)
        poses = cam_from_world(truth[0], truth[1]).numpy()
        for kind, (rotation, centre, log_focal) in kinds(network, images, truth).items():
            errors = metrics.pair_errors(cam_from_world(rotation, centre).numpy(), poses, NO_BASELINE)
            focal = 100 * ((log_focal - truth[2]).exp() - 1).abs().numpy()
            found.setdefault(kind, []).append((errors.larger, errors.rotation, errors.translation, focal))
    return {kind: measures(*map(np.concatenate, zip(*parts))) for kind, parts in found.items()}


def measures(larger: np.ndarray, rotation: np.ndarray, direction: np.ndarray, focal: np.ndarray) -> list[float]:
    """MEASURES of errors of pairs in degrees, and of focal lengths in per cent."""
    known = direction[~np.isnan(direction)]
    return [*(metrics.auc(larger, at) for at in (5, 30)), *(metrics.auc(e, 5) for e in (rotation, known)),
            float(np.median(focal))]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenes", nargs="+", type=Path)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    o = parser.parse_args()
    network = registry.load(o.model, device=o.device)
    assert isinstance(network, Mini)
    rows = {folder.name: scene_measures(network, folder, o.views) for folder in o.scenes}
    means = {kind: np.mean([row[kind] for row in rows.values()], axis=0) for kind in next(iter(rows.values()))}
    print("| | " + " | ".join(MEASURES) + " |\n" + "|---" * (len(MEASURES) + 1) + "|")
    for kind, values in means.items():
        print(f"| {kind} | " + " | ".join(f"{value:.3f}" for value in values) + " |")
    if o.json is not None:
        mean = {kind: dict(zip(MEASURES, values.round(4).tolist())) for kind, values in means.items()}
        report = {"model": o.model, "views": o.views, "device": o.device, "scenes": list(rows), "mean": mean}
        o.json.write_text(json.dumps(report) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
