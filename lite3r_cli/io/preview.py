"""A preview picture: the cloud as shaded splats with the camera frusta, seen from behind the cameras.

It is drawn at twice the size and downscaled. Points are drawn from far to near, so that the nearest one remains in each
pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import cv2
import numpy as np

from ..errors import OutputError
from ..scene.geometry import invert_pose, project, transform
from ..scene.posed_view import PointCloud, View
from .files import write_bytes
from .frusta import ACCENT, EDGES, frustum, frustum_depth

OVERSAMPLING = 2
BACKGROUND = ((34, 38, 46), (14, 16, 20))  # RGB at the top and at the bottom
AZIMUTHS, ELEVATIONS = (-24, -14, 14, 24), (11, 19)  # degrees, of the view relative to the cameras' direction
MARGIN = 0.05  # of the picture's sides, kept free
INNER = 97  # per cent of the points, nearest to the centre, that must be in the picture
SAMPLES = 20_000  # points used to select the view
AGREEMENT = 0.3  # length of the mean viewing direction below which the cameras have no common direction
NEAREST = 0.1  # points nearer than this share of the distance to the scene's centre would hide it
SPLATS = (2, 3, 4, 5, 6, 8, 10, 13, 16)  # diameters in oversampled pixels
CELL = 16  # side, in oversampled pixels, of the cells in which the density of points is counted
PINHOLE = 7  # oversampled pixels, the largest gap in a surface that is filled
SHADING = 9.0  # strength of the depth shading


@dataclass(frozen=True)
class _Camera:
    """The camera of the picture; K and the size are in oversampled pixels."""

    K: np.ndarray  # (3, 3)
    cam_from_world: np.ndarray  # (3, 4)
    width: int
    height: int
    near: float


def render_preview(
    path: Path,
    cloud: PointCloud,
    views: Sequence[View],
    size: tuple[int, int] = (1280, 960),
    up: np.ndarray | None = None,
) -> None:
    """Draw `cloud` (may be empty) and the cameras of `views` (at least one) to a PNG of `size` (width, height).

    The view is three-quarter, from behind and above the cameras; outliers are ignored. `up` (3,) is the up direction,
    None = that of the cameras. Raises OutputError.
    """
    depth = frustum_depth(views, cloud)
    # (S, 5, 3), world
    corners = np.stack([transform(invert_pose(view.cam_from_world), frustum(view, depth)) for view in views])
    points = cloud.points.astype(np.float64)
    camera = _choose_camera(points, views, corners, up, (OVERSAMPLING * size[0], OVERSAMPLING * size[1]))
    nearest, distance = _splat(points, camera)
    picture = _background(camera)
    covered = nearest >= 0
    light = _depth_shading(distance)
    picture[covered] = cloud.colors[nearest[covered]] * light[covered, None]
    _draw_frusta(picture, distance, corners, camera)
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".png", np.rint(small[..., ::-1]).astype(np.uint8))
    if not done:
        raise OutputError(f"{path}: OpenCV cannot encode a PNG of {size[0]}x{size[1]} pixels")
    write_bytes(path, data.data)


def _choose_camera(
    points: np.ndarray, views: Sequence[View], corners: np.ndarray, up: np.ndarray | None, size: tuple[int, int]
) -> _Camera:
    """The candidate camera in which the cloud fills most of the picture; all look at its centre from behind the
    cameras.
    """
    framed = corners.reshape(-1, 3)
    centre = np.median(points, axis=0) if len(points) else framed.mean(axis=0)
    if len(points):
        far = np.linalg.norm(points - centre, axis=1)
        inner = points[far <= np.percentile(far, INNER)]
        inner = inner[:: max(1, len(inner) // SAMPLES)]
    else:
        inner = points
    ahead, up = common_axes(views, up)
    side = np.cross(ahead, up)
    candidates = []
    for azimuth, elevation in product(np.radians(AZIMUTHS), np.radians(ELEVATIONS)):
        level = np.cos(azimuth) * ahead + np.sin(azimuth) * side
        forward = np.cos(elevation) * level - np.sin(elevation) * up
        candidates.append(_aim(inner, framed, centre, forward, up, size))
    return max(candidates, key=lambda candidate: _filled(inner, candidate))  # the first one if equal


def common_axes(views: Sequence[View], known: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of the common viewing and up directions; those of the first camera if the cameras disagree.

    With `known` up, the viewing direction is horizontal; for cameras that look straight down it is that of their image
    tops.
    """
    poses = np.stack([view.cam_from_world for view in views])
    if known is not None:
        for direction in (poses[:, 2, :3].mean(axis=0), poses[0, 2, :3], -poses[0, 1, :3]):
            ahead = direction - (direction @ known) * known
            if np.linalg.norm(ahead) > AGREEMENT:
                break
        return ahead / np.linalg.norm(ahead), known
    ahead, up = poses[:, 2, :3].mean(axis=0), -poses[:, 1, :3].mean(axis=0)
    if np.linalg.norm(ahead) < AGREEMENT or np.linalg.norm(np.cross(ahead, up)) < AGREEMENT**2:
        ahead, up = poses[0, 2, :3], -poses[0, 1, :3]
    ahead = ahead / np.linalg.norm(ahead)
    up = up - (up @ ahead) * ahead
    return ahead, up / np.linalg.norm(up)


