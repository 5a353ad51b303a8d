"""Buildings seen from the street: walls with deep openings, pilasters, cornices, portals, balconies, statues."""

from __future__ import annotations

import math

import numpy as np

from lite3r_cli.data.procedural.draw import Draw
from lite3r_cli.data.procedural.materials import CARVED, GROUNDS, Looks
from lite3r_cli.data.procedural.sampling import light
from lite3r_cli.data.procedural.sampling.fountain import fountain_wall
from lite3r_cli.data.procedural.sampling.objects import add_height
from lite3r_cli.data.procedural.sampling.outdoor import tree
from lite3r_cli.data.procedural.sampling.place import UPRIGHT, Place, pitch, roll
from lite3r_cli.data.procedural.sampling.style import Style, draw_style, statue
from lite3r_cli.data.procedural.scene import Builder, Kind, Scene, Stage

PATHS = {"facade": 4.0, "orbit": 3.0, "scattered": 2.5, "walk": 1.2, "dolly": 1.2, "handheld": 0.5, "pan": 1.0}


def sample(d: Draw, looks: Looks) -> Scene:
    """A facade along x that faces +z, ground, and perhaps a wing, a fountain, trees and other houses."""
    b = Builder()
    style = draw_style(d, looks)
    front = Place(b, 0, 0, 0)
    bays, storeys = d.integer(3, 7), d.integer(1, 4)
    width = bays * style.bay
    targets: list = []
    _ground(b, looks)
    if d.chance(0.35):
        fountain_wall(front, d, looks, style, width, targets)
    else:
        _wall(front, d, looks, style, bays, storeys, targets)
    if d.chance(0.55):
        _wing(front, d, looks, width * d.uniform(1.0, 1.3), targets)
    _surroundings(b, d, looks, width)
    distance = d.uniform(3.5, 12.0) * min(1.0, 0.25 + 0.1 * width)
    stage = Stage(
        np.array([-width - 2, 1.2, 1.5]), np.array([width + 2, d.choice((1.8, 1.9, 3.0)), 1.8 * distance + 4]),
        np.array(targets), PATHS,
        normal=np.array([0.0, 0.0, 1.0]), reach=(0.6 * distance, 1.4 * distance), field=(36.0, 90.0),
        elevation=(-0.1, 0.15),
    )  # fmt: skip
    return b.finish(light.outdoor(d, looks.catalog, 20.0, facing=0.0), stage, "facade")


def _ground(b: Builder, looks: Looks) -> None:
    size = (60.0, 0.5, 60.0)
    b.add(Kind.BOX, (0, -0.5, 30.0), size, looks.look(GROUNDS, (0.8, 4.0), photos=0.15, shine=0.15)(size), occluder=0.0)


def _wall(p: Place, d: Draw, looks: Looks, style: Style, bays: int, storeys: int, targets: list) -> None:
    """Bays × storeys of openings; the middle bay of the ground floor gets the portal."""
    portal = d.integer(0, bays)
    width = bays * style.bay
    relief = d.chance(0.2)
    pane = looks.picture(("casement",), photos=0.05, reflect=d.uniform(0.2, 1.0), specular=0.3)
    shape = _opening(d, style)
    for j in range(storeys):
        y = (j + 0.5) * style.storey
        if j and d.chance(0.5):
            shape = _opening(d, style)
        if relief and j:
            size = (width, style.depth, 0.5 * style.storey)
            add_height(
                p.b,
                d,
                looks,
                p.at(0, y, -0.3 * style.depth),
                size,
                p.rotation @ UPRIGHT,
                ("windows", "windows", "panels"),
                repeat=0.5,
                steps=48,
            )
            targets.append(p.at(0, y, 0))
            continue
        for i in range(bays):
            x = (2 * i + 1 - bays) * style.bay
            if j == 0 and i == portal:
                _portal(p.sub(x, 0, 0), d, looks, style)
            else:
                _window(p.sub(x, y, 0), d, style, shape, pane)
            targets.append(p.at(0.7 * x, max(y * d.uniform(0.6, 1.0), 1.6), 0))
        if d.chance(0.8):
            h = d.uniform(0.05, 0.18)
            p.box(0, (j + 1) * style.storey, d.uniform(0.0, 0.15), width + 0.1, h, style.depth * 0.6 + 0.1, style.trim)
    _dress(p, d, looks, style, bays, storeys, width)


