"""`cameras.json`: the cameras of a scene and the paths of its depth maps. Outputs, samples and ground truth share the
format.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from reprlib import repr as short
from typing import Any

import numpy as np

from ..errors import InputError
from ..scene.distortion import DistortedCamera
from ..scene.frame import WorldFrame
from ..scene.posed_view import View
from . import camera_fields as fields
from .depth_files import read_depth_png
from .documents import read_json
from .files import write_json
from .names import printable
from .natural import natural_key
from .resize import is_resized

_LONGEST_NAME = 255  # of the file name of a depth map
DEPTH_ROUNDED = 8  # pixels: networks use whole patches, of up to 16 pixels

CONVENTION = (
    "OpenCV camera axes (+x right, +y down, +z forward); cam_from_world 3x4 [R|t]; K in pixels of the image (width x"
    " height), pixel centres at +0.5; depth: 16-bit PNG of z-depth, 0 = unknown, value / depth_scale = scene units;"
    " `original_camera` is how the image file was taken (COLMAP's model): K is that of the undistorted image;"
    " `panorama`: the image is a view of that 360° image, turned by yaw_degrees to the right of its middle"
)


def write_cameras_json(
    path: Path,
    views: Sequence[View],
    depth_files: Sequence[str] | None = None,
    depth_scales: Sequence[float] | None = None,
    frame: WorldFrame | None = None,
) -> None:
    """Write `views` with, per view, the depth map's file (relative to `path`) and scale; `frame` states frame and unit.
    Raises OutputError.

    `depth_width` and `depth_height` are written where a view's depth map has another size than its image.
    """
    images: dict[str, dict[str, Any]] = {}
    for index, view in enumerate(views):
        entry: dict[str, Any] = {
            "K": view.K.tolist(),
            "cam_from_world": view.cam_from_world.tolist(),
            "width": view.width,
            "height": view.height,
        }
        if view.lens is not None:
            entry["original_camera"] = {"model": view.lens.model, "params": list(view.lens.params)}
        if view.facing is not None:
            yaw = round(float(np.degrees(view.facing.yaw)), 6)
            entry["panorama"] = {"picture": view.facing.picture, "view": view.facing.number, "yaw_degrees": yaw}
        if depth_files is not None and depth_scales is not None:
            entry["depth"], entry["depth_scale"] = depth_files[index], float(depth_scales[index])
        if view.depth is not None and view.depth.shape != (view.height, view.width):
            entry["depth_height"], entry["depth_width"] = view.depth.shape
        images[view.name] = entry
    world = {} if frame is None else {"world": frame.as_dict()}
    write_json(path, {"convention": CONVENTION, **world, "images": images})


def read_cameras_json(
    path: Path, load_depth: bool = True, bad: Callable[[InputError], None] | None = None
) -> list[View]:
    """The views of `path` (a cameras.json or the folder that has one) in natural order, with depth maps if there are
    any.

    `depth_scale` may be at the top level or in each image. `load_depth=False` leaves every depth map None. Raises
    InputError that names the file and the key of malformed content. If `bad` is given, it is called for a malformed
    view instead, and the others are read.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "cameras.json"
    document = read_json(path)
    images = document.get("images") if isinstance(document, dict) else None
    if not isinstance(images, dict) or not images:
        raise InputError(f"{path}: key `images` has to map at least one image name to its camera")
    default_scale = document.get("depth_scale")
    views = []
    for name in sorted(images, key=natural_key):
        try:
            views.append(_view(path, name, images[name], default_scale, load_depth))
        except InputError as error:
            if bad is None:
                raise
            bad(error)
    return views


def _view(path: Path, name: str, entry: Any, default_scale: Any, load_depth: bool) -> View:
    where = f"{printable(path)}: images[{short(name)}]"
    if not isinstance(entry, dict):
        raise InputError(f"{where}: has to be an object with K, cam_from_world, width and height")
    width, height = fields.side(where, entry, "width"), fields.side(where, entry, "height")
    K = fields.matrix(where, entry, "K", (3, 3))
    if K[0, 0] <= 0 or K[1, 1] <= 0 or not np.array_equal([K[0, 1], *K[1:, 0], *K[2, 1:]], [0, 0, 0, 0, 1]):
        raise InputError(f"{where}: K has to be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] with positive focal lengths")
    pose = fields.matrix(where, entry, "cam_from_world", (3, 4))
    fields.require_rotation(where, pose[:, :3], "cam_from_world")
    view = fields.camera(where, name, (width, height), K, pose, _lens(where, entry, (width, height)))
    if not load_depth or "depth" not in entry:
        return view
    return replace(view, depth=_depth(path, where, entry, default_scale, (height, width)))


def _lens(where: str, entry: dict, size: tuple[int, int]) -> DistortedCamera | None:
    """The original camera of the image, from `original_camera`; K is then that of the undistorted image."""
    lens = entry.get("original_camera")
    if lens is None:
        return None
    if not isinstance(lens, dict) or not isinstance(lens.get("model"), str) or not isinstance(lens.get("params"), list):
        raise InputError(f'{where}: original_camera has to be {{"model": COLMAP\'s name, "params": [numbers]}}')
    return fields.lens(f"{where}: original_camera", printable(lens["model"])[:40], lens["params"], size)[1]


def _depth(path: Path, where: str, entry: dict, default_scale: Any, image_size: tuple[int, int]) -> np.ndarray | None:
    file, scale = entry["depth"], entry.get("depth_scale", default_scale)
    if file is None:
        return None
    if not isinstance(file, str) or not 0 < len(file) <= _LONGEST_NAME or "\0" in file:
        raise InputError(f"{where}: depth has to be the name of a 16-bit PNG, relative to {path.name}")
    if not fields.is_number(scale) or scale < fields.SMALLEST:
        raise InputError(f"{where}: depth_scale (here or at the top) has to be a positive number, not {short(scale)}")
    size = image_size
    if "depth_width" in entry or "depth_height" in entry:
        size = (fields.side(where, entry, "depth_height"), fields.side(where, entry, "depth_width"))
        if not is_resized(size[::-1], image_size[::-1], DEPTH_ROUNDED):
            raise InputError(
                f"{where}: a depth map of {size[1]}x{size[0]} pixels has another shape than its image of"
                f" {image_size[1]}x{image_size[0]}"
            )
    depth = read_depth_png(path.parent / file, float(scale))
    if depth.shape != size:
        raise InputError(
            f"{where}: depth map {printable(file)[:80]} has {depth.shape[1]}x{depth.shape[0]} pixels, not"
            f" {size[1]}x{size[0]}; depth_width and depth_height state a size other than the image's"
        )
    return depth