def _aim(
    inner: np.ndarray,
    framed: np.ndarray,
    centre: np.ndarray,
    forward: np.ndarray,
    up: np.ndarray,
    size: tuple[int, int],
) -> _Camera:
    """A camera that looks along `forward` at `centre` from behind `framed` and just contains `inner` and `framed`."""
    right = np.cross(forward, up)
    right = right / np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    shown = np.concatenate([inner, framed])
    radius = float(np.percentile(np.linalg.norm(shown - centre, axis=1), 90))
    away = max(1.3 * radius, float(((centre - framed) @ forward).max()) + 0.8 * radius)
    pose = np.hstack([rotation, -rotation @ (centre - away * forward)[:, None]])
    seen, z = project(shown, np.eye(3), pose)
    seen = seen[z > NEAREST * away]
    low, high = seen.min(axis=0), seen.max(axis=0)
    focal = (1 - 2 * MARGIN) * float(np.min(np.array(size) / np.maximum(high - low, 1e-6)))
    K = np.diag([focal, focal, 1.0])
    K[:2, 2] = np.array(size) / 2 - focal * (low + high) / 2
    return _Camera(K, pose, *size, near=NEAREST * away)


def _filled(points: np.ndarray, camera: _Camera) -> float:
    """Share of the picture that points (N, 3) cover, in coarse cells."""
    pixels, z = project(points, camera.K, camera.cam_from_world)
    pixels = pixels[z > camera.near]
    x, y = pixels.T
    bins = np.histogram2d(x, y, bins=[48, 36], range=[[0.0, camera.width], [0.0, camera.height]])[0]
    return float((bins > 0).mean())


def _splat(points: np.ndarray, camera: _Camera) -> tuple[np.ndarray, np.ndarray]:
    """Per pixel the index of the nearest point, -1 for none, and its z-depth, inf for none; both (H, W)."""
    width, height = camera.width, camera.height
    pixels, z = project(points, camera.K, camera.cam_from_world)
    inside = (z > camera.near) & (pixels >= 0).all(axis=1) & (pixels < [width, height]).all(axis=1)
    kept = np.flatnonzero(inside)
    order = kept[np.argsort(-z[kept], kind="stable")].astype(np.int32)  # far to near
    columns, rows = pixels[order].astype(np.int32).T
    margin = max(SPLATS)
    stride = width + 2 * margin
    rank = np.full((height + 2 * margin) * stride, -1, dtype=np.int32)
    if len(order):
        diameters = _diameters(columns, rows, camera)
        base = (rows + margin) * stride + columns + margin
        numbers = np.arange(len(order), dtype=np.int32)
        for diameter in np.unique(diameters):
            chosen = diameters == diameter
            layer = np.full_like(rank, -1)
            targets = base[chosen, None] + _disc(int(diameter), stride)
            layer[targets.ravel()] = np.repeat(numbers[chosen], targets.shape[1])
            np.maximum(rank, layer, out=rank)
    rank = rank.reshape(-1, stride)[margin:-margin, margin:-margin]
    ordered_z = np.append(z[order], np.inf).astype(np.float32)  # rank -1, no point, indexes the last entry
    order = np.append(order, np.int32(-1))
    rank = _close_pinholes(rank, ordered_z)
    return order[rank], ordered_z[rank]


