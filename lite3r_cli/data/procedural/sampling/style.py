"""The materials and proportions of a building, and statues in its style."""

from __future__ import annotations

from dataclasses import dataclass

from lite3r_cli.data.procedural.draw import Draw
from lite3r_cli.data.procedural.materials import CARVED, MASONRY, Look, Looks
from lite3r_cli.data.procedural.sampling.place import Place


@dataclass
class Style:
    """Materials and proportions of one building."""

    wall: Look
    trim: Look
    carved: Look
    bay: float  # half width of a bay, metres
    storey: float  # height of a storey
    depth: float  # half thickness of the wall
    arched: float  # chance of arched openings


def draw_style(d: Draw, looks: Looks) -> Style:
    """A random style."""
    trim = looks.look(CARVED, (0.4, 2.0), photos=0.1)
    return Style(
        looks.look(MASONRY, (0.8, 4.0), photos=0.15, shine=0.1), trim,
        trim if d.chance(0.6) else looks.look(CARVED, (0.3, 1.5), photos=0.1),
        d.uniform(0.9, 2.2), d.uniform(2.8, 4.6), d.uniform(0.12, 0.5), d.choice((0.0, 0.2, 0.6, 1.0)),
    )  # fmt: skip


def statue(p: Place, d: Draw, style: Style, size: float) -> None:
    """A figure of a turned body, a head and lumpy drapery on a console."""
    p.box(0, 0.06 * size, 0, 0.3 * size, 0.06 * size, 0.25 * size, style.trim)
    p.turned(
        0,
        0.6 * size,
        0,
        0.24 * size,
        0.5 * size,
        style.carved,
        waves=d.uniform(0.8, 2.0),
        phase=d.uniform(0, 6),
        swell=0.5,
    )
    p.ball(0, 1.2 * size, 0.02, 0.11 * size, 0.14 * size, 0.12 * size, style.carved)
    for _ in range(d.integer(1, 4)):
        p.rock(
            d.uniform(-0.2, 0.2) * size,
            d.uniform(0.3, 1.0) * size,
            d.uniform(0, 0.15) * size,
            d.uniform(0.15, 0.3) * size,
            style.carved,
            d,
        )
