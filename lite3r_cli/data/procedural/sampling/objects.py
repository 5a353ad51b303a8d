"""Single objects of every shape, resting or floating."""

from __future__ import annotations

import math

import numpy as np

from lite3r_cli.data.procedural.draw import Draw
from lite3r_cli.data.procedural.materials import THINGS, Looks
from lite3r_cli.data.procedural.scene import UV, Builder, Kind, material

SHAPES = {
    "box": 3.0, "ellipsoid": 2.5, "cylinder": 2.0, "cone": 1.0, "torus": 0.9, "rounded": 1.3, "turned": 1.2,
    "rock": 1.0,
    "arch": 0.8, "relief": 0.7,
}  # fmt: skip


def add_object(
    b: Builder, d: Draw, looks: Looks, base, size: float, *, shape: str = "", tumble: float = 0.0, categories=THINGS,
    grain: tuple[float, float] = (0.15, 2.5),
) -> float:  # fmt: skip
    """Put one object of about `size` metres on the point `base` (3,); returns its height.

    `tumble` is the chance of a random orientation; `grain` bounds one repeat of its texture, relative to `size`.
    """
    shape = shape or d.weighted(SHAPES)
    look = looks.look(categories, (grain[0] * size, grain[1] * size))
    rotation = d.rotation() if d.chance(tumble) else d.tilt(d.uniform(0, 2 * math.pi), 0.0)
    r = 0.5 * size
    a, h, c = r * d.uniform(0.4, 1.0), r * d.uniform(0.4, 1.3), r * d.uniform(0.4, 1.0)
    if shape in ("torus", "rounded", "turned", "rock"):
        return _add_sdf(b, d, look, shape, base, r, rotation)
    kind, half, mode = Kind.BOX, (a, h, c), UV.BOX
    parameters: tuple[float, ...] = ()
    if shape == "ellipsoid":
        kind, mode = Kind.ELLIPSOID, UV.CYLINDER
        if d.chance(0.4):
            half = (r, r, r)
    elif shape in ("cylinder", "cone"):
        kind, half, mode = Kind.FRUSTUM, (a, h, a), UV.CYLINDER
        parameters = (1.0,) if shape == "cylinder" else (d.choice((0.0, d.uniform(0.2, 0.8))),)
    elif shape == "arch":
        w, rise = d.uniform(0.4, 0.8), d.uniform(0.1, 0.6)
        kind, parameters = (
            Kind.BOX_MINUS_ARCH,
            (0.0, d.choice((-1.5, -0.8)), w, d.uniform(-0.2, 0.3), rise, d.choice((-1.5, -0.5, 0.3))),
        )
    elif shape == "relief":
        return _add_relief(b, d, looks, base, r, rotation)
    lift = (
        float(np.abs(rotation[1]) @ np.array(half))
        if kind != Kind.ELLIPSOID
        else float(np.linalg.norm(rotation[1] * np.array(half)))
    )
    b.add(kind, (base[0], base[1] + lift, base[2]), half, look(half, mode), rotation=rotation, shape=parameters)
    return 2 * lift


def _add_sdf(b: Builder, d: Draw, look, shape: str, base, r: float, rotation) -> float:
    parameters: tuple[float, ...]
    if shape == "torus":
        minor = d.uniform(0.1, 0.38)
        parameters, bottom = (minor, 0.98 - minor), minor
        mode = UV.CYLINDER
    elif shape == "rounded":
        e = [d.uniform(0.25, 0.57) for _ in range(3)]
        parameters, bottom, mode = (*e, min(e) * d.uniform(0.15, 0.9)), e[1], UV.BOX
    elif shape == "turned":
        half = d.uniform(0.5, 0.85)
        radius = d.uniform(0.2, 0.36)
        swell = radius * d.uniform(0.1, 0.5)
        slope = d.uniform(-0.15, 0.15)
        fine = radius * d.uniform(0, 0.12)
        parameters = (half, radius, swell, d.uniform(2, 9), d.uniform(0, 6.28), fine, slope)
        bottom, mode = half, UV.CYLINDER
        if math.hypot(half, radius + swell + fine + half * abs(slope)) > 1:
            parameters = (half, radius * 0.8, swell * 0.5, *parameters[3:5], 0.0, 0.0)
    else:
        parameters = (
            d.uniform(0.05, 0.19),
            *(d.uniform(2, 9) for _ in range(3)),
            *(d.uniform(0, 6.28) for _ in range(3)),
        )
        bottom, mode = 0.75, UV.BOX
    parameters = (
        parameters + (0.0,) * (7 - len(parameters)) + (float(("torus", "rounded", "turned", "rock").index(shape)),)
    )
    if rotation[1, 1] < 0.999:  # tumbled
        bottom = 0.9
    scale = (r, r, r)
    row = look(scale, mode)
    b.add(
        Kind.SDF,
        (base[0], base[1] + bottom * r, base[2]),
        scale,
        row,
        rotation=rotation,
        shape=parameters,
        occluder=0.6 * r,
    )
    return 2 * bottom * r


def _add_relief(b: Builder, d: Draw, looks: Looks, base, r: float, rotation) -> float:
    """A standing or lying carved slab."""
    half = (r, r * d.uniform(0.1, 0.3), r)
    upright = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]) if d.chance(0.6) else np.eye(3)
    rotation = rotation @ upright
    add_height(b, d, looks, base, half, rotation, ("statue", "ornament", "rubble", "windows", "panels"), lift=True)
    return 2 * float(np.abs(rotation[1]) @ np.array(half))


def add_height(
    b: Builder, d: Draw, looks: Looks, center, half, rotation, categories, *, repeat: float = 0.5, lift: bool = False,
    steps: int = 40,
    level: int = 1, bottom: float = -0.6, photos: float = 0.0, phase: tuple[float, float] = (0.5, 0.5),
) -> None:  # fmt: skip
    """Add a height field whose relief and colour come from the same texture.

    `repeat` is in texture repeats per local unit; `level` is the mip level, `steps` the ray marching steps, and
    `bottom` the base of the relief in local units. `lift` raises `center` so that the field stands on it.
    """
    _name, texture = looks.texture(categories, photos)
    if lift:
        center = (center[0], center[1] + float(np.abs(rotation[1]) @ np.array(half)), center[2])
    row = material(
        texture,
        (repeat, repeat, repeat),
        mode=UV.TOP,
        offset=phase,
        mirror=True,
        tint=d.color(0.8, 1.1, 0.12),
        shift_faces=False,
    )
    shape = (texture, repeat, *phase, level, bottom, 0.95 - bottom, steps)
    b.add(Kind.HEIGHT, center, half, row, rotation=rotation, shape=shape)
