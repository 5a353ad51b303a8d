"""Ray-cast scenes in the layouts of BlendedMVS and DTU, to try benchmarks/paper_tables.py without either data set.

    python benchmarks/raycast_sets.py DIR [--scenes 4 --views 6 --height 432 --width 576 --seed 77]

DIR/blendedmvs holds SCENE/blended_images, cams and rendered_depth_maps, DIR/dtu holds Cameras and scanN/image. All
scans of DTU share one list of cameras: each scan has pictures of its own numbers.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from lite3r_cli.data.procedural.camera_placement import CameraConfig
from lite3r_cli.data.procedural.sampling import SceneConfig
from lite3r_cli.data.procedural.scene_batches import render_batch, sample_batch
from lite3r_cli.data.procedural.textures import Atlas, build_atlas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    for name, default in (("scenes", 4), ("views", 6), ("height", 432), ("width", 576), ("seed", 77), ("samples", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    make(arguments.folder, arguments.scenes, (arguments.views, arguments.height, arguments.width), arguments.seed,
         arguments.samples)  # fmt: skip


def make(
    folder: Path, scenes: int, size: tuple[int, int, int], seed: int, samples: int = 4, atlas: Atlas | None = None
) -> None:
    """`scenes` scenes of `size` (views, height, width) in both layouts."""
    atlas = atlas or build_atlas(None)
    config = SceneConfig(atlas.catalog)
    for index in range(scenes):
        batch = sample_batch(config, CameraConfig(shuffled=0.0), (1, *size), seed, index, 0)
        images, depth, K, poses = (t[0].numpy() for t in render_batch(batch, atlas, samples=samples))
        rgb = np.round(images.transpose(0, 2, 3, 1) * 255).astype(np.uint8)
        write_blendedmvs(folder / "blendedmvs" / f"scene{index:03d}", rgb, depth, K, poses)
        write_scan(folder / "dtu", index + 1, rgb, K, poses)


def write_blendedmvs(scene: Path, rgb: np.ndarray, depth: np.ndarray, K: np.ndarray, poses: np.ndarray) -> None:
    """One scene: rgb (S, H, W, 3) uint8, depth (S, H, W), K (S, 3, 3), cam_from_world (S, 3, 4)."""
    for part in ("blended_images", "cams", "rendered_depth_maps"):
        (scene / part).mkdir(parents=True, exist_ok=True)
    for i in range(len(rgb)):
        _write_picture(scene / "blended_images" / f"{i:08d}.jpg", rgb[i])
        write_camera(scene / "cams" / f"{i:08d}_cam.txt", poses[i], K[i])
        write_pfm(scene / "rendered_depth_maps" / f"{i:08d}.pfm", depth[i])
    near = [sorted(set(range(len(rgb))) - {i}, key=lambda j, i=i: abs(i - j)) for i in range(len(rgb))]
    lines = [str(len(rgb))]
    for i, partners in enumerate(near):
        lines += [str(i), " ".join([str(len(partners)), *(f"{j} {1 / abs(i - j):.3f}" for j in partners)])]
    (scene / "cams" / "pair.txt").write_text("\n".join(lines) + "\n")


def write_scan(folder: Path, scan: int, rgb: np.ndarray, K: np.ndarray, poses: np.ndarray) -> None:
    """One scan: rgb (S, H, W, 3) uint8, K (S, 3, 3), cam_from_world (S, 3, 4)."""
    for part in (folder / "Cameras", folder / f"scan{scan}" / "image"):
        part.mkdir(parents=True, exist_ok=True)
    for i in range(len(rgb)):
        number = (scan - 1) * len(rgb) + i
        _write_picture(folder / f"scan{scan}" / "image" / f"{number:06d}.png", rgb[i])
        write_camera(folder / "Cameras" / f"{number:08d}_cam.txt", poses[i], K[i])


def write_camera(path: Path, pose: np.ndarray, K: np.ndarray) -> None:
    """MVSNet's camera file: cam_from_world as 4×4, K, and a depth range, which no reader here uses."""
    turn, _, other = np.linalg.svd(pose[:, :3].astype(np.float64))  # single precision is no exact rotation
    exact = np.vstack([np.c_[turn @ other, pose[:, 3]], [0, 0, 0, 1]])
    rows = ["extrinsic", *(" ".join(f"{value:.12g}" for value in row) for row in exact), ""]
    rows += ["intrinsic", *(" ".join(f"{value:.12g}" for value in row) for row in K), "", "0.1 0.1 192 20"]
    path.write_text("\n".join(rows) + "\n")


def write_pfm(path: Path, depth: np.ndarray) -> None:
    """A grey PFM (H, W): little-endian float32, rows from the bottom up."""
    header = f"Pf\n{depth.shape[1]} {depth.shape[0]}\n-1.0\n".encode()
    path.write_bytes(header + np.ascontiguousarray(depth[::-1], "<f4").tobytes())


def _write_picture(path: Path, rgb: np.ndarray) -> None:
    if not cv2.imwrite(str(path), rgb[..., ::-1]):
        raise SystemExit(f"{path}: OpenCV cannot write it")


if __name__ == "__main__":
    main()
