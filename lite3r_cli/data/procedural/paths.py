"""Camera paths through a stage.

Every path function takes the stage, a random generator, the number of views S, the field of view in radians, and a
factor `shrink` on the length of the path.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lite3r_cli.data.procedural.scene import Stage

Rng = np.random.Generator
UP = np.array([0.0, 1.0, 0.0])
STEEPEST = 1.4  # radians above the target: straight down, no direction in the picture would be "up"


@dataclass(frozen=True)
class Path:
    """Positions and viewing targets of S cameras, in world coordinates."""

    position: np.ndarray  # (S, 3) metres
    target: np.ndarray  # (S, 3) points looked at
    distance: float  # typical distance to the target, metres
    small: bool = False  # little motion on purpose


def _start(stage: Stage, rng: Rng, field: float) -> tuple[np.ndarray, np.ndarray, float]:
    """A target (3,), a first position (3,) inside the stage, and their distance (longer for a narrow field of view)."""
    target = stage.targets[rng.integers(len(stage.targets))] + 0.0
    reach = np.clip(math.tan(0.5) / math.tan(field / 2), 0.6, 3.0)
    for _ in range(12):
        distance = rng.uniform(*stage.reach) * reach
        if stage.normal is None:
            azimuth = rng.uniform(0, 2 * math.pi)
        else:
            azimuth = math.atan2(stage.normal[0], stage.normal[2]) + rng.normal(0, 0.45)
        elevation = min(rng.normal(*stage.elevation), STEEPEST)
        away = np.array(
            [math.sin(azimuth) * math.cos(elevation), math.sin(elevation), math.cos(azimuth) * math.cos(elevation)]
        )
        position = target + distance * away
        if np.all(position > stage.low) and np.all(position < stage.high):
            break
    position = np.clip(position, stage.low, stage.high)
    return target, position, max(float(np.linalg.norm(position - target)), 0.3)


def _wobble(rng: Rng, views: int, amount: float) -> np.ndarray:
    """Smooth deviations (S, 3) of a hand-carried camera, of about `amount` metres."""
    s = np.linspace(0, 1, views)[:, None]
    return amount * (
        np.sin(2 * math.pi * (rng.uniform(0.3, 1.5, 3) * s + rng.random(3))) + 0.4 * rng.standard_normal((views, 3))
    )


def _times(rng: Rng, views: int) -> np.ndarray:
    """Path parameters (S,), about evenly spaced from 0 to 1."""
    return (np.arange(views) + rng.uniform(-0.25, 0.25, views)) / max(views - 1, 1)


def _inside(stage: Stage, position: np.ndarray) -> np.ndarray:
    return np.clip(position, stage.low, stage.high)


def _extent(views: int) -> float:
    """Factor on the path length: shorter for few views, so that neighbours still overlap."""
    return min(1.0, 0.3 + 0.1 * views)


def orbit(stage: Stage, rng: Rng, views: int, field: float, shrink: float) -> Path:
    """An arc around the target."""
    target, start, distance = _start(stage, rng, field)
    offset = start - target
    span = shrink * _extent(views) * rng.uniform(0.6, 3.3) * rng.choice([-1, 1])
    angle = _times(rng, views) * span
    if stage.normal is not None:
        angle = angle - span / 2
    c, s = np.cos(angle), np.sin(angle)
    turned = np.stack([c * offset[0] + s * offset[2], np.full(views, offset[1]), -s * offset[0] + c * offset[2]], 1)
    radius = 1 + rng.uniform(-0.3, 0.3) * _times(rng, views)[:, None]
    position = _inside(stage, target + turned * radius + _wobble(rng, views, 0.03 * distance))
    return Path(position, target + _wobble(rng, views, 0.08 * distance), distance)


def dolly(stage: Stage, rng: Rng, views: int, field: float, shrink: float) -> Path:
    """Straight towards the target or away from it."""
    target, start, distance = _start(stage, rng, field)
    way = (1 - shrink * rng.uniform(0.25, 0.65) * _times(rng, views))[:, None]
    position = _inside(stage, target + (start - target) * way + _wobble(rng, views, 0.04 * distance))
    aim = target + rng.normal(0, 0.15 * distance, 3) * np.array([1, 0.3, 1])
    return Path(position[:: rng.choice([-1, 1])].copy(), aim + _wobble(rng, views, 0.05 * distance), distance)


def walk(stage: Stage, rng: Rng, views: int, field: float, shrink: float) -> Path:
    """Forwards or sideways, looking along a fixed or slowly turning direction."""
    target, start, distance = _start(stage, rng, field)
    heading = math.atan2(target[0] - start[0], target[2] - start[2])
    along = heading + rng.choice([0.0, math.pi / 2, -math.pi / 2]) + rng.normal(0, 0.4)
    step = np.array([math.sin(along), 0, math.cos(along)])
    t = _times(rng, views)
    length = shrink * _extent(views) * distance * rng.uniform(0.3, 1.2)
    position = _inside(stage, start + t[:, None] * length * step + _wobble(rng, views, 0.03 * distance))
    yaw = heading + (t - 0.5) * rng.normal(0, 0.5) * shrink
    pitch = rng.normal(-0.08, 0.12) + rng.normal(0, 0.03, views)
    look = np.stack([np.sin(yaw), np.tan(pitch), np.cos(yaw)], 1)
    return Path(position, position + distance * look, distance)


def handheld(stage: Stage, rng: Rng, views: int, field: float, shrink: float) -> Path:
    """Small motion around one standing point."""
    target, start, distance = _start(stage, rng, field)
    position = _inside(stage, start + _wobble(rng, views, rng.uniform(0.02, 0.09) * distance))
    return Path(position, target + _wobble(rng, views, rng.uniform(0.02, 0.15) * distance), distance, small=True)


def pan(stage: Stage, rng: Rng, views: int, field: float, shrink: float) -> Path:
    """Mostly rotation: turning on the spot with an outstretched arm."""
    target, start, distance = _start(stage, rng, field)
    heading = math.atan2(target[0] - start[0], target[2] - start[2])
    sweep = shrink * min(0.55 * field * max(views - 1, 1), rng.uniform(0.4, 2.2)) * rng.choice([-1, 1])
    yaw = heading + (_times(rng, views) - 0.5) * sweep
    look = np.stack([np.sin(yaw), rng.normal(-0.08, 0.1) + rng.normal(0, 0.04, views), np.cos(yaw)], 1)
    arm = rng.uniform(0.05, 0.15) * distance
    position = _inside(stage, start + arm * look + _wobble(rng, views, 0.02 * distance))
    return Path(position, position + distance * look, distance)


def scattered(stage: Stage, rng: Rng, views: int, field: float, shrink: float) -> Path:
    """Wide baselines: independent standing points, ordered by azimuth."""
    target, start, distance = _start(stage, rng, field)
    offset = start - target
    angle = np.sort(rng.normal(0, 0.7 * shrink, views) * math.sqrt(_extent(views)))
    c, s = np.cos(angle), np.sin(angle)
    turned = np.stack(
        [
            c * offset[0] + s * offset[2],
            offset[1] + rng.normal(0, 0.12, views) * distance,
            -s * offset[0] + c * offset[2],
        ],
        1,
    )
    position = _inside(stage, target + turned * rng.uniform(1 - 0.35 * shrink, 1 + 0.35 * shrink, views)[:, None])
    return Path(position, target + rng.normal(0, 0.1 * distance, (views, 3)), distance)


def facade(stage: Stage, rng: Rng, views: int, field: float, shrink: float) -> Path:
    """Along a building, from several standing points, looking square on or at a common point."""
    target, start, distance = _start(stage, rng, field)
    normal = stage.normal if stage.normal is not None else (start - target) / distance
    along = np.cross(UP, normal)
    t = (_times(rng, views) - 0.5)[:, None]
    length = shrink * _extent(views) * distance * rng.uniform(0.6, 2.8)
    nearer = 1 + rng.uniform(-0.25, 0.25, (views, 1)) * shrink
    position = target + normal * (start - target).dot(normal) * nearer + along * (t * length)
    position[:, 1] = start[1] + rng.normal(0, 0.04, views)
    converge = rng.uniform(-0.2, 1.0)  # 0 = parallel views, 1 = all at one point
    aim = target + along * (t * length) * (1 - converge) + rng.normal(0, 0.06 * distance, (views, 3))
    return Path(_inside(stage, position), aim, distance)


PATHS: dict[str, Callable[[Stage, Rng, int, float, float], Path]] = {
    "orbit": orbit, "dolly": dolly, "walk": walk, "handheld": handheld, "pan": pan, "scattered": scattered,
    "facade": facade,
}  # fmt: skip