def _close_pinholes(rank: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Fill gaps of a few pixels in ranks (H, W), through which the background is visible."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (PINHOLE, PINHOLE))
    nearness = 1 / z[rank]
    closed = cv2.morphologyEx(nearness, cv2.MORPH_CLOSE, kernel)
    filled = cv2.dilate(rank.astype(np.float64), kernel).astype(np.int32)
    return np.where(closed > 1.02 * nearness, filled, rank)


def _diameters(columns: np.ndarray, rows: np.ndarray, camera: _Camera) -> np.ndarray:
    """Splat diameter of each point in pixels: wide enough to close the surface at the local density."""
    cells = np.zeros((camera.height // CELL + 1, camera.width // CELL + 1), dtype=np.float32)
    np.add.at(cells, (rows // CELL, columns // CELL), 1)
    occupied = (cells > 0).astype(np.float32)
    count = cv2.blur(cells, (3, 3)) / np.maximum(cv2.blur(occupied, (3, 3)), 1e-6)
    spacing = CELL / np.sqrt(np.maximum(count, 1e-6))
    typical = float(np.median(spacing[rows // CELL, columns // CELL]))
    wanted = 2.1 * np.minimum(spacing[rows // CELL, columns // CELL], 3 * typical)
    return np.array(SPLATS)[np.clip(np.searchsorted(SPLATS, wanted), 0, len(SPLATS) - 1)]


def _disc(diameter: int, stride: int) -> np.ndarray:
    """Offsets into a flat image of the pixels of a disc."""
    steps = np.arange(diameter) - (diameter - 1) // 2
    y, x = np.meshgrid(steps, steps, indexing="ij")
    centre = 0.5 * ((diameter - 1) % 2)
    inside = (x - centre) ** 2 + (y - centre) ** 2 <= (diameter / 2) ** 2
    return (y[inside] * stride + x[inside]).astype(np.int32)


def _depth_shading(distance: np.ndarray) -> np.ndarray:
    """(H, W) in 0..1: darker where neighbours are nearer (eye-dome lighting, Boucheny 2009)."""
    far = np.isinf(distance)
    depth = np.log(np.where(far, 1, distance)).astype(np.float32)
    depth[far] = np.float32(1e9)
    occlusion = np.zeros_like(depth)
    step = 2 * OVERSAMPLING
    for dy, dx in ((0, step), (0, -step), (step, 0), (-step, 0)):
        neighbour = np.roll(depth, (dy, dx), axis=(0, 1))
        occlusion += np.clip(depth - neighbour, 0, 0.15)
    return np.exp(-SHADING * occlusion / 4)


def _background(camera: _Camera) -> np.ndarray:
    """(H, W, 3) float32 RGB: a vertical gradient."""
    top, bottom = (np.array(colour, dtype=np.float32) for colour in BACKGROUND)
    weight = np.linspace(0, 1, camera.height, dtype=np.float32)[:, None, None]
    return np.broadcast_to((1 - weight) * top + weight * bottom, (camera.height, camera.width, 3)).copy()


def _draw_frusta(picture: np.ndarray, distance: np.ndarray, corners: np.ndarray, camera: _Camera) -> None:
    """Blend the edges of frusta (S, 5, 3) into the picture: opaque in front of the cloud, faint behind it."""
    steps = np.linspace(0, 1, max(256, 32768 // len(corners)))[:, None]  # dense enough for the longest edges
    edges = corners[:, EDGES]  # (S, 8, 2, 3)
    samples = (edges[..., :1, :] * (1 - steps) + edges[..., 1:, :] * steps).reshape(-1, 3)
    pixels, z = project(samples, camera.K, camera.cam_from_world)
    radius = 1.25 * OVERSAMPLING
    limits = [camera.width - radius, camera.height - radius]
    inside = (z > 0) & (pixels >= radius).all(axis=1) & (pixels < limits).all(axis=1)
    columns, rows = pixels[inside].astype(np.int32).T
    visible = z[inside] < 1.01 * distance[rows, columns]
    alpha = np.zeros(distance.shape, dtype=np.float32).ravel()
    disc = _disc(int(2 * radius), camera.width)
    for chosen, weight in ((~visible, 0.28), (visible, 1.0)):
        alpha[((rows[chosen] * camera.width + columns[chosen])[:, None] + disc).ravel()] = weight
    alpha = alpha.reshape(*distance.shape, 1)
    picture *= 1 - alpha
    picture += alpha * np.array(ACCENT, dtype=np.float32)
