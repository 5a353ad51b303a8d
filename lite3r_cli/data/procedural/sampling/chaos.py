"""Rooms and open ground with random primitives everywhere, so that priors about real places do not help."""

from __future__ import annotations

import math

import numpy as np

from lite3r_cli.data.procedural.draw import Draw
from lite3r_cli.data.procedural.materials import FLOORS, GROUNDS, THINGS, WALLS, Looks
from lite3r_cli.data.procedural.sampling import light
from lite3r_cli.data.procedural.sampling.objects import add_height, add_object
from lite3r_cli.data.procedural.scene import STEEP, Builder, Kind, Scene, Stage, yaw

ALL_PATHS = {"orbit": 4.0, "dolly": 1.5, "walk": 1.5, "handheld": 0.7, "pan": 1.2, "scattered": 2.5, "facade": 1.0}


def sample(d: Draw, looks: Looks) -> Scene:
    """A room or open ground with 6 to 25 random objects, and more on top of some."""
    b = Builder()
    looks.photos = 0.75 if d.chance(0.7) else 0.2
    scale = d.log_uniform(0.5, 6.0) if d.chance(0.5) else 1.0
    half = np.array([d.uniform(1.6, 4.5), d.uniform(1.2, 2.4), d.uniform(1.6, 4.5)]) * scale
    indoors = d.chance(0.6)
    if indoors:
        _room(b, d, looks, half)
    else:
        _open(b, d, looks, half, scale)
    centers = _scatter(b, d, looks, half, scale)
    low, high = -0.92 * half, 0.92 * half
    low[1], high[1] = 0.12 * scale, 2 * half[1] * 0.93
    world = light.indoor(d, np.array([-half[0], 0, -half[2]]), np.array([half[0], 2 * half[1], half[2]]), looks.catalog)
    if not indoors:
        world = light.outdoor(d, looks.catalog, 4 * scale)
    reach = (0.7 * scale, 1.8 * float(half[[0, 2]].mean()))
    elevation = STEEP if d.chance(0.2) else (0.2, 0.25)
    return b.finish(world, Stage(low, high, centers, ALL_PATHS, reach=reach, elevation=elevation), "chaos")


def _room(b: Builder, d: Draw, looks: Looks, half: np.ndarray) -> None:
    """A closed shell, with thin slabs of other looks in front of floor, ceiling and walls."""
    x, y, z = half
    shell = looks.look(WALLS, (0.6, 5.0))
    opening: tuple[float, ...] = (-1.0,)
    if d.chance(0.25):
        u, v = d.uniform(-0.7, 0.2), d.uniform(-0.5, 0.1)
        opening = (d.choice((0, 1, 4, 5)), u, u + d.uniform(0.25, 0.7), v, v + d.uniform(0.3, 0.8))
    b.add(Kind.SHELL, (0, y, 0), (x, y, z), shell((x, y, z)), shape=opening, shadow=False)
    t = 0.01 * y
    slabs = [((0, t, 0), (x, t, z), FLOORS), ((0, 2 * y - t, 0), (x, t, z), WALLS)]
    if opening[0] < 0:
        slabs += [((s * (x - t), y, 0), (t, y, z), WALLS) for s in (-1, 1)] + [
            ((0, y, s * (z - t)), (x, y, t), WALLS) for s in (-1, 1)
        ]
    for center, size, categories in slabs:
        if d.chance(0.8):
            look = looks.look(categories, (0.25 * y, 4.0 * y))
            b.add(Kind.BOX, center, size, look(size), occluder=0.0, shadow=False)


def _open(b: Builder, d: Draw, looks: Looks, half: np.ndarray, scale: float) -> None:
    """Ground, flat or hilly, and some large boxes around it."""
    wide = 12 * scale
    if d.chance(0.35):
        size = (wide, 0.4 * scale, wide)
        add_height(
            b,
            d,
            looks,
            (0, -0.38 * scale, 0),
            size,
            np.eye(3),
            ("hills", "rubble", "gravel"),
            repeat=d.uniform(0.6, 2.0),
            bottom=-0.5,
            level=2,
            photos=0.3,
        )
    else:
        size = (wide, scale, wide)
        b.add(Kind.BOX, (0, -scale, 0), size, looks.look(GROUNDS, (0.3 * scale, 4 * scale))(size), occluder=0.0)
    for _ in range(d.integer(1, 6)):
        azimuth, distance = d.uniform(0, 2 * math.pi), d.uniform(1.6, 3.0) * max(half[0], half[2])
        size = (d.uniform(0.8, 4) * scale, d.uniform(0.6, 3.5) * scale, d.uniform(0.3, 1.5) * scale)
        center = (distance * math.sin(azimuth), 0.95 * size[1], distance * math.cos(azimuth))
        b.add(
            Kind.BOX,
            center,
            size,
            looks.look(WALLS, (0.5 * scale, 6 * scale))(size),
            rotation=yaw(azimuth + d.uniform(-0.3, 0.3)),
        )


def _scatter(b: Builder, d: Draw, looks: Looks, half: np.ndarray, scale: float) -> np.ndarray:
    """Objects on the ground, on one another, on walls and in the air; returns their centres."""
    centers = []
    crowd = 0.75 if d.chance(0.7) else 0.45
    for _ in range(d.integer(6, 26)):
        size = scale * d.log_uniform(0.2, 1.7)
        base = [d.uniform(-crowd, crowd) * half[0], 0.0, d.uniform(-crowd, crowd) * half[2]]
        floating = d.chance(0.3)
        if floating:
            base[1] = d.uniform(0.1, 1.5) * half[1]
        height = add_object(b, d, looks, base, size, tumble=1.0 if floating else 0.25, categories=THINGS)
        centers.append((base[0], base[1] + 0.5 * height, base[2]))
        if not floating and d.chance(0.3):
            base[1] += height
            add_object(b, d, looks, base, size * d.uniform(0.3, 0.8))
    return np.array(centers)
