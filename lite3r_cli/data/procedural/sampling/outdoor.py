"""Open ground: terrain, trees, rocks, houses, walls, columns, statues; streets between rows of houses."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from lite3r_cli.data.procedural.draw import Draw
from lite3r_cli.data.procedural.materials import CARVED, GROUNDS, MASONRY, Looks
from lite3r_cli.data.procedural.sampling import light
from lite3r_cli.data.procedural.sampling.objects import add_height, add_object
from lite3r_cli.data.procedural.sampling.place import UPRIGHT, Place, pitch, roll
from lite3r_cli.data.procedural.scene import Builder, Kind, Scene, Stage

PATHS = {"orbit": 3.0, "dolly": 1.3, "walk": 2.0, "handheld": 0.6, "pan": 1.5, "scattered": 2.5, "facade": 0.7}


def tree(p: Place, d: Draw, looks: Looks, height: float) -> None:
    """A trunk with a crown of leafy lumps, or a conifer."""
    bark = looks.look(("wood", "rubble", "stone"), (0.3, 1.0), photos=0.1)
    leaf = looks.look(("leaves", "leaves", "leaves", "grass"), (0.4, 1.5), photos=0.15, shine=0.0)
    r = height * d.uniform(0.025, 0.06)
    p.cylinder(0, 0.3 * height, 0, r, 0.3 * height, bark, top=0.6)
    if d.chance(0.25):
        for k in range(3):
            p.cylinder(0, (0.4 + 0.22 * k) * height, 0, (0.28 - 0.07 * k) * height, 0.16 * height, leaf, top=0.1)
        return
    for _ in range(d.integer(3, 8)):
        size = height * d.uniform(0.12, 0.28)
        p.rock(
            d.uniform(-0.25, 0.25) * height,
            height * d.uniform(0.5, 0.95),
            d.uniform(-0.25, 0.25) * height,
            size,
            leaf,
            d,
            d.rotation(),
        )


def house(p: Place, d: Draw, looks: Looks) -> None:
    """A body with window textures or reliefs and a gabled roof."""
    w, h, t = d.uniform(2.0, 5.0), d.uniform(1.3, 3.5), d.uniform(2.0, 4.5)
    wall = looks.look(("windows", "windows", "plaster", "brick"), (2.0, 4.0), photos=0.15, shine=0.05)
    p.box(0, h, 0, w, h, t, wall)
    if d.chance(0.6):
        add_height(
            p.b,
            d,
            looks,
            p.at(0, h, t + 0.1),
            (w * 0.98, 0.12, h * 0.98),
            p.rotation @ UPRIGHT,
            ("windows", "windows", "door"),
            repeat=0.5,
        )
    roof = looks.look(("tiles", "corrugated", "stone"), (0.6, 2.0), photos=0.05)
    slope = d.uniform(0.4, 0.9)
    length = 0.5 * w / math.cos(slope) + 0.2
    for s in (-1, 1):
        p.box(s * 0.5 * w, 2 * h + 0.5 * w * math.tan(slope), 0, length, 0.08, t + 0.3, roof, lean=roll(-s * slope))
    if d.chance(0.5):
        p.box(
            d.uniform(-0.5, 0.5) * w,
            2 * h + 0.8 * w * math.tan(slope),
            d.uniform(-0.5, 0.5) * t,
            0.25,
            0.8,
            0.25,
            looks.look(("brick",), (0.5, 1.5), photos=0.0),
        )


def monument(p: Place, d: Draw, looks: Looks) -> None:
    """A figure, column, obelisk, ball or vase on a pedestal."""
    look = looks.look(CARVED, (0.4, 1.5), photos=0.15)
    base, y = d.uniform(0.4, 1.0), 0.0
    for k in range(d.integer(1, 4)):
        h = d.uniform(0.08, 0.5)
        p.box(0, y + h, 0, base * (1 - 0.2 * k), h, base * (1 - 0.2 * k), look)
        y += 2 * h
    kind = d.weighted({"figure": 2.0, "column": 1.0, "obelisk": 1.0, "ball": 0.7, "vase": 1.0})
    s = base * d.uniform(0.8, 1.6)
    if kind == "figure":
        p.turned(0, y + 0.8 * s, 0, 0.35 * s, 0.8 * s, look, waves=d.uniform(1, 2), phase=d.uniform(0, 6), swell=0.5)
        p.ball(0, y + 1.75 * s, 0, 0.17 * s, 0.2 * s, 0.18 * s, look)
        for _ in range(d.integer(1, 4)):
            p.rock(
                d.uniform(-0.3, 0.3) * s,
                y + d.uniform(0.5, 1.5) * s,
                d.uniform(-0.2, 0.2) * s,
                d.uniform(0.2, 0.4) * s,
                look,
                d,
            )
    elif kind == "column":
        p.cylinder(0, y + 1.5 * s, 0, 0.25 * s, 1.5 * s, look, top=0.85)
        p.box(0, y + 3.05 * s, 0, 0.35 * s, 0.08 * s, 0.35 * s, look)
    elif kind == "obelisk":
        p.cylinder(0, y + 1.5 * s, 0, 0.35 * s, 1.5 * s, look, top=0.3)
    elif kind == "ball":
        p.ball(0, y + 0.6 * s, 0, 0.6 * s, 0.6 * s, 0.6 * s, look)
    else:
        p.turned(0, y + 0.5 * s, 0, 0.45 * s, 0.5 * s, look, waves=1.5, phase=d.uniform(0, 3), swell=0.8)


def colonnade(p: Place, d: Draw, looks: Looks) -> None:
    look, count, step, h = (
        looks.look(CARVED, (0.5, 2.0), photos=0.1),
        d.integer(3, 8),
        d.uniform(0.8, 1.6),
        d.uniform(1.2, 2.5),
    )
    for k in range(count):
        x = (k - 0.5 * (count - 1)) * step
        p.cylinder(x, h, 0, 0.18, h, look, top=0.88)
        p.box(x, 2 * h, 0, 0.26, 0.08, 0.26, look)
    p.box(0, 2 * h + 0.25, 0, 0.5 * count * step, 0.18, 0.3, look)


def low_wall(p: Place, d: Draw, looks: Looks) -> None:
    p.box(0, 0.5, 0, d.uniform(1.5, 5.0), 0.5, 0.15, looks.look(MASONRY, (0.5, 2.0), photos=0.2))


def rocks(p: Place, d: Draw, looks: Looks) -> None:
    look = looks.look(("rubble", "stone", "stone"), (0.5, 2.0), photos=0.3)
    for _ in range(d.integer(1, 5)):
        size = d.log_uniform(0.2, 1.4)
        p.rock(d.uniform(-1, 1), 0.4 * size, d.uniform(-1, 1), size, look, d, d.rotation())


def thing(p: Place, d: Draw, looks: Looks) -> None:
    add_object(p.b, d, looks, p.at(0, 0, 0), d.uniform(0.4, 2.0), tumble=0.2)


def parasol(p: Place, d: Draw, looks: Looks) -> None:
    cloth = looks.look(("stripes", "fabric", "plaster"), (0.4, 1.5))
    p.cylinder(0, 1.1, 0, 0.03, 1.1, looks.look(("metal", "wood"), (0.3, 1.0)))
    p.cylinder(0, 2.2, 0, 1.2, 0.2, cloth, top=0.05)
    p.cylinder(0, 0.7, 0, 0.4, 0.02, cloth)


ITEMS: dict[Callable[..., None], float] = {
    tree: 3.0,
    house: 1.5,
    monument: 2.0,
    colonnade: 0.8,
    low_wall: 1.0,
    rocks: 1.5,
    thing: 2.0,
    parasol: 0.5,
}


def sample(d: Draw, looks: Looks) -> Scene:
    """A garden, field or square with a few objects, and houses and trees around it."""
    b = Builder()
    extent = d.log_uniform(3.0, 12.0)
    lift = _terrain(b, d, looks, extent)
    names = {f.__name__: f for f in ITEMS}
    weights = {f.__name__: w for f, w in ITEMS.items()}
    targets = []
    for _ in range(d.integer(3, 9)):
        if len(b) > 100:
            break
        p = Place(b, d.uniform(-0.7, 0.7) * extent, lift, d.uniform(-0.7, 0.7) * extent, d.uniform(0, 6.28))
        name = d.weighted(weights)
        if name == "tree":
            tree(p, d, looks, d.uniform(1.5, 5.0))
        else:
            names[name](p, d, looks)
        targets.append(p.at(0, d.uniform(0.5, 1.5), 0))
    for _ in range(d.integer(1, 7)):
        azimuth, distance = d.uniform(0, 6.28), extent * d.uniform(1.5, 3.0)
        if len(b) > 130:
            break
        p = Place(
            b,
            distance * math.sin(azimuth),
            lift,
            distance * math.cos(azimuth),
            azimuth + math.pi + d.uniform(-0.5, 0.5),
        )
        if d.chance(0.5):
            house(p, d, looks)
        else:
            tree(p, d, looks, d.uniform(3, 7))
    low, high = (
        np.array([-1.2 * extent, lift + 1.2, -1.2 * extent]),
        np.array([1.2 * extent, lift + d.choice((1.9, 2.5, 6.0)), 1.2 * extent]),
    )
    stage = Stage(
        low,
        high,
        np.array(targets),
        PATHS,
        reach=(0.35 * extent, 1.3 * extent),
        field=(34.0, 95.0),
        elevation=(0.1, 0.2),
    )
    return b.finish(light.outdoor(d, looks.catalog, 3 * extent), stage, "outdoor")


def _terrain(b: Builder, d: Draw, looks: Looks, extent: float) -> float:
    """Flat ground or hills; returns the height on which objects stand."""
    wide = 6 * extent
    if d.chance(0.5):
        size = (wide, 0.12 * extent * d.uniform(0.4, 1.6), wide)
        bottom = -0.9
        add_height(
            b,
            d,
            looks,
            (0, 0, 0),
            size,
            np.eye(3),
            ("hills", "hills", "rubble"),
            repeat=d.uniform(1.0, 3.5),
            bottom=bottom,
            level=2,
            photos=0.15,
            steps=64,
        )
        detail = looks.look(("grass", "gravel", "hills"), (1.0, 4.0), photos=0.2)
        b.materials[-1] = detail(size, mode=3) if d.chance(0.6) else b.materials[-1]
        return -0.15 * size[1]
    size = (wide, 0.5, wide)
    b.add(Kind.BOX, (0, -0.5, 0), size, looks.look(GROUNDS, (0.8, 4.0), photos=0.2, shine=0.15)(size), occluder=0.0)
    return 0.0


def street(d: Draw, looks: Looks) -> Scene:
    """Two rows of buildings, the road between them, cars and lamps."""
    b = Builder()
    half, length = d.uniform(2.5, 6.0), 30.0
    road = looks.look(("stone", "gravel", "tiles", "plaster", "ashlar"), (0.8, 3.0), photos=0.1, shine=0.1)
    b.add(Kind.BOX, (0, -0.5, 0), (60.0, 0.5, 60.0), road((60.0, 0.5, 60.0)), occluder=0.0)
    targets = []
    for side in (-1, 1):
        walk = looks.look(GROUNDS, (0.5, 2.0), photos=0.1)
        p = Place(b, side * half, 0, 0, -side * math.pi / 2)
        p.box(0, 0.06, 0.6, length, 0.06, 0.8, walk)
        x = -0.6 * length
        while x < 0.6 * length and len(b) < 90:
            w, h = d.uniform(1.8, 4.5), d.uniform(1.6, 5.5)
            q = p.sub(x + w, 0, -d.uniform(0.0, 0.6))
            q.box(0, h, -2.2, w, h, 1.9, looks.look(MASONRY, (1.0, 3.0), photos=0.15, shine=0.05))
            add_height(
                b,
                d,
                looks,
                q.at(0, h, -0.05),
                (w, 0.2, h),
                q.rotation @ UPRIGHT,
                ("windows", "windows", "windows", "door"),
                repeat=0.5,
                photos=0.04,
            )
            if d.chance(0.6):
                q.box(
                    0,
                    2 * h + 0.8,
                    -1.2,
                    w + 0.1,
                    0.07,
                    1.8,
                    looks.look(("tiles", "corrugated"), (0.5, 1.5), photos=0.0),
                    lean=pitch(d.uniform(0.5, 0.9)),
                )
            targets.append(q.at(0, d.uniform(0.5, 0.9) * min(h, 2.5), 0))
            x += 2 * w + (0.0 if d.chance(0.7) else d.uniform(0.5, 2.5))
    _street_things(b, d, looks, half, length)
    low, high = np.array([-half + 1.0, 1.3, -0.5 * length]), np.array([half - 1.0, d.choice((1.8, 2.2)), 0.5 * length])
    paths = {"walk": 4.0, "dolly": 1.5, "pan": 1.5, "scattered": 2.0, "orbit": 1.5, "handheld": 0.7}
    stage = Stage(
        low, high, np.array(targets), paths, reach=(0.8 * half, 3.0 * half), field=(40.0, 95.0), elevation=(0.0, 0.08)
    )
    return b.finish(light.outdoor(d, looks.catalog, 25.0), stage, "street")


def _street_things(b: Builder, d: Draw, looks: Looks, half: float, length: float) -> None:
    for _ in range(d.integer(2, 9)):
        if len(b) > 130:
            return
        side = d.sign()
        p = Place(b, side * (half - d.uniform(0.4, 1.2)), 0, d.uniform(-0.5, 0.5) * length, d.uniform(-0.1, 0.1))
        kind = d.weighted({"car": 2.0, "lamp": 1.5, "tree": 1.0, "bin": 1.0})
        if kind == "car":
            q = p.sub(-side * 0.6, 0, 0, math.pi / 2)
            q.rounded(
                0, 0.55, 0, 1.9, 0.38, 0.8, 0.25, looks.look(("plaster", "metal"), (1.0, 3.0), photos=0.05, shine=1.0)
            )
            q.rounded(-0.2, 1.0, 0, 1.1, 0.4, 0.7, 0.3, looks.look(("plaster",), (1.0, 3.0), photos=0.05, shine=1.0))
            rubber = looks.look(("leather",), (0.2, 0.5), photos=0.0)
            for x in (-1.15, 1.15):
                for z in (-0.75, 0.75):
                    q.cylinder(x, 0.3, z, 0.3, 0.1, rubber, lean=pitch(math.pi / 2))
        elif kind == "lamp":
            metal = looks.look(("metal", "plaster"), (0.5, 2.0), photos=0.0)
            p.cylinder(0, 2.0, 0, 0.06, 2.0, metal, top=0.6)
            p.ball(0, 4.1, 0, 0.18, 0.22, 0.18, metal)
        elif kind == "tree":
            tree(p, d, looks, d.uniform(2.5, 5.0))
        else:
            p.cylinder(0, 0.5, 0, 0.28, 0.5, looks.look(("metal", "plaster", "glyphs"), (0.4, 1.2)), top=1.1)
