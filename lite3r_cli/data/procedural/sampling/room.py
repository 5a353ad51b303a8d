"""Furnished rooms and desks."""

from __future__ import annotations

import math

import numpy as np

from lite3r_cli.data.procedural.draw import Draw
from lite3r_cli.data.procedural.materials import FLOORS, FURNITURE, SOFT, WALLS, Looks
from lite3r_cli.data.procedural.sampling import furniture as F
from lite3r_cli.data.procedural.sampling import light
from lite3r_cli.data.procedural.sampling.objects import add_object
from lite3r_cli.data.procedural.sampling.partition import partition
from lite3r_cli.data.procedural.sampling.place import Place
from lite3r_cli.data.procedural.scene import Builder, Kind, Scene, Stage

CLUTTERED = 0.45  # share of the rooms
ROOM_PATHS = {"orbit": 2.0, "dolly": 1.5, "walk": 2.5, "handheld": 1.0, "pan": 2.5, "scattered": 2.0}
DESK_PATHS = {"orbit": 3.0, "dolly": 1.5, "walk": 1.0, "handheld": 1.2, "pan": 0.7, "scattered": 3.0}


def sample(d: Draw, looks: Looks) -> Scene:
    """A room with furniture along the walls and in the middle."""
    b = Builder()
    half = np.array([d.uniform(1.5, 4.5), d.uniform(1.15, 1.7), d.uniform(1.5, 4.5)])
    window = walls(b, d, looks, half)
    doorways = partition(b, d, looks, half) if d.chance(0.5) else np.zeros((0, 3))
    targets = np.concatenate([_furnish(b, d, looks, half), doorways])
    if d.chance(CLUTTERED):
        targets = np.concatenate([targets, _clutter(b, d, looks, half)])
    world = light.indoor(d, *_bounds(half), looks.catalog, window)
    margin = np.array([0.3, 0.0, 0.3])
    low, high = (
        np.array([-half[0], d.uniform(0.7, 1.2), -half[2]]) + margin,
        np.array([half[0], d.uniform(1.5, 2.0), half[2]]) - margin,
    )
    stage = Stage(low, high, targets, ROOM_PATHS, reach=(1.0, 1.3 * float(half[[0, 2]].max())), field=(42.0, 100.0))
    return b.finish(world, stage, "room")


def desk(d: Draw, looks: Looks) -> Scene:
    """A table top with small objects, seen from nearby."""
    b = Builder()
    half = np.array([d.uniform(1.5, 3.0), d.uniform(1.2, 1.5), d.uniform(1.5, 3.0)])
    window = walls(b, d, looks, half)
    p = Place(b, d.uniform(-0.5, 0.5), 0.0, -half[2] + d.uniform(0.45, 1.2), d.uniform(-0.15, 0.15))
    w, t = d.uniform(0.55, 1.0), d.uniform(0.35, 0.5)
    h = F.table(p, d, looks, width=w, depth=t, things=d.integer(6, 16))
    if d.chance(0.7):
        for k in range(d.integer(1, 3)):
            F.monitor(p.sub(d.uniform(-0.4, 0.1) * w + 0.55 * k, h, -0.4 * t, d.uniform(-0.3, 0.3)), d, looks)
        F.keyboard(p.sub(d.uniform(-0.2, 0.2), h, 0.35 * t, d.uniform(-0.1, 0.1)), d, looks)
    if d.chance(0.6):
        F.office_chair(p.sub(d.uniform(-0.4, 0.4), 0, t + 0.35, math.pi + d.uniform(-0.8, 0.8)), d, looks)
    for k in range(d.integer(1, 4)):
        item = _pick(d, F.AGAINST_WALL)
        item(
            Place(
                b,
                d.uniform(-0.8, 0.8) * half[0],
                0,
                -half[2] + 0.35 if d.chance(0.6) else half[2] - 0.5,
                0.0 if k else d.uniform(0, 6.28),
            ),
            d,
            looks,
        )
    _wall_things(b, d, looks, half, sides=(0,))
    top = np.array(
        [p.at(d.uniform(-0.6, 0.6) * w, h + d.uniform(0.0, 0.2), d.uniform(-0.6, 0.6) * t) for _ in range(8)]
    )
    low, high = (
        np.array([-half[0] + 0.25, h + 0.12, p.z - 0.2 * t]),
        np.array([half[0] - 0.25, h + 1.1, half[2] - 0.25]),
    )
    stage = Stage(
        low,
        high,
        top,
        DESK_PATHS,
        normal=np.array([0.0, 0.0, 1.0]),
        reach=(0.45, 1.9),
        field=(32.0, 85.0),
        elevation=(0.4, 0.25),
    )
    return b.finish(light.indoor(d, *_bounds(half), looks.catalog, window), stage, "desk")


