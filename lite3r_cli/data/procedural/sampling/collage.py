"""Rooms and open ground covered with large photographs: the texture says nothing about the shape that carries it."""

from __future__ import annotations

import numpy as np

from lite3r_cli.data.procedural.draw import Draw
from lite3r_cli.data.procedural.materials import THINGS, WALLS, Looks
from lite3r_cli.data.procedural.sampling import light
from lite3r_cli.data.procedural.sampling.objects import add_object
from lite3r_cli.data.procedural.scene import STEEP, Builder, Kind, Scene, Stage, yaw

PATHS = {"scattered": 4.0, "orbit": 2.5, "dolly": 1.0, "walk": 1.0, "handheld": 0.6, "pan": 1.2, "facade": 0.7}
SOLIDS = {
    "ellipsoid": 3.0,
    "box": 2.5,
    "cylinder": 2.5,
    "cone": 0.8,
    "torus": 0.8,
    "rounded": 0.5,
    "turned": 0.5,
    "rock": 0.4,
}


def sample(d: Draw, looks: Looks) -> Scene:
    """A room or open ground with mats, boards and solids, nearly all textured with photographs."""
    b = Builder()
    looks.photos, looks.clouds = (1.0 if d.chance(0.7) else 0.8), 0.12
    scale = d.log_uniform(0.5, 4.0) if d.chance(0.4) else 1.0
    half = np.array([d.uniform(1.6, 4.5), d.uniform(1.2, 2.4), d.uniform(1.6, 4.5)]) * scale
    grain = (0.4 * scale, 5.0 * scale)  # metres that one picture covers
    indoors = d.chance(0.75)
    if indoors:
        shell = looks.look(WALLS, grain)
        b.add(Kind.SHELL, (0, half[1], 0), half, shell(half), shape=(-1.0,), shadow=False)
    else:
        ground = (12 * scale, scale, 12 * scale)
        b.add(Kind.BOX, (0, -scale, 0), ground, looks.look(WALLS, grain)(ground), occluder=0.0)
    _patches(b, d, looks, half, scale, grain, indoors)
    centers = _solids(b, d, looks, half, scale)
    low, high = -0.92 * half, 0.92 * half
    low[1], high[1] = 0.12 * scale, 2 * half[1] * 0.93
    world = light.indoor(d, np.array([-half[0], 0, -half[2]]), np.array([half[0], 2 * half[1], half[2]]), looks.catalog)
    if not indoors:
        world = light.outdoor(d, looks.catalog, 4 * scale)
    reach = (0.6 * scale, 1.7 * float(half[[0, 2]].mean()))
    elevation = STEEP if d.chance(0.25) else (0.3, 0.35)
    return b.finish(world, Stage(low, high, centers, PATHS, reach=reach, elevation=elevation), "collage")


def _patches(b: Builder, d: Draw, looks: Looks, half: np.ndarray, scale: float, grain, indoors: bool) -> None:
    """Mats on the ground, and thin boards on the walls or standing freely."""
    t = 0.012 * scale
    for _ in range(d.integer(0, 5)):
        size = (d.uniform(0.2, 0.9) * half[0], t, d.uniform(0.2, 0.9) * half[2])
        center = (d.uniform(-0.6, 0.6) * half[0], t * d.uniform(0.2, 1.0), d.uniform(-0.6, 0.6) * half[2])
        turn = yaw(d.uniform(0, 6.28)) if d.chance(0.4) else np.eye(3)
        b.add(Kind.BOX, center, size, looks.look(WALLS, grain)(size), rotation=turn, occluder=0.0, shadow=False)
    for _ in range(d.integer(0, 6)):
        board = np.array([d.uniform(0.15, 0.8), d.uniform(0.15, 0.8), 0.02]) * half[1]
        along, height = d.uniform(-0.8, 0.8), d.uniform(0.3, 1.6) * half[1]
        side, axis = d.sign(), d.choice((0, 2))
        away = 0.985 if indoors and d.chance(0.7) else d.uniform(0.7, 1.6)
        middle = np.array([along * half[0], height, along * half[2]])
        middle[axis] = side * away * half[axis]
        turn = yaw((1.5708 if axis == 0 else 0.0) + (0.0 if away == 0.985 else d.uniform(-0.6, 0.6)))
        b.add(Kind.BOX, middle, board, looks.look(WALLS, grain)(board), rotation=turn, occluder=0.0)


def _solids(b: Builder, d: Draw, looks: Looks, half: np.ndarray, scale: float) -> np.ndarray:
    """Round and flat solids, standing, tumbled or in the air; returns their centres."""
    centers = []
    crowd = d.uniform(0.35, 0.8)
    for _ in range(d.integer(4, 20)):
        size = scale * d.log_uniform(0.15, 2.0)
        base = [d.uniform(-crowd, crowd) * half[0], 0.0, d.uniform(-crowd, crowd) * half[2]]
        floating = d.chance(0.4)
        if floating:
            base[1] = d.uniform(0.1, 1.5) * half[1]
        tumble = 1.0 if floating else 0.4
        shape = d.weighted(SOLIDS)
        height = add_object(b, d, looks, base, size, shape=shape, tumble=tumble, categories=THINGS, grain=(0.4, 5.0))
        centers.append((base[0], base[1] + 0.5 * height, base[2]))
    return np.array(centers)
