"""One HTML page that shows points, cameras and photographs of a scene offline in any browser with WebGL 2.

The page is made of the files in viewer/. It loads nothing: its content security policy allows only its own script, by
hash, and embedded images. External text such as file names is JSON without `<`, and the script inserts it only as text.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..errors import OutputError
from ..scene.geometry import camera_centres
from ..scene.posed_view import PointCloud, View
from .files import write_bytes
from .frusta import frustum_depth
from .glb import for_viewing
from .names import printable
from .point_packing import PackedPoints, pack
from .preview import common_axes
from .scene_export import SceneExport

PARTS = Path(__file__).parents[1] / "viewer"
SCRIPTS = ("math.js", "unpack.js", "render.js", "navigation.js", "page.js")
LARGEST = 12_000_000  # bytes of the page
MOST_POINTS = 1_000_000
PICTURES = 3_000_000  # bytes of all pictures, in base64
SIDES = (96, 1024)  # smallest and largest longer side of an image in pixels
BYTES_A_PIXEL = 0.2  # of a JPEG, approximately
QUALITY = 80
INNER = 96  # per cent of the points that the first view must show


def write_html(scene: SceneExport) -> list[Path]:
    """Write view.html and return it. Raises OutputError, and InputError for an image that has changed."""
    path = scene.directory / "view.html"
    write_bytes(path, page(scene))
    return [path]


def page(scene: SceneExport) -> bytes:
    """The whole page, at most `LARGEST` bytes if images of the smallest size fit. Raises InputError."""
    pictures = _pictures(scene)
    room = LARGEST - 100_000 - sum(len(picture) for picture in pictures if picture is not None) - 400 * len(pictures)
    cloud, packed = _fitting(scene, max(room, LARGEST // 10) * 3 // 4)
    script = "(() => {\n" + "".join(_part(name) for name in SCRIPTS) + "})();\n"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    values = {
        "title": html.escape(printable(scene.title)),
        "script_hash": digest,
        "style": _part("page.css"),
        "scene": _json(_description(scene, cloud, packed, pictures)),
        "points": base64.b64encode(packed.first).decode("ascii"),
        "more_points": base64.b64encode(packed.rest).decode("ascii"),
        "script": script,
    }
    before, *rest = _part("page.html").split("{{")
    filled = [before]
    for piece in rest:
        name, text = piece.split("}}", 1)
        filled += [values[name], text]
    return "".join(filled).encode("utf-8", "replace")


def _part(name: str) -> str:
    return (PARTS / name).read_text(encoding="utf-8")


def _json(document: dict[str, Any]) -> str:
    """JSON that cannot end its script element."""
    return json.dumps(document, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _fitting(scene: SceneExport, room: int) -> tuple[PointCloud, PackedPoints]:
    """As many points as fit in `room` bytes, without outliers."""
    most = MOST_POINTS
    while True:
        cloud = for_viewing(scene.cloud, scene.views, most)
        packed = pack(cloud)
        size = len(packed.first) + len(packed.rest)
        if size <= room or len(cloud) == 0:
            return cloud, packed
        most = int(0.98 * len(cloud) * room / size)


@dataclass(frozen=True)
class _Aim:
    """The target of the first view; directions are unit vectors in the world."""

    centre: np.ndarray
    radius: float
    ahead: np.ndarray
    up: np.ndarray


def _aim(scene: SceneExport, cloud: PointCloud) -> _Aim:
    ahead, up = common_axes(scene.views, scene.up)
    points = cloud.points.astype(np.float64)
    if len(points) == 0:
        points = camera_centres(np.stack([view.cam_from_world for view in scene.views]))
    centre = np.median(points, axis=0)
    radius = float(np.percentile(np.linalg.norm(points - centre, axis=1), INNER))
    return _Aim(centre, radius or 1.0, ahead, up)


def _description(
    scene: SceneExport, cloud: PointCloud, packed: PackedPoints, pictures: list[str | None]
) -> dict[str, Any]:
    """The data for the script. The origin is the centre of the points, because the page computes in
    single precision.
    """
    aim = _aim(scene, cloud)
    return {
        "title": printable(scene.title),
        "metric": scene.frame.metric,
        "total": len(scene.cloud),
        "centre": [0, 0, 0],
        "radius": aim.radius,
        "ahead": aim.ahead.tolist(),
        "up": aim.up.tolist(),
        "frustum": frustum_depth(scene.views, cloud),
        "levels": packed.levels,
        "firstLevel": packed.first_level,
        "points": {"low": (packed.low - aim.centre).tolist(), "step": packed.step, "spacing": packed.spacing},
        "cameras": [_camera(view, aim.centre, picture) for view, picture in zip(scene.views, pictures)],
    }


def _camera(view: View, centre: np.ndarray, picture: str | None) -> dict[str, Any]:
    pose = view.cam_from_world.copy()
    pose[:, 3] += pose[:, :3] @ centre
    K = view.K
    return {
        "name": printable(view.name),
        "width": view.width,
        "height": view.height,
        "K": [K[0, 0], K[1, 1], K[0, 2], K[1, 2]],
        "pose": pose.ravel().tolist(),
        "picture": picture,
    }


def _pictures(scene: SceneExport) -> list[str | None]:
    """A base64 JPEG for each view, None without an image. The size is chosen so that all of them fit."""
    read = scene.read_picture
    if read is None:
        return [None] * len(scene.views)
    wanted = PICTURES * 3 / 4 / BYTES_A_PIXEL / len(scene.views)
    aspect = float(np.mean([min(v.width, v.height) / max(v.width, v.height) for v in scene.views]))
    side = int(np.clip(math.sqrt(wanted / aspect), *SIDES))

    def small(view: View) -> np.ndarray | None:
        rgb = read(view.name)
        return None if rgb is None else _resized(rgb, side)

    with ThreadPoolExecutor(4) as pool:
        resized = list(pool.map(small, scene.views))
    encoded = [None if rgb is None else _jpeg(rgb) for rgb in resized]
    size = sum(len(data) for data in encoded if data is not None) * 4 / 3
    if size > 1.2 * PICTURES and side > SIDES[0]:
        side = max(SIDES[0], int(side * math.sqrt(PICTURES / size)))
        encoded = [None if rgb is None else _jpeg(_resized(rgb, side)) for rgb in resized]
    return [None if data is None else base64.b64encode(data).decode("ascii") for data in encoded]


def _resized(rgb: np.ndarray, side: int) -> np.ndarray:
    factor = side / max(rgb.shape[:2])
    if factor >= 1:
        return rgb
    size = [max(1, round(factor * n)) for n in rgb.shape[1::-1]]
    return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)


def _jpeg(rgb: np.ndarray) -> bytes:
    done, data = cv2.imencode(".jpg", np.ascontiguousarray(rgb[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not done:
        raise OutputError(f"an image of {rgb.shape[1]}x{rgb.shape[0]} pixels cannot be encoded as JPEG")
    return data.tobytes()