def _clutter(b: Builder, d: Draw, looks: Looks, half: np.ndarray) -> np.ndarray:
    """Add objects that float anywhere in the room, in any orientation; returns their centres (N, 3).

    WMGStereo (arXiv 2504.16930) found floating objects the most helpful variation for real indoor scenes.
    """
    middles = []
    for _ in range(d.integer(10, 31)):
        at = np.array(
            [d.uniform(-0.85, 0.85) * half[0], d.uniform(0.1, 1.7) * half[1], d.uniform(-0.85, 0.85) * half[2]]
        )
        size = math.exp(d.uniform(math.log(0.08), math.log(0.6)))
        add_object(b, d, looks, at, size, tumble=1.0)
        middles.append(at)
    return np.array(middles)


def _bounds(half: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.array([-half[0], 0.0, -half[2]]), np.array([half[0], 2 * half[1], half[2]])


OUTWARD = {0: (-1.0, 0.0), 1: (1.0, 0.0), 4: (0.0, -1.0), 5: (0.0, 1.0)}  # (x, z) of a shell's faces


def walls(b: Builder, d: Draw, looks: Looks, half: np.ndarray) -> tuple[float, float] | None:
    """Walls, floor, ceiling, and perhaps skirting, rug and window; returns the window's outward direction (x, z)."""
    x, y, z = half
    look = looks.look(WALLS, (0.5, 3.0), photos=0.15, shine=0.1, plain=0.22)
    opening: tuple[float, ...] = (-1.0,)
    if d.chance(0.3):
        u = d.uniform(-0.6, 0.1)
        opening = (d.choice((0, 1, 4, 5)), u, u + d.uniform(0.3, 0.6), d.choice((-0.99, -0.25)), d.uniform(0.4, 0.75))
    b.add(
        Kind.SHELL,
        (0, y, 0),
        (x, y, z),
        look((x, y, z), shift_faces=d.chance(0.5)),
        shape=opening,
        shadow=opening[0] >= 0,
    )
    floor, ceiling = (
        looks.look(FLOORS, (0.4, 2.5), photos=0.2, shine=0.4),
        looks.look(("plaster", "plaster", "panels"), (0.8, 3.0), photos=0.05, plain=0.3),
    )
    size = (x, 0.005, z)
    b.add(Kind.BOX, (0, 0.005, 0), size, floor(size), shadow=False, occluder=0.0)
    if d.chance(0.85):
        b.add(Kind.BOX, (0, 2 * y - 0.005, 0), size, ceiling(size), shadow=False, occluder=0.0)
    if d.chance(0.6):
        trim, h = looks.look(FURNITURE, (0.5, 2.0), photos=0.0), d.uniform(0.04, 0.09)
        for s in (-1, 1):
            for size, center in (((0.01, h, z), (s * x, h, 0)), ((x, h, 0.01), (0, h, s * z))):
                if opening[0] < 0:
                    b.add(Kind.BOX, center, size, trim(size), shadow=False, occluder=0.0)
    if d.chance(0.35):
        rug = looks.look(("carpet", "carpet", "fabric", "stripes"), (0.5, 2.5), photos=0.2)
        size = (x * d.uniform(0.3, 0.6), 0.008, z * d.uniform(0.3, 0.6))
        b.add(
            Kind.BOX,
            (d.uniform(-0.3, 0.3) * x, 0.015, d.uniform(-0.3, 0.3) * z),
            size,
            rug(size),
            shadow=False,
            occluder=0.0,
        )
    if opening[0] < 0:
        return None
    _glazing(b, d, looks, half, opening)
    return OUTWARD[int(opening[0])]


def _glazing(b: Builder, d: Draw, looks: Looks, half: np.ndarray, opening: tuple[float, ...]) -> None:
    """Frame and bars of the window, and perhaps a house or hedge outside."""
    x, y, z = half
    face, a0, a1, b0, b1 = opening
    across, depth = (z, x) if face < 2 else (x, z)
    frame, t = looks.look(FURNITURE, (0.5, 2.0), photos=0.0), d.uniform(0.02, 0.045)
    outward = OUTWARD[int(face)]

    def bar(u: float, v: float, hu: float, hv: float) -> None:
        at = (outward[0] * depth, y + v * y, u * across) if face < 2 else (u * across, y + v * y, outward[1] * depth)
        size = (t, hv * y + t, hu * across + t) if face < 2 else (hu * across + t, hv * y + t, t)
        b.add(Kind.BOX, at, size, frame(size), occluder=0.0)

    for u in np.linspace(a0, a1, d.integer(2, 5)):
        bar(u, (b0 + b1) / 2, 0.0, (b1 - b0) / 2)
    for v in (b0, b1):
        bar((a0 + a1) / 2, v, (a1 - a0) / 2, 0.0)
    if d.chance(0.7):
        far = depth + d.uniform(3.0, 9.0)
        size = (d.uniform(2, 6), d.uniform(0.6, 3.0), d.uniform(2, 6))
        at = (outward[0] * (far + size[0]) + d.uniform(-1, 1), 0.0, outward[1] * (far + size[2]) + d.uniform(-1, 1))
        b.add(
            Kind.BOX,
            at,
            size,
            looks.look(("windows", "leaves", "brick", "plaster"), (1.5, 5.0))(size),
            shadow=False,
            occluder=0.0,
        )


def _pick(d: Draw, weights: dict):
    names = {f.__name__: f for f in weights}
    return names[d.weighted({f.__name__: w for f, w in weights.items()})]


def _furnish(b: Builder, d: Draw, looks: Looks, half: np.ndarray) -> np.ndarray:
    targets = []
    for side in range(4):
        turn = side * math.pi / 2  # in the rotated frame, the wall is at -z
        across, along = (half[2], half[0]) if side % 2 == 0 else (half[0], half[2])
        slots = int(along / 0.9)
        for k in range(slots):
            if len(b) > 95 or not d.chance(0.45):
                continue
            x = -along + (2 * along) * (k + 0.5) / slots + d.uniform(-0.2, 0.2)
            p = Place(b, 0, 0, 0, turn).sub(x, 0, -across + d.uniform(0.3, 0.5), d.uniform(-0.05, 0.05))
            item = _pick(d, F.AGAINST_WALL)
            if item is F.bed:
                p = p.sub(0, 0, 0.75)
            item(p, d, looks)
            targets.append(p.at(0, d.uniform(0.5, 1.2), 0.2))
    for _ in range(d.integer(1, 4)):
        if len(b) > 115:
            break
        p = Place(b, d.uniform(-0.5, 0.5) * half[0], 0, d.uniform(-0.5, 0.5) * half[2], d.uniform(0, 6.28))
        item = _pick(d, F.FREE)
        item(p, d, looks)
        targets.append(p.at(0, d.uniform(0.4, 0.9), 0))
        if item is F.table:
            for s in (-1, 1):
                if d.chance(0.7):
                    F.chair(p.sub(d.uniform(-0.4, 0.4), 0, 0.6 * s, 0.0 if s < 0 else math.pi), d, looks)
    _wall_things(b, d, looks, half, sides=(0, 1, 2, 3))
    targets.append((0.0, 1.2, 0.0))
    return np.array(targets)


def _wall_things(b: Builder, d: Draw, looks: Looks, half: np.ndarray, sides) -> None:
    """Pictures, doors, curtains, clocks."""
    for side in sides:
        across, along = (half[2], half[0]) if side % 2 == 0 else (half[0], half[2])
        for _ in range(d.integer(0, 4)):
            if len(b) > 130:
                return
            p = Place(b, 0, 0, 0, side * math.pi / 2).sub(d.uniform(-0.8, 0.8) * along, 0, -across)
            kind = d.weighted({"picture": 4.0, "door": 0.8, "curtain": 0.8, "clock": 0.3, "radiator": 0.4})
            if kind == "picture":
                w, h, y = d.uniform(0.12, 0.5), d.uniform(0.12, 0.4), d.uniform(1.3, 1.7)
                p.box(0, y, 0.01, w + 0.025, h + 0.025, 0.012, looks.look(FURNITURE, (0.2, 1.0), photos=0.0))
                p.picture(0, y, 0.015, w, h, 0.01, looks.picture())
            elif kind == "door":
                p.picture(0, 1.0, 0.01, 0.43, 1.0, 0.02, looks.picture(("panels", "wood", "door"), photos=0.1))
            elif kind == "curtain":
                cloth = looks.look(SOFT, (0.2, 1.0), photos=0.1)
                for k in range(d.integer(3, 7)):
                    p.cylinder(0.13 * k, half[1], 0.08, 0.07, half[1] * 0.95, cloth)
            elif kind == "radiator":
                metal = looks.look(("plaster", "metal"), (0.3, 1.0), photos=0.0)
                for k in range(6):
                    p.rounded(0.09 * k, 0.4, 0.07, 0.035, 0.28, 0.05, 0.03, metal)
            else:
                p.cylinder(
                    0,
                    1.8,
                    0.02,
                    0.16,
                    0.02,
                    looks.look(("plaster",), (0.3, 1.0)),
                    lean=np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]),
                )
