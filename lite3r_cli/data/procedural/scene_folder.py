"""A rendered scene as a folder: images/, depth/, cameras.json, and synth.json, the record of how it was made."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from lite3r_cli.errors import OutputError
from lite3r_cli.io.cameras_json import write_cameras_json
from lite3r_cli.io.depth_files import write_depth_png
from lite3r_cli.io.files import output_error, write_bytes, write_json
from lite3r_cli.io.locks import in_the_way
from lite3r_cli.io.mounts import require_no_mounts
from lite3r_cli.io.own_record import require_as_written, sizes_of
from lite3r_cli.io.transaction import Transaction
from lite3r_cli.scene.posed_view import View

RECORD = "synth.json"
MILLIMETRES = 1000.0  # depth units per metre: up to 65.5 m in 16 bits, a third of the size of a full-range map


def require_free(folder: Path, overwrite: bool) -> None:
    """Raises OutputError if `write_scene` would fail: files are in the way, or the place takes none. What an
    interrupted run left there is undone.
    """
    with Transaction(folder.parent, folder.name, _within(folder.name)):
        check_free(folder, overwrite)


def _is_written(name: str) -> bool:
    return name in (RECORD, "cameras.json") or re.fullmatch(r"images/\d+\.jpg|depth/\d+\.png", name) is not None


def _within(name: str) -> Callable[[str], bool]:
    return lambda path: path.startswith(f"{name}/")


def check_free(folder: Path, overwrite: bool) -> list[str]:
    """The files of the old scene in `folder` that a new one replaces, relative to it, RECORD first; [] if none.

    Raises OutputError if `folder` exists, unless `overwrite` is set and it holds nothing but an unmodified scene that
    lite3r synth wrote.
    """
    try:
        folder.lstat()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise output_error(folder, error) from error
    if not overwrite:
        raise OutputError(f"{folder}: exists; --overwrite replaces it, or choose another -o")
    if folder.is_symlink() or not folder.is_dir():
        raise in_the_way(folder)
    old = require_as_written(folder, RECORD, "lite3r synth", _is_written)
    require_no_mounts(folder.parent, [folder])
    return old


def write_scene(
    folder: Path,
    images: np.ndarray,
    depth: np.ndarray,
    K: np.ndarray,
    cam_from_world: np.ndarray,
    record: dict,
    *,
    quality: int = 95,
    overwrite: bool = True,
) -> None:
    """Write S views: images (S, H, W, 3) uint8 RGB, z-depth (S, H, W), K (S, 3, 3), cam_from_world (S, 3, 4).

    The folder appears complete or not at all; `overwrite` allows it to replace an old scene. Raises OutputError.
    """
    name = folder.name
    with Transaction(folder.parent, name, _within(name)) as files:
        old = check_free(folder, overwrite)
        place = files.new / name
        try:
            _write_files(place, images, depth, K, cam_from_world, record, quality)
        except OSError as error:
            raise output_error(Path(error.filename or place), error) from error
        files.commit([f"{name}/{each}" for each in old], f"{name}/{RECORD}")


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
    ours = [*(f"images/{v.name}" for v in views), *files, "cameras.json"]
    write_json(folder / RECORD, record | {"files": sizes_of(folder, ours)})


def _exact_pose(pose: np.ndarray) -> np.ndarray:
    """The pose (3, 4) in float64 with the nearest rotation: in float32, R R^T deviates from I by 1e-7."""
    u, _, v = np.linalg.svd(pose[:, :3].astype(np.float64))
    return np.concatenate([u @ v, pose[:, 3:].astype(np.float64)], 1)
