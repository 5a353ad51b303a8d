"""A wall across a room, with doorways through which the other half is visible."""

from __future__ import annotations

import math

import numpy as np

from lite3r_cli.data.procedural.draw import Draw
from lite3r_cli.data.procedural.materials import FURNITURE, WALLS, Look, Looks
from lite3r_cli.data.procedural.sampling.place import Place
from lite3r_cli.data.procedural.scene import Builder


def partition(b: Builder, d: Draw, looks: Looks, half: np.ndarray) -> np.ndarray:
    """One wall somewhere in the middle of a room of half extents `half`; returns points (N, 3) in its doorways."""
    turn, along, across = (0.0, half[0], half[2]) if d.chance(0.5) else (math.pi / 2, half[2], half[0])
    slant = d.uniform(-0.15, 0.15) if d.chance(0.2) else 0.0
    p = Place(b, 0, 0, 0, turn).sub(0, 0, d.uniform(-0.5, 0.5) * across, slant)
    wall, trim = looks.look(WALLS, (0.5, 3.0), photos=0.15, shine=0.1), looks.look(FURNITURE, (0.5, 2.0), photos=0.0)
    thick, top = d.uniform(0.04, 0.1), 2 * half[1]
    cased, door = d.chance(0.7), d.chance(0.3)
    start = d.uniform(-0.7, 0.3) * along if d.chance(0.3) else -1.05 * along  # some begin in the middle of the room
    centers = []
    while start < along:
        width, height = d.log_uniform(0.75, 2.2), min(d.uniform(1.95, 2.5), top)
        end = start + d.log_uniform(0.3, 2.0) * along
        if end + width > 0.95 * along:
            end = 1.05 * along
        middle = 0.5 * (start + end)
        p.box(middle, top / 2, 0, 0.5 * (end - start), top / 2, thick, wall)
        if end < along:
            gap = end + 0.5 * width
            if height < top - 0.05:
                p.box(gap, 0.5 * (top + height), 0, 0.5 * width, 0.5 * (top - height), thick, wall)
            if cased:
                _casing(p.sub(gap, 0, 0), d, trim, width, height, thick)
            if door:
                leaf = p.sub(end, 0, d.sign() * thick, d.uniform(-2.2, 2.2))
                leaf.box(0.5 * width, 0.49 * height, 0, 0.5 * width, 0.49 * height, 0.02, trim)
            centers.append(p.at(gap, d.uniform(0.6, 1.6), 0))
        start = end + width
    return np.array(centers).reshape(-1, 3)


def _casing(p: Place, d: Draw, trim: Look, width: float, height: float, thick: float) -> None:
    """Two jambs and a head around an opening, slightly in front of the wall."""
    board, proud = d.uniform(0.03, 0.06), thick + d.uniform(0.008, 0.02)
    for s in (-1, 1):
        p.box(s * (0.5 * width + 0.5 * board), 0.5 * height, 0, board, 0.5 * height, proud, trim)
    p.box(0, height + 0.5 * board, 0, 0.5 * width + 1.5 * board, board, proud, trim)
