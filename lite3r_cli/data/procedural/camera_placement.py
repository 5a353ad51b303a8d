"""Cameras for a sampled scene: a random path, kept only if clearance, visible content and overlap suffice."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lite3r_cli.data.procedural.coarse import CoarseScene
from lite3r_cli.data.procedural.paths import PATHS, Path
from lite3r_cli.data.procedural.scene import Scene
from lite3r_cli.errors import UsageError

NARROW = math.radians(36)  # field of view below which paths get shorter
RAYS = (7, 6)  # coarse rays per view, horizontally and vertically


@dataclass(frozen=True)
class CameraConfig:
    """Random draws and acceptance limits for the cameras of one scene."""

    attempts: int = 8  # paths tried per scene
    varied_zoom: float = 0.33  # share of scenes whose focal length varies by a few per cent from view to view
    shuffled: float = 0.33  # share of scenes whose views come in random order
    rolled: float = 0.1  # share of scenes with large roll
    roll_deviation: float = 2.0  # standard deviation of the roll of each view, degrees
    # Overlap of consecutive views: the lowest one must exceed a value drawn from [overlap[0], 0.5]; the mean must not
    # exceed overlap[1].
    overlap: tuple[float, float] = (0.2, 0.9)
    any_lens: float = 0.0  # share of scenes whose field of view is drawn from `lenses` instead of `Stage.field`
    lenses: tuple[float, float] = (15.0, 100.0)  # degrees along the longer side, drawn log-uniformly
    clearance: float = 0.25  # metres to any surface, times the scene's scale

    def __post_init__(self) -> None:
        if not 0 <= self.overlap[0] < self.overlap[1] <= 1:
            raise UsageError(f"overlap {self.overlap} must be two increasing shares between 0 and 1")
        if self.attempts < 1:
            raise UsageError(f"attempts must be at least 1, not {self.attempts}")
        if self.roll_deviation < 0:
            raise UsageError(f"roll_deviation must not be negative, not {self.roll_deviation}")


def look_at(position: np.ndarray, target: np.ndarray, roll: np.ndarray) -> np.ndarray:
    """cam_from_world (S, 3, 4) of cameras at `position` (S, 3) that look at `target` (S, 3).

    World +y is up; `roll` (S,) turns each camera about its optical axis, in radians.
    """
    z = target - position
    z = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-9)
    x = np.stack([-z[:, 2], np.zeros(len(z)), z[:, 0]], 1)  # z × up
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)
    y = np.cross(z, x)
    c, s = np.cos(roll)[:, None], np.sin(roll)[:, None]
    rotation = np.stack([c * x + s * y, -s * x + c * y, z], 1)
    return np.concatenate([rotation, -np.einsum("sij,sj->si", rotation, position)[:, :, None]], 2)


def sample_cameras(
    scene: Scene, rng: np.random.Generator, views: int, height: int, width: int, config: CameraConfig = CameraConfig()
) -> tuple[np.ndarray, np.ndarray] | None:
    """K (S, 3, 3) in pixels and cam_from_world (S, 3, 4), float32; None if none of
    `config.attempts` paths is accepted.
    """
    stage, coarse = scene.stage, CoarseScene(scene)
    shrink = 1.0
    # drawn once: redrawn with every path, narrow views would be rare, because they are accepted less often
    K = _intrinsics(rng, stage.field, views, height, width, config)
    for _ in range(config.attempts):
        name = _pick(rng, stage.paths)
        field = 2 * math.atan(0.5 * max(height, width) / K[0, 0, 0])
        # With a narrow field of view the same sideways step leaves less overlap, unless the cameras turn towards the
        # target: the path gets shorter by anything between nothing and the full proportion.
        narrow = min(1.0, math.tan(field / 2) / math.tan(NARROW / 2)) ** rng.random()
        path = PATHS[name](stage, rng, views, field, shrink * narrow)
        roll = rng.normal(0, math.radians(config.roll_deviation), views) + (
            rng.uniform(-0.6, 0.6) if rng.random() < config.rolled else 0.0
        )
        pose = look_at(path.position, path.target, roll)
        lowest = rng.uniform(config.overlap[0], 0.5)
        if acceptable(coarse, path, K, pose, height, width, lowest, config):
            order = rng.permutation(views) if rng.random() < config.shuffled else np.arange(views)
            return K[order].astype(np.float32), pose[order].astype(np.float32)
        shrink *= 0.8
    return None


def _pick(rng: np.random.Generator, weights: dict[str, float]) -> str:
    names, w = list(weights), np.cumsum(list(weights.values()))
    return names[int(np.searchsorted(w, rng.random() * w[-1], side="right"))]


def _intrinsics(
    rng, field: tuple[float, float], views: int, height: int, width: int, config: CameraConfig
) -> np.ndarray:
    """K (S, 3, 3) with a field of view from `field` (degrees, longer side).

    Half of the scenes use 45° … 75°, the range of phones and standard lenses.
    """
    low, high = field
    if rng.random() < 0.5:
        low, high = max(low, 45.0), min(high, 75.0)
    degrees = rng.uniform(low, high)
    if config.any_lens and rng.random() < config.any_lens:
        degrees = math.exp(rng.uniform(*np.log(config.lenses)))
    focal = 0.5 * max(height, width) / math.tan(math.radians(degrees) / 2)
    zoom = rng.uniform(0.95, 1.05, views) if rng.random() < config.varied_zoom else np.ones(views)
    K = np.zeros((views, 3, 3))
    K[:, 0, 0] = K[:, 1, 1] = focal * zoom
    K[:, 0, 2], K[:, 1, 2], K[:, 2, 2] = width / 2, height / 2, 1
    return K


def coarse_views(
    coarse: CoarseScene, K: np.ndarray, pose: np.ndarray, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """z-depth (S, ny, nx) on the coarse grid (inf = sky) and the world points (S, ny, nx, 3)."""
    nx, ny = RAYS
    u, v = np.meshgrid((np.arange(nx) + 0.5) / nx * width, (np.arange(ny) + 0.5) / ny * height)
    s = len(K)
    d = np.stack(
        [
            (u - K[:, None, None, 0, 2][..., :]) / K[:, 0, 0, None, None],
            (v - K[:, 1, 2, None, None]) / K[:, 1, 1, None, None],
            np.ones((s, ny, nx)),
        ],
        -1,
    )
    world = np.einsum("sij,syxi->syxj", pose[:, :, :3], d)
    center = -np.einsum("sij,si->sj", pose[:, :, :3], pose[:, :, 3])
    origin = np.broadcast_to(center[:, None, None], world.shape)
    z = coarse.cast(origin.reshape(-1, 3).astype(np.float32), world.reshape(-1, 3).astype(np.float32)).reshape(
        s, ny, nx
    )
    with np.errstate(invalid="ignore"):
        return z, origin + world * z[..., None]


def overlaps(z: np.ndarray, points: np.ndarray, K: np.ndarray, pose: np.ndarray, height: int, width: int) -> np.ndarray:
    """(S - 1,) share of the coarse points of each view that are visible in the next view."""
    nx, ny = RAYS
    valid = np.isfinite(z[:-1])
    p = np.where(valid[..., None], points[:-1], 0.0)
    q = np.einsum("sij,syxj->syxi", pose[1:, :, :3], p) + pose[1:, None, None, :, 3]
    depth = np.maximum(q[..., 2], 1e-6)
    u = q[..., 0] / depth * K[1:, 0, 0, None, None] + width / 2
    v = q[..., 1] / depth * K[1:, 1, 1, None, None] + height / 2
    inside = valid & (q[..., 2] > 1e-3) & (u > 0) & (u < width) & (v > 0) & (v < height)
    x, y = np.clip(u / width * nx, 0, nx - 1).astype(int), np.clip(v / height * ny, 0, ny - 1).astype(int)
    seen = z[1:][np.arange(len(p))[:, None, None], y, x]
    return (inside & (depth < 1.35 * seen)).sum((1, 2)) / np.maximum(valid.sum((1, 2)), 1)


def acceptable(
    coarse: CoarseScene, path: Path, K, pose, height: int, width: int, lowest: float, config: CameraConfig
) -> bool:
    """Whether a path keeps clear of all surfaces, sees enough content at a sensible depth, and overlaps enough but not
    too much.

    `lowest` is the required overlap of consecutive views.
    """
    if coarse.clearance(path.position).min() < min(config.clearance, 0.12 * path.distance):
        return False
    z, points = coarse_views(coarse, K, pose, height, width)
    hit = np.isfinite(z)
    if hit.mean((1, 2)).min() < 0.35:
        return False
    median = np.median(np.where(hit, z, np.nanmax(np.where(hit, z, 0))), (1, 2))
    if (z.min((1, 2)) < 0.06 * median).any() or median.min() < 0.12 * path.distance:
        return False
    if len(K) == 1:
        return True
    share = overlaps(z, points, K, pose, height, width)
    return share.min() >= lowest and (share.mean() <= config.overlap[1] or path.small)