def _opening(d: Draw, style: Style) -> tuple[float, float, float, float, float]:
    """Window opening in local units of its bay and storey: centre x, bottom, half width, springing height, rise."""
    arched = d.chance(style.arched)
    half, top = d.uniform(0.28, 0.6), d.uniform(0.35, 0.72)
    rise = (
        half * style.bay / (0.5 * style.storey)
        if arched and d.chance(0.6)
        else (d.uniform(0.05, 0.25) if arched else 0.0)
    )
    rise = min(rise, 0.5)
    return (0.0, d.uniform(-0.75, -0.35), half, top - rise, rise)


def _window(p: Place, d: Draw, style: Style, shape, pane) -> None:
    """One bay of one storey: a wall with an opening, its pane, sill and surround."""
    hx, hy, hz = style.bay, 0.5 * style.storey, style.depth
    if d.chance(0.06):
        p.box(0, 0, -hz, hx, hy, hz, style.wall)
        return
    p.arch(0, 0, -hz, hx, hy, hz, style.wall, (*shape, -0.75))
    _, bottom, half, top, rise = shape
    low, high = bottom * hy, (top + rise) * hy
    center = (low + high) / 2, (high - low) / 2
    p.picture(0, center[0], -1.6 * hz, half * hx, center[1], 0.02, pane)
    p.box(0, low - 0.06, 0.06, half * hx + 0.12, 0.06, 0.1, style.trim)
    if d.chance(0.5):
        for s in (-1, 1):
            p.box(s * (half * hx + 0.07), (low + top * hy) / 2, 0.02, 0.07, (top * hy - low) / 2, 0.05, style.trim)
        if rise == 0:
            p.box(0, high + 0.1, 0.03, half * hx + 0.2, 0.09, 0.1, style.trim)


def _portal(p: Place, d: Draw, looks: Looks, style: Style) -> None:
    """A door in an arch, with steps, columns, entablature, pediment or balcony."""
    hx, hy, hz = style.bay, 0.5 * style.storey, style.depth
    half = d.uniform(0.35, 0.62)
    rise = min(half * hx / hy, 0.6) if d.chance(0.6) else 0.0
    top = d.uniform(0.2, 0.5) - (0.3 * rise)
    p.arch(0, hy, -hz, hx, hy, hz, style.wall, (0.0, -1.6, half, top, rise, -0.8))
    nested = d.integer(0, 4) if rise > 0 else 0
    for k in range(nested):  # stepped archivolts
        t = 0.12 + 0.05 * k
        grow = 1.0 + 0.14 * (k + 1)
        ring = min(half * grow, 0.95)
        size = (min((ring + 0.08) * hx, hx), hy, 0.06)
        outer = size[0] / hx
        scale = half * (1.0 + 0.14 * k) / outer
        p.arch(
            0,
            hy,
            0.02 + t * (k + 1) * 0.6,
            *size,
            style.carved,
            (0.0, -1.6, min(scale, 0.93), top, rise * (1 + 0.1 * k), -1.5),
        )
    p.picture(
        0,
        hy * (1 + 0.5 * (top + rise - 1)),
        -1.7 * hz,
        half * hx,
        0.5 * hy * (top + rise + 1),
        0.03,
        looks.picture(("door", "panels", "wood"), photos=0.1),
    )
    steps = d.integer(0, 6)
    for k in range(steps):
        p.box(
            0,
            0.08 * (k + 1),
            0.25 * (steps - k),
            hx * 0.9 + 0.25 * (steps - k),
            0.08,
            0.3 * (steps - k) + 0.3,
            style.trim,
        )
    if d.chance(0.65):
        _columns(
            p, d, style, hx * min(half + 0.25, 1.0), style.storey * d.uniform(0.75, 1.0), 0.25 + d.uniform(0.1, 1.2)
        )


