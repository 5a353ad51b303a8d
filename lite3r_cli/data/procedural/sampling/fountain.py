"""A wall fountain: stacked plates, scrolls, a niche with a figure, a basin."""

from __future__ import annotations

import math

from lite3r_cli.data.procedural.draw import Draw
from lite3r_cli.data.procedural.materials import Looks
from lite3r_cli.data.procedural.sampling.objects import add_height
from lite3r_cli.data.procedural.sampling.place import UPRIGHT, Place, pitch
from lite3r_cli.data.procedural.sampling.style import Style, statue


def fountain_wall(p: Place, d: Draw, looks: Looks, style: Style, width: float, targets: list) -> None:
    """A plain masonry wall of half width `width` with a fountain in front; appends points of interest to `targets`."""
    height = d.uniform(3.5, 8.0)
    width = max(width, 3.0)
    p.box(0, height / 2, -0.4, width + 2.0, height / 2, 0.4, style.wall)
    half, z, y, tiers = d.uniform(0.9, 1.8), 0.0, 0.0, d.integer(2, 5)
    for k in range(tiers):
        h, w = d.uniform(0.3, 0.7), half * (1 - 0.17 * k) * d.uniform(0.85, 1.1)
        if k == tiers // 2 and d.chance(0.75):
            h = 0.8
            p.arch(0, y + h, z, w, h, 0.28, style.carved, (0.0, -0.8, 0.45, 0.1, min(0.45 * w / h, 0.7), -0.3))
            statue(p.sub(0, y + 0.2, z + 0.15), d, style, 0.8)
        else:
            p.box(0, y + h, z, w, h, 0.3 - 0.03 * k, style.carved)
            if d.chance(0.6):
                add_height(
                    p.b,
                    d,
                    looks,
                    p.at(0, y + h, z + 0.3 - 0.03 * k),
                    (w * 0.8, 0.1, h * 0.8),
                    p.rotation @ UPRIGHT,
                    ("ornament", "statue", "panels"),
                )
        for s in (-1, 1):
            kind = d.weighted({"scroll": 2.0, "ball": 1.0, "column": 1.0, "vase": 1.0, "none": 1.0})
            r = d.uniform(0.12, 0.28)
            if kind == "scroll":
                p.torus(s * (w + 0.6 * r), y + r, z + 0.1, r, 0.4 * r, style.carved, pitch(math.pi / 2))
            elif kind == "ball":
                p.ball(s * (w + 0.5 * r), y + r, z + 0.2, r, r, r, style.carved)
            elif kind == "column":
                p.cylinder(s * w * 0.85, y + h, z + 0.3, 0.1, h, style.carved)
            elif kind == "vase":
                p.turned(
                    s * (w + 0.6 * r),
                    y + 2 * r,
                    z + 0.2,
                    r,
                    1.6 * r,
                    style.carved,
                    waves=1.5,
                    phase=d.uniform(0, 3),
                    swell=0.6,
                )
        p.box(0, y + 2 * h, z + 0.03, w + 0.1, 0.05, 0.36 - 0.03 * k, style.trim)
        targets.append(p.at(0, y + h, z + 0.2))
        y += 2 * h + 0.05
    p.rock(0, y + 0.25, z + 0.1, 0.3, style.carved, d)
    _basin(p.sub(0, 0, 0.7), d, looks, style, half * d.uniform(1.0, 1.3))


def _basin(p: Place, d: Draw, looks: Looks, style: Style, half: float) -> None:
    h, t = d.uniform(0.25, 0.45), 0.09
    deep = d.uniform(0.5, 0.8)
    water = looks.look(("marble", "plaster"), (0.5, 2.0), photos=0.0, shine=1.0)
    if d.chance(0.6):
        for s in (-1, 1):
            p.box(s * half, h, 0, t, h, deep, style.carved)
        p.box(0, h, deep, half, h, t, style.carved)
        p.box(0, 1.7 * h, 0, half, 0.01, deep, water)
        p.box(0, 2 * h, deep, half + 1.6 * t, 0.05, 1.6 * t, style.trim)
    else:
        p.cylinder(0, h, 0, half, h, style.carved, top=1.15, deep=deep)
        p.torus(0, 2 * h, 0, half * 1.1, 0.07, style.trim)
        p.cylinder(0, 2 * h, 0, 0.9 * half, 0.02, water, deep=0.9 * deep)
