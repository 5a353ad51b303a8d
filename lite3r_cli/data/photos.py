"""Posed photographs with depth as training data.

A folder of scenes, each with `SCENE/images/*` and `SCENE/cameras.json` (per image K, cam_from_world, width, height, and
a depth map if there is one), and for images without a depth map `SCENE/points.npz` (per image N×3: u, v, z-depth).
Views are drawn by overlap. Each is warped to a virtual camera at the same position, with random roll, zoom and
mirroring (exact for any depth) and the principal point at the image centre.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from lite3r_cli.data.views import read_rgb, usable
from lite3r_cli.errors import InputError
from lite3r_cli.io.archives import read_npz
from lite3r_cli.io.cameras_json import read_cameras_json
from lite3r_cli.io.names import printable
from lite3r_cli.scene.posed_view import View, known_depth

MIN_OVERLAP = 0.2
_OVERLAP_POINTS = 300  # per image
_CORNER = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])  # from OpenCV's pixels, whose centres are at integers


@dataclass(frozen=True)
class PosedScene:
    """A scene of n photographs with cameras and depth, in memory."""

    images: list[np.ndarray]  # (H, W, 3) uint8 RGB
    K: np.ndarray  # (n, 3, 3)
    cam_from_world: np.ndarray  # (n, 3, 4)
    points: list[np.ndarray]  # per image (N, 3): u, v in pixels, z-depth
    depth: list[np.ndarray | None]  # per image (h, w) float32 z-depth of the whole image, 0 = unknown
    overlap: np.ndarray  # (n, n) share of the points of image i that project into image j

    @property
    def dense(self) -> bool:
        """Whether images have depth maps."""
        return any(each is not None for each in self.depth)


def load_scenes(folder: Path, damaged: list[str] | None = None) -> list[PosedScene]:
    """All scenes below `folder`. Unreadable files are left out, and messages are added to `damaged`. Raises InputError
    if there is no scene.
    """
    left_out: list[str] = [] if damaged is None else damaged
    places = [path.parent for path in sorted(folder.glob("*/cameras.json"))]
    scenes = usable(places, lambda place: _load_scene(place, left_out), left_out)
    if not scenes:
        why = left_out[-1] if left_out else f"{folder}: no SCENE/cameras.json below it; give a folder of posed scenes"
        raise InputError(why)
    return scenes


def _load_scene(folder: Path, damaged: list[str]) -> PosedScene:
    views = read_cameras_json(folder, bad=lambda error: damaged.append(str(error)))
    mapped = {view.name: _map_points(view) for view in views if view.depth is not None}
    path = folder / "points.npz"
    points = mapped | (_read_points(path) if path.exists() or not mapped else {})
    seen = [view for view in views if len(points.get(view.name, ()))]
    read = usable(seen, lambda view: (view, _picture(folder, view)), damaged)
    if len(read) < 2:
        because = f" ({damaged[-1]})" if damaged and len(read) < len(points) else ""
        raise InputError(f"{folder}: {len(read)} images with a camera and depth; a scene needs two at least{because}")
    images = [image for _, image in read]
    K, poses = (np.stack([getattr(view, name) for view, _ in read]) for name in ("K", "cam_from_world"))
    pixels = [points[view.name] for view, _ in read]
    depth = [view.depth for view, _ in read]
    return PosedScene(images, K, poses, pixels, depth, _overlap(images, K, poses, pixels))


def _map_points(view: View) -> np.ndarray:
    """Some pixels of a depth map as points (N, 3): u, v in pixels of the image, z-depth."""
    depth = known_depth(view)
    v, u = np.nonzero(depth > 0)
    v, u = (each[:: max(1, len(each) // _OVERLAP_POINTS)] for each in (v, u))
    height, width = depth.shape
    return np.c_[(u + 0.5) * view.width / width, (v + 0.5) * view.height / height, depth[v, u]]


def _picture(folder: Path, view: View) -> np.ndarray:
    image = read_rgb(folder / "images" / view.name)
    if image.shape[:2] != (view.height, view.width):
        raise InputError(
            f"{folder / 'images' / view.name}: has {image.shape[1]}x{image.shape[0]} pixels, "
            f"but cameras.json says {view.width}x{view.height}"
        )
    return image


def _read_points(path: Path) -> dict[str, np.ndarray]:
    """Image name → points (N, 3) as u, v, z-depth. Raises InputError."""
    points = read_npz(path)
    for name, array in points.items():
        numbers = array.dtype.kind in "fiu" and array.ndim == 2 and array.shape[1] == 3
        if not numbers or not np.isfinite(array).all():
            raise InputError(f"{path}: {printable(name)} is not a list of finite u, v, z-depth, one row for each point")
    return {name: array.astype(np.float64) for name, array in points.items()}


def _overlap(images: list[np.ndarray], K: np.ndarray, poses: np.ndarray, points: list[np.ndarray]) -> np.ndarray:
    share = np.zeros((len(images), len(images)))
    for i, uvz in enumerate(points):
        uvz = uvz[:: max(1, len(uvz) // _OVERLAP_POINTS)]
        rays = np.c_[uvz[:, :2], np.ones(len(uvz))] @ np.linalg.inv(K[i]).T * uvz[:, 2:]
        world = (rays - poses[i, :, 3]) @ poses[i, :, :3]
        for j, image in enumerate(images):
            camera = world @ poses[j, :, :3].T + poses[j, :, 3]
            pixel = camera @ K[j].T
            z = np.maximum(pixel[:, 2:], 1e-9)
            inside = ((pixel[:, :2] / z >= 0) & (pixel[:, :2] / z < image.shape[1::-1])).all(1) & (camera[:, 2] > 0)
            share[i, j] = inside.mean()
    return share


def sample_photos(
    scenes: list[PosedScene], rng: np.random.Generator, batch: int, views: int, height: int, width: int
) -> dict[str, np.ndarray]:
    """Draw a batch: `images` (B, S, H, W, 3) uint8, `depth` (B, S, H, W) float32 (0 = unknown), `K` (B, S, 3, 3),
    `cam_from_world` (B, S, 3, 4), and whether depth is known at scattered points only (`scattered`, one bool): all
    scenes of a batch have depth maps, or none has.
    """
    large = [s for s in scenes if len(s.images) >= views] or [max(scenes, key=lambda s: len(s.images))]
    kind = large[rng.integers(len(large))].dense
    large = [s for s in large if s.dense == kind]
    samples = []
    for _ in range(batch):
        scene = large[rng.integers(len(large))]
        chosen = _choose_views(scene.overlap, rng, views)
        mirror, roll, zoom = rng.random() < 0.5, rng.normal(0, 4), rng.uniform(1.0, 1.6)
        shots = [
            _rephotograph(scene, i, height, width, mirror, roll + rng.normal(0, 3), zoom * rng.uniform(1.0, 1.1))
            for i in chosen
        ]
        samples.append([np.stack(column) for column in zip(*shots)])
    images, depth, K, poses = (np.stack(column) for column in zip(*samples))
    return {"images": images, "depth": depth, "K": K, "cam_from_world": poses, "scattered": np.array(not kind)}


def _choose_views(overlap: np.ndarray, rng: np.random.Generator, views: int) -> list[int]:
    """Grow a set from a random view; each next view overlaps with a member. Views repeat if the scene is too small."""
    chosen = [int(rng.integers(len(overlap)))]
    while len(chosen) < views:
        mutual = np.minimum(overlap[chosen], overlap[:, chosen].T).max(0)
        mutual[chosen] = 0
        fit = np.flatnonzero(mutual >= MIN_OVERLAP)
        if not len(fit):
            fit = np.flatnonzero(mutual > 0) if (mutual > 0).any() else np.arange(len(overlap))
        chosen.append(int(fit[rng.integers(len(fit))]))
    return list(rng.permutation(chosen))


def _rephotograph(scene: PosedScene, i: int, height: int, width: int, mirror: bool, roll_deg: float, zoom: float):
    """Image, depth, K and cam_from_world of a virtual camera at the same position with another roll and focal
    length.
    """
    image, K, pose = scene.images[i], scene.K[i], scene.cam_from_world[i]
    angle = np.deg2rad(roll_deg)
    cos, sin = np.cos(angle), np.sin(angle)
    margin_x = min(K[0, 2], image.shape[1] - K[0, 2])
    margin_y = min(K[1, 2], image.shape[0] - K[1, 2])
    scale = max(
        (abs(cos) * width + abs(sin) * height) / (2 * margin_x), (abs(sin) * width + abs(cos) * height) / (2 * margin_y)
    )
    scale *= zoom  # target pixels per source pixel
    roll = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    focal = scale * np.sqrt(K[0, 0] * K[1, 1])
    target_K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    warp = target_K @ roll @ np.linalg.inv(K)
    picture = _warp_antialiased(image, warp, scale, height, width)
    depth = _warp_depth(scene.depth[i], image.shape, warp, height, width)
    uvz = scene.points[i]
    uv = np.c_[uvz[:, :2], np.ones(len(uvz))] @ warp.T
    uv = uv[:, :2] / uv[:, 2:]
    rolled = np.c_[roll @ pose[:, :3], roll @ pose[:, 3]]
    if mirror:
        picture, depth = picture[:, ::-1], depth[:, ::-1].copy()
        uv[:, 0] = width - uv[:, 0]
        flip = np.diag([-1.0, 1.0, 1.0])
        rolled = np.c_[flip @ rolled[:, :3] @ flip, flip @ rolled[:, 3]]
    x, y = np.floor(uv).astype(int).T
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height) & (uvz[:, 2] > 0)
    inside[inside] = depth[y[inside], x[inside]] == 0  # where the map knows nothing
    # if several points fall into one pixel, the nearest is written last
    nearest_last = np.flatnonzero(inside)[np.argsort(-uvz[inside, 2], kind="stable")]
    depth[y[nearest_last], x[nearest_last]] = uvz[nearest_last, 2]
    return np.ascontiguousarray(picture), depth, target_K.astype(np.float32), rolled.astype(np.float32)


def _warp_depth(
    depth: np.ndarray | None, image_shape: tuple[int, ...], warp: np.ndarray, height: int, width: int
) -> np.ndarray:
    """A depth map of the whole image as seen by the virtual camera (height, width); 0 = unknown. Depth is not
    interpolated, and does not change by the warp, which keeps the optical axis.
    """
    if depth is None:
        return np.zeros((height, width), np.float32)
    grow = np.diag([image_shape[1] / depth.shape[1], image_shape[0] / depth.shape[0], 1.0])
    matrix = np.linalg.inv(_CORNER) @ warp @ grow @ _CORNER
    return cv2.warpPerspective(depth, matrix, (width, height), flags=cv2.INTER_NEAREST)


def _warp_antialiased(image: np.ndarray, warp: np.ndarray, scale: float, height: int, width: int) -> np.ndarray:
    """Warp by a homography between pixel coordinates with centres at +0.5. If it shrinks the image (`scale` < 1), the
    image is first resized by area averaging.
    """
    if scale < 1:
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        shrink = np.diag([size[0] / image.shape[1], size[1] / image.shape[0], 1.0])
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        warp = warp @ np.linalg.inv(shrink)
    matrix = np.linalg.inv(_CORNER) @ warp @ _CORNER
    return cv2.warpPerspective(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