def _columns(p: Place, d: Draw, style: Style, x: float, height: float, z: float) -> None:
    r = d.uniform(0.1, 0.24)
    for s in (-1, 1):
        q = p.sub(s * x, 0, z)
        if d.chance(0.7):
            q.cylinder(0, height / 2, 0, r, height / 2, style.carved, top=0.86)
        else:
            q.turned(0, height / 2, 0, r * 1.3, height / 2, style.carved, waves=d.uniform(1, 4), phase=1.0, swell=0.3)
        q.box(0, 0.12, 0, 1.4 * r, 0.12, 1.4 * r, style.trim)
        q.box(0, height, 0, 1.5 * r, 0.1, 1.5 * r, style.trim)
    p.box(0, height + 0.22, z * 0.5, x + 0.35, 0.16, 0.5 * z + 0.3, style.trim)
    kind = d.weighted({"pediment": 1.0, "balcony": 1.5, "arch": 0.7, "none": 0.6})
    top = height + 0.4
    if kind == "pediment":
        slope, length = d.uniform(0.3, 0.6), (x + 0.4) / 2
        for s in (-1, 1):
            p.box(
                s * length,
                top + length * math.tan(slope),
                z * 0.6,
                length / math.cos(slope),
                0.09,
                0.4 * z + 0.2,
                style.trim,
                lean=roll(-s * slope),
            )
        p.ball(0, top + 0.5 * length * math.tan(slope), 0.4 * z, 0.4 * x, 0.25, 0.2, style.carved)
    elif kind == "balcony":
        count = d.integer(5, 10)
        for k in range(count):
            t = 2 * k / (count - 1) - 1
            p.turned(t * (x + 0.25), top + 0.28, z + 0.15, 0.09, 0.28, style.carved, waves=1.5, phase=1.0, swell=0.6)
        p.box(0, top + 0.6, z + 0.15, x + 0.35, 0.05, 0.12, style.trim)
    elif kind == "arch":
        p.torus(0, top, 0.3 * z + 0.1, x * 0.8, 0.12, style.carved, pitch(math.pi / 2))


def _dress(p: Place, d: Draw, looks: Looks, style: Style, bays: int, storeys: int, width: float) -> None:
    """Pilasters, plinth, eaves, quoins, drain pipe, statues, ornament."""
    height = storeys * style.storey
    if d.chance(0.5):
        round_ = d.chance(0.3)
        w, out = d.uniform(0.1, 0.3), d.uniform(0.05, 0.2)
        for i in range(bays + 1):
            x = (2 * i - bays) * style.bay
            if round_:
                p.cylinder(x, height / 2, 0, w, height / 2, style.trim)
            else:
                p.box(x, height / 2, 0, w, height / 2, out, style.trim)
    if d.chance(0.6):
        for x in (-width, width) if d.chance(0.5) else (0.0,):
            p.box(
                x,
                d.uniform(0.3, 0.6),
                0.0,
                width if x == 0 else 0.3,
                d.uniform(0.2, 0.5),
                d.uniform(0.05, 0.14),
                style.trim,
            )
    roof = looks.look(("tiles", "corrugated", "stone"), (0.6, 2.0), photos=0.0)
    if d.chance(0.75):
        p.box(0, height + 0.15, 0.2, width + 0.4, 0.15, 0.5, style.trim)
        p.box(0, height + 1.6, -1.6, width + 0.4, 0.06, 2.6, roof, lean=pitch(d.uniform(0.5, 0.9)))
    if d.chance(0.4):
        p.cylinder(d.sign() * (width - 0.2), height / 2, 0.12, 0.05, height / 2, looks.look(("metal",), (0.5, 1.5)))
    for _ in range(d.integer(0, 7)):
        x, y = d.uniform(-1, 1) * width, d.uniform(0.3, 1.0) * height
        r = d.uniform(0.25, 0.7)
        kind = d.weighted({"relief": 2.0, "statue": 1.5, "shield": 1.0, "lamp": 0.5, "sign": 0.7})
        if kind == "relief":
            add_height(
                p.b, d, looks, p.at(x, y, 0.02), (r, 0.18, r), p.rotation @ UPRIGHT, ("ornament", "statue"), photos=0.1
            )
        elif kind == "statue":
            statue(p.sub(x, y - r, 0.3), d, style, 1.4 * r)
        elif kind == "shield":
            p.ball(x, y, 0.05, 0.6 * r, 0.8 * r, 0.15, style.carved)
        elif kind == "lamp":
            p.ball(x, 0.6 * y + 1, 0.25, 0.12, 0.18, 0.12, looks.look(("metal", "plaster"), (0.2, 0.6), shine=1.0))
        else:
            p.picture(x, 1.8, 0.03, 0.3 * r + 0.1, 0.3 * r + 0.1, 0.02, looks.picture(("glyphs", "checker")))


