"""Furniture made of a few primitives each, built at a Place on the floor with its back to -z."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lite3r_cli.data.procedural.draw import Draw
from lite3r_cli.data.procedural.materials import FURNITURE, SOFT, THINGS, Look, Looks
from lite3r_cli.data.procedural.sampling.objects import add_object
from lite3r_cli.data.procedural.sampling.place import Place, pitch, roll


def _wood(looks: Looks):
    return looks.look(FURNITURE, (0.3, 2.0), photos=0.1)


def table(p: Place, d: Draw, looks: Looks, *, width=None, depth=None, height=None, things: int = 5) -> float:
    """A table with four legs or one column, and `things` objects on it; returns the height of its top."""
    w, t, h = width or d.uniform(0.4, 1.1), depth or d.uniform(0.3, 0.5), height or d.uniform(0.68, 0.8)
    look, thick = _wood(looks), d.uniform(0.012, 0.03)
    legs = look if d.chance(0.6) else _wood(looks)
    if d.chance(0.75):
        p.box(0, h - thick, 0, w, thick, t, look)
        r = d.uniform(0.018, 0.04)
        for x in (-1, 1):
            for z in (-1, 1):
                if d.chance(0.5):
                    p.box(x * (w - 2 * r), (h - thick) / 2, z * (t - 2 * r), r, (h - thick) / 2, r, legs)
                else:
                    p.cylinder(
                        x * (w - 2 * r),
                        (h - thick) / 2,
                        z * (t - 2 * r),
                        r,
                        (h - thick) / 2,
                        legs,
                        top=d.uniform(1.0, 1.5),
                    )
    else:
        p.cylinder(0, h - thick, 0, w, thick, look, deep=t)
        p.cylinder(0, (h - thick) / 2, 0, 0.05, (h - thick) / 2, legs)
        p.cylinder(0, 0.02, 0, 0.25, 0.02, legs, top=0.7)
    clutter(p, d, looks, w, t, h, things)
    return h


def clutter(p: Place, d: Draw, looks: Looks, w: float, t: float, h: float, count: int) -> None:
    """`count` small objects on a surface of half extents (w, t) at height h."""
    for _ in range(count):
        x, z = d.uniform(-0.85, 0.85) * w, d.uniform(-0.8, 0.8) * t
        kind = d.weighted({"book": 2.0, "cup": 1.5, "bottle": 1.0, "paper": 1.5, "object": 3.0, "bowl": 0.6})
        q = p.sub(x, h, z, d.uniform(-0.7, 0.7))
        if kind == "book":
            y = 0.0
            for _ in range(d.integer(1, 4)):
                thick = d.uniform(0.008, 0.025)
                q = p.sub(x, h, z, d.uniform(-0.7, 0.7))
                q.box(
                    0,
                    y + thick,
                    0,
                    d.uniform(0.06, 0.11),
                    thick,
                    d.uniform(0.08, 0.15),
                    looks.look(("glyphs", "plaster", "stripes", "leather"), (0.2, 0.5)),
                )
                y += 2 * thick
        elif kind == "cup":
            r = d.uniform(0.03, 0.05)
            look = looks.look(("plaster", "stripes", "marble", "glyphs"), (0.1, 0.5), shine=0.8)
            q.cylinder(0, 1.2 * r, 0, r, 1.2 * r, look, top=d.uniform(0.9, 1.3))
            q.torus(r * 1.15, 1.2 * r, 0, 0.6 * r, 0.15 * r, look, pitch(math.pi / 2))
        elif kind == "bottle":
            look = looks.look(("glyphs", "plaster", "metal"), (0.1, 0.4), shine=0.9)
            r, half = d.uniform(0.025, 0.05), d.uniform(0.06, 0.13)
            q.turned(0, half, 0, r, half, look, waves=d.uniform(0.8, 2), phase=d.uniform(1, 3), swell=0.5)
        elif kind == "paper":
            q.picture(0, 0.001, 0, 0.105, 0.15, 0.0012, looks.picture(("glyphs", "screen"))) if d.chance(
                0.2
            ) else q.box(0, 0.0015, 0, 0.105, 0.0015, 0.15, looks.look(("glyphs", "plaster", "screen"), (0.2, 0.3)))
        elif kind == "bowl":
            q.ball(0, 0.02, 0, 0.12, 0.045, 0.12, looks.look(("marble", "plaster", "wood"), (0.1, 0.4), shine=0.8))
        else:
            add_object(p.b, d, looks, q.at(0, 0, 0), d.log_uniform(0.06, 0.25), tumble=0.15)


@dataclass(frozen=True)
class ChairDesign:
    """What the chairs of a set have in common; lengths in metres."""

    wood: Look
    cushion: Look
    width: float  # half of it
    seat: float  # height
    top: float  # height of the back
    post: float  # half thickness of legs and posts
    soft: bool  # a seat with round edges
    rungs: int  # boards across the back, 0 = one panel
    slats: int  # upright boards between two rungs


def chair_design(d: Draw, looks: Looks) -> ChairDesign:
    """A random design of chairs."""
    wood, seat = _wood(looks), d.uniform(0.42, 0.48)
    cushion = looks.look(SOFT, (0.1, 0.6)) if d.chance(0.5) else wood
    back = d.weighted({"panel": 0.4, "rungs": 0.3, "slats": 0.3})
    return ChairDesign(
        wood, cushion, d.uniform(0.19, 0.25), seat, seat + d.uniform(0.35, 0.55), d.uniform(0.012, 0.022),
        d.chance(0.5), {"panel": 0, "rungs": d.integer(2, 5), "slats": 2}[back],
        d.integer(2, 6) if back == "slats" else 0,
    )  # fmt: skip


def chair(p: Place, d: Draw, looks: Looks, design: ChairDesign | None = None) -> None:
    """A chair of the given design, or of a random one."""
    c = design or chair_design(d, looks)
    w, r, seat, top = c.width, c.post, c.seat, c.top
    p.rounded(0, seat, 0, w, 0.03, w, 0.02, c.cushion) if c.soft else p.box(0, seat, 0, w, 0.02, w, c.cushion)
    for x in (-1, 1):
        p.box(x * (w - r), seat / 2, w - r, r, seat / 2, r, c.wood)
        p.box(x * (w - r), top / 2, -w + r, r, top / 2, r, c.wood)
    if c.rungs == 0:
        p.box(0, (seat + top) / 2 + 0.08, -w + r, w - r, (top - seat) / 2 - 0.06, 0.012, c.cushion)
    low, high = seat + 0.12, top - 0.04
    for k in range(c.rungs):
        y = high - k * (high - low) / c.rungs if c.slats == 0 else (low, high)[k]
        p.box(0, y, -w + r, w - r, 0.025, 0.01, c.wood)
    for k in range(c.slats):
        at = (2 * (k + 1) / (c.slats + 1) - 1) * (w - r)
        p.box(at, (low + high) / 2, -w + r, 0.4 * w / (c.slats + 1), (high - low) / 2, 0.008, c.wood)


def dining(p: Place, d: Draw, looks: Looks) -> None:
    """A table with chairs of one design around it."""
    w, t = d.uniform(0.6, 1.1), d.uniform(0.4, 0.55)
    table(p, d, looks, width=w, depth=t, things=d.integer(0, 6))
    design, places = chair_design(d, looks), 2 if w > 0.85 else 1
    pushed = d.uniform(-0.05, 0.4)  # metres from the edge of the table to a seat
    for side in (-1, 1):
        for k in range(places):
            if d.chance(0.85):
                x = (k - 0.5 * (places - 1)) * w + d.uniform(-0.08, 0.08)
                away = side * (t + pushed + d.uniform(-0.05, 0.25))
                chair(p.sub(x, 0, away, (0.0 if side < 0 else math.pi) + d.uniform(-0.3, 0.3)), d, looks, design)
        if d.chance(0.4):
            away = side * (w + pushed + d.uniform(-0.05, 0.25))
            chair(p.sub(away, 0, 0, -side * math.pi / 2 + d.uniform(-0.3, 0.3)), d, looks, design)


def office_chair(p: Place, d: Draw, looks: Looks) -> None:
    look, frame = looks.look(SOFT, (0.1, 0.5)), looks.look(("metal", "plaster"), (0.3, 1.0), shine=0.8)
    p.rounded(0, 0.48, 0, 0.25, 0.05, 0.24, 0.04, look)
    p.rounded(0, 0.85, -0.24, 0.23, 0.3, 0.04, 0.035, look, pitch(-0.15))
    p.cylinder(0, 0.25, 0, 0.03, 0.2, frame)
    for k in range(5):
        a = 2 * math.pi * k / 5
        p.sub(0.16 * math.sin(a), 0.06, 0.16 * math.cos(a), a).box(0, 0, 0, 0.025, 0.02, 0.16, frame)


def shelf(p: Place, d: Draw, looks: Looks) -> None:
    """Sides, boards, back, rows of books and things."""
    look = _wood(looks)
    w, h, t, rows = d.uniform(0.3, 0.9), d.uniform(0.6, 1.1), d.uniform(0.12, 0.2), d.integer(3, 6)
    for x in (-1, 1):
        p.box(x * w, h, 0, 0.012, h, t, look)
    p.box(0, h, -t, w, h, 0.008, look)
    for k in range(rows + 1):
        y = 2 * h * k / rows
        p.box(0, max(y, 0.02), 0, w, 0.012, t, look)
        room = 2 * h / rows
        if k == rows:
            continue
        if d.chance(0.65):
            half = 0.5 * room * d.uniform(0.6, 0.85)
            length = w * d.uniform(0.4, 0.95)
            books = looks.look(("books",), (2 * half, 2 * half * 1.001), photos=0.1)
            p.box(d.sign() * (w - length), y + half + 0.012, -0.02, length, half, t * d.uniform(0.6, 0.9), books)
        else:
            clutter(p, d, looks, w * 0.8, t * 0.6, y + 0.012, d.integer(1, 3))


def cabinet(p: Place, d: Draw, looks: Looks) -> None:
    """A body with doors or drawers, each with a knob."""
    look, front = _wood(looks), _wood(looks)
    w, h, t = d.uniform(0.3, 0.8), d.uniform(0.3, 1.0), d.uniform(0.2, 0.3)
    p.box(0, h, 0, w, h, t, look)
    front = look if d.chance(0.5) else front
    knob = looks.look(("metal", "plaster"), (0.1, 0.3), shine=1.0)
    columns, rows = d.integer(1, 4), d.integer(1, 5)
    for i in range(columns):
        for j in range(rows):
            x, y = w * ((2 * i + 1) / columns - 1), h * (2 * j + 1) / rows
            p.box(x, y, t, w / columns - 0.012, h / rows - 0.012, 0.01, front)
            if d.chance(0.8):
                p.ball(x, y, t + 0.02, 0.015, 0.015, 0.015, knob)
    clutter(p, d, looks, w, t, 2 * h, d.integer(0, 4))


def monitor(p: Place, d: Draw, looks: Looks) -> None:
    body = looks.look(("plaster", "metal"), (0.3, 1.0), photos=0.0, shine=0.6)
    w = d.uniform(0.2, 0.36)
    h = w * d.uniform(0.56, 0.75)
    y = h + d.uniform(0.06, 0.14)
    p.box(0, y, -0.015, w + 0.015, h + 0.015, 0.015, body)
    p.picture(
        0,
        y,
        0.002,
        w,
        h,
        0.003,
        looks.picture(("screen", "screen", "glyphs"), emission=d.uniform(0.2, 1.2), reflect=0.2),
    )
    p.box(0, y / 2, -0.03, 0.03, y / 2, 0.012, body)
    p.box(0, 0.006, -0.02, 0.12, 0.006, 0.09, body)


def keyboard(p: Place, d: Draw, looks: Looks) -> None:
    p.box(0, 0.01, 0, 0.21, 0.01, 0.07, looks.look(("tiles", "glyphs", "checker"), (0.1, 0.25), photos=0.0))
    p.ball(0.3, 0.012, 0.01, 0.03, 0.018, 0.05, looks.look(("plaster", "leather"), (0.1, 0.3), shine=0.7))


def sofa(p: Place, d: Draw, looks: Looks) -> None:
    look = looks.look(SOFT, (0.1, 1.2), photos=0.15)
    w, r = d.choice((0.45, 0.8, 1.0)), 0.06
    p.rounded(0, 0.25, 0, w, 0.2, 0.42, r, look)
    p.rounded(0, 0.62, -0.36, w, 0.3, 0.12, r, look, pitch(-0.12))
    for x in (-1, 1):
        p.rounded(x * (w + 0.08), 0.35, 0, 0.1, 0.3, 0.43, r, look)
    pillow = looks.look(SOFT, (0.1, 0.6))
    for _ in range(d.integer(0, 4)):
        p.rounded(
            d.uniform(-0.8, 0.8) * w,
            0.58,
            -0.15,
            0.2,
            0.17,
            0.07,
            0.065,
            pillow,
            pitch(-0.4) @ roll(d.uniform(-0.4, 0.4)),
        )


def bed(p: Place, d: Draw, looks: Looks) -> None:
    frame, cloth = _wood(looks), looks.look(SOFT, (0.2, 1.5))
    w = d.uniform(0.5, 0.95)
    p.box(0, 0.15, 0, w, 0.15, 1.0, frame)
    p.rounded(0, 0.4, 0, w - 0.02, 0.13, 0.98, 0.08, cloth)
    p.box(0, 0.55, -1.02, w, 0.5, 0.03, frame)
    p.rounded(0, 0.58, -0.7, 0.35, 0.08, 0.22, 0.07, looks.look(SOFT, (0.2, 1.0)))


def lamp(p: Place, d: Draw, looks: Looks) -> None:
    h, metal = d.uniform(1.2, 1.7), looks.look(("metal", "plaster"), (0.3, 1.0), shine=0.8)
    p.cylinder(0, 0.015, 0, 0.14, 0.015, metal)
    p.cylinder(0, h / 2, 0, 0.012, h / 2, metal)
    shade = looks.look(("plaster", "fabric", "stripes"), (0.2, 0.6))

    def bright(half, mode, **more):
        return shade(half, mode, emission=d.uniform(0.4, 1.5), **more)

    p.cylinder(0, h + 0.1, 0, 0.2, 0.14, bright, top=d.uniform(0.5, 1.0))


def plant(p: Place, d: Draw, looks: Looks, scale: float = 1.0) -> None:
    pot = looks.look(("plaster", "stone", "tiles", "wood"), (0.1, 0.6))
    r = scale * d.uniform(0.1, 0.2)
    p.cylinder(0, r, 0, 0.75 * r, r, pot, top=1.33)
    leaf = looks.look(("leaves", "leaves", "grass"), (0.2 * scale, 0.6 * scale), photos=0.15)
    for _ in range(d.integer(2, 6)):
        size = scale * d.uniform(0.1, 0.25)
        p.rock(
            d.uniform(-1, 1) * 0.2 * scale,
            2 * r + d.uniform(0.1, 0.5) * scale,
            d.uniform(-1, 1) * 0.2 * scale,
            size,
            leaf,
            d,
        )


def box_pile(p: Place, d: Draw, looks: Looks) -> None:
    y = 0.0
    for _ in range(d.integer(1, 4)):
        h = d.uniform(0.1, 0.25)
        p.sub(0, y, 0, d.uniform(-0.5, 0.5)).box(
            0,
            h,
            0,
            d.uniform(0.15, 0.3),
            h,
            d.uniform(0.15, 0.3),
            looks.look(("plaster", "glyphs", "wood", "corrugated"), (0.3, 1.0)),
        )
        y += 2 * h


def stray(p: Place, d: Draw, looks: Looks) -> None:
    add_object(p.b, d, looks, p.at(0, 0, 0), d.uniform(0.2, 0.9), tumble=0.2, categories=THINGS)


AGAINST_WALL = {
    shelf: 2.5,
    cabinet: 2.5,
    sofa: 1.5,
    bed: 0.8,
    plant: 1.0,
    lamp: 0.8,
    box_pile: 0.8,
    table: 1.2,
    stray: 0.7,
}
FREE = {
    table: 2.0, dining: 2.5, chair: 1.5, sofa: 0.7, stray: 1.5, plant: 0.7, lamp: 0.4, box_pile: 0.7, office_chair: 0.8,
}  # fmt: skip
