"""A rendered scene as a folder: images/, depth/, cameras.json, and synth.json, which says how it was made."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np

from lite3r_cli.errors import OutputError
from lite3r_cli.io.cameras import write_cameras_json
from lite3r_cli.io.depth import write_depth_png
from lite3r_cli.io.files import output_error, write_bytes, write_json
from lite3r_cli.scene.view import View

RECORD = "synth.json"
MILLIMETRES = 1000.0  # depth is stored in whole ones, up to 65.5 m: a third of the size of a full-range map


def check_free(folder: Path, overwrite: bool) -> None:
    """Raises OutputError unless a scene may be written to `folder`: it is not there, or `overwrite` and nothing but
    a scene of ours."""
    if not os.path.lexists(folder):
        return
    if not overwrite:
        raise OutputError(f"{folder}: exists; --overwrite replaces it, or choose another -o")
    try:
        ours = set(json.loads((folder / RECORD).read_text(encoding="ascii"))["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"{folder}: exists and is not a scene of lite3r synth; move it or choose another -o"
        ) from error
    others = sorted(
        str(p.relative_to(folder))
        for p in folder.rglob("*")
        if not p.is_dir() and p.relative_to(folder).as_posix() not in ours
    )
    if others:
        raise OutputError(f"{folder / others[0]}: is not from lite3r synth; move it or choose another -o")


def write_scene(
    folder: Path,
    images: np.ndarray,
    depth: np.ndarray,
    K: np.ndarray,
    cam_from_world: np.ndarray,
    record: dict,
    *,
    quality: int = 95,
) -> None:
    """Write S views: images (S, H, W, 3) uint8 RGB, z-depth (S, H, W), K (S, 3, 3), cam_from_world (S, 3, 4).

    The folder appears complete or not at all; an old one is replaced: ask `check_free(folder, overwrite=True)`
    before. Raises OutputError.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise output_error(folder, error) from error
    aside = staging.with_name(staging.name + ".old")
    try:
        _write_files(staging, images, depth, K, cam_from_world, record, quality)
        staging.chmod(0o755)
        if folder.exists():
            folder.rename(aside)
        staging.rename(folder)
    except OSError as error:
        if aside.exists() and not folder.exists():
            aside.rename(folder)
        raise output_error(folder, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)


def _write_files(folder: Path, images, depth, K, cam_from_world, record: dict, quality: int) -> None:
    count, height, width = depth.shape
    digits = max(2, len(str(count - 1)))
    views, scales, files = [], [], []
    for i in range(count):
        name = f"{i:0{digits}d}.jpg"
        done, data = cv2.imencode(".jpg", images[i, ..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        if not done:
            raise OutputError(f"{folder / 'images' / name}: OpenCV cannot encode a JPEG of {width}x{height} pixels")
        write_bytes(folder / "images" / name, data.data)
        (folder / "depth").mkdir(exist_ok=True)
        file = f"depth/{i:0{digits}d}.png"
        scales.append(write_depth_png(folder / file, depth[i], MILLIMETRES, compression=9))
        files.append(file)
        views.append(View(name, width, height, K[i].astype(np.float64), _exact_pose(cam_from_world[i]), depth[i]))
    write_cameras_json(folder / "cameras.json", views, files, scales)
    ours = [*(f"images/{v.name}" for v in views), *files, "cameras.json", RECORD]
    write_json(folder / RECORD, record | {"files": ours})


def _exact_pose(pose: np.ndarray) -> np.ndarray:
    """The pose in double precision with the nearest rotation: single precision leaves R R^T off by 1e-7."""
    u, _, v = np.linalg.svd(pose[:, :3].astype(np.float64))
    return np.concatenate([u @ v, pose[:, 3:].astype(np.float64)], 1)