def _wing(p: Place, d: Draw, looks: Looks, width: float, targets: list) -> None:
    """A second building at an angle to the first."""
    style = draw_style(d, looks)
    side = d.sign()
    bays, storeys = d.integer(2, 5), d.integer(1, 4)
    q = p.sub(side * (width + 0.5), 0, bays * style.bay + 0.2, -side * math.pi / 2 + d.uniform(-0.25, 0.25))
    if d.chance(0.6):
        half = bays * style.bay
        size = (half, 0.25, 0.5 * storeys * style.storey)
        add_height(
            p.b,
            d,
            looks,
            q.at(0, size[2], 0),
            size,
            q.rotation @ UPRIGHT,
            ("windows", "windows", "windows", "panels"),
            repeat=0.5 * max(1, storeys // 2),
            steps=48,
        )
    elif len(p.b) < 90:
        shape, pane = _opening(d, style), looks.picture(("casement",), photos=0.0, reflect=0.5)
        for j in range(min(storeys, 2)):
            for i in range(min(bays, 3)):
                _window(q.sub((2 * i + 1 - bays) * style.bay, (j + 0.5) * style.storey, 0), d, style, shape, pane)
    else:
        q.box(0, 2.0, -0.3, bays * style.bay, 2.0, 0.3, style.wall)
    targets.append(q.at(0, 1.8, 0))


def _surroundings(b: Builder, d: Draw, looks: Looks, width: float) -> None:
    """Trees, bollards, vases, benches and cars in front, and distant houses."""
    for _ in range(d.integer(0, 4)):
        x = d.sign() * d.uniform(0.4, 1.5) * (width + 1)
        if len(b) > 125:
            return
        kind = d.weighted({"tree": 1.0, "bollard": 1.0, "vase": 1.0, "bench": 0.7, "car": 0.5})
        p = Place(b, x, 0, d.uniform(0.6, 2.5), d.uniform(-0.3, 0.3))
        look = looks.look(CARVED, (0.3, 1.0), photos=0.15)
        if kind == "tree":
            tree(p, d, looks, d.uniform(1.5, 3.5))
        elif kind == "bollard":
            p.cylinder(0, 0.4, 0, 0.1, 0.4, look, top=0.8)
        elif kind == "vase":
            p.turned(0, 0.45, 0, 0.3, 0.45, look, waves=1.5, phase=d.uniform(0, 3), swell=0.7)
        elif kind == "bench":
            p.box(0, 0.45, 0, 0.8, 0.04, 0.22, look)
            for s in (-1, 1):
                p.box(0.6 * s, 0.2, 0, 0.05, 0.2, 0.2, look)
        else:
            paint = looks.look(("plaster", "metal"), (1.0, 3.0), photos=0.0, shine=1.0)
            p.rounded(0, 0.55, 0.5, 1.9, 0.35, 0.8, 0.25, paint)
            p.rounded(-0.2, 1.0, 0.5, 1.1, 0.35, 0.7, 0.25, looks.look(("plaster",), (1.0, 3.0), photos=0.0, shine=1.0))
    for _ in range(d.integer(0, 3)):
        size = (d.uniform(3, 8), d.uniform(3, 9), d.uniform(3, 6))
        p = Place(b, d.sign() * (width + size[0] + d.uniform(3, 15)), 0, d.uniform(-15, 2), d.uniform(-0.4, 0.4))
        p.box(0, size[1], 0, *size, looks.look(("windows", "windows", "plaster"), (2.5, 6.0), photos=0.1))
