"""Triangulates a signed distance field by surface nets (Gibson 1998): a vertex in each cell that the surface crosses, a
quad across each lattice edge that it crosses.

The field is known only at some voxels, which are found by their ascending keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

CORNERS = np.array(list(product((0, 1), repeat=3)))  # of a cell, number = 4 x + 2 y + z
EDGES = [(a, b) for a in range(8) for b in range(8) if a < b and np.abs(CORNERS[a] - CORNERS[b]).sum() == 1]


@dataclass(frozen=True)
class Mesh:
    """Triangles, counter-clockwise seen from the free side, in a right-handed frame."""

    vertices: np.ndarray  # (N, 3) float32; float64 where the frame's origin is far away
    triangles: np.ndarray  # (T, 3) int32
    colors: np.ndarray  # (N, 3) uint8


@dataclass(frozen=True)
class TexturedMesh:
    """Triangles with a texture. A vertex on a seam occurs once for each chart."""

    vertices: np.ndarray  # (N, 3) float32 or float64
    triangles: np.ndarray  # (T, 3) int32
    uv: np.ndarray  # (N, 2) float32 from 0 to 1, from the top left corner of the texture
    texture: np.ndarray  # (H, W, 3) uint8 RGB


class _Lattice:
    """Finds the voxel at a place."""

    def __init__(self, places: np.ndarray) -> None:
        self.size = places.max(axis=0) + 3  # a border, so that keys of neighbours are unique
        self.keys = self.key(places)

    def key(self, places: np.ndarray) -> np.ndarray:
        result: np.ndarray = ((places[:, 0] + 1) * self.size[1] + places[:, 1] + 1) * self.size[2] + places[:, 2] + 1
        return result

    def shift(self, step: np.ndarray) -> int:
        return int((step[0] * self.size[1] + step[1]) * self.size[2] + step[2])

    def find(self, keys: np.ndarray, among: np.ndarray) -> np.ndarray:
        """Index of each key in the ascending `among`, -1 if it is missing."""
        spot = np.minimum(np.searchsorted(among, keys), len(among) - 1)
        return np.where(among[spot] == keys, spot, -1)


def surface_nets(places: np.ndarray, value: np.ndarray, known: np.ndarray) -> Mesh:
    """The surface value = 0 between the voxels at `places` (V, 3), whose keys ascend; `known` (V,) bool.

    Vertices are in units of the lattice, colours black. The side of positive values is free.
    """
    nothing = Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32), np.zeros((0, 3), np.uint8))
    if not known.any():
        return nothing
    places, value = places[known].astype(np.int64), value[known]
    lattice = _Lattice(places)
    base, values = _cells(lattice, value)
    if not len(base):
        return nothing
    vertices = places[base] + _crossings(values)
    cell_keys = lattice.keys[base]
    quads = np.concatenate(list(_quads(lattice, cell_keys, values)))
    triangles = _split(vertices, quads).astype(np.int32)
    return Mesh(vertices.astype(np.float32), triangles, np.zeros((len(vertices), 3), np.uint8))


def _cells(lattice: _Lattice, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cells that the surface crosses and whose corners are all known: index of corner 0 (C,), values (C, 8)."""
    positive = value > 0
    base = np.arange(len(value))
    corners = [base]
    crossed = np.zeros(len(value), bool)
    for corner in CORNERS[1:]:
        found = lattice.find(lattice.keys[base] + lattice.shift(corner), lattice.keys)
        keep = found >= 0
        base, crossed = base[keep], crossed[keep]
        corners = [*(c[keep] for c in corners), found[keep]]
        crossed |= positive[corners[-1]] != positive[base]
    return base[crossed], np.stack([value[c[crossed]] for c in corners], axis=1)


def _crossings(values: np.ndarray) -> np.ndarray:
    """(C, 3) mean place, within a cell, of where the surface crosses its edges."""
    total, count = np.zeros((len(values), 3)), np.zeros(len(values))
    for a, b in EDGES:
        first, second = values[:, a], values[:, b]
        crossed = (first > 0) != (second > 0)
        t = np.where(crossed, first / np.where(crossed, first - second, 1), 0)
        total += crossed[:, None] * (CORNERS[a] + t[:, None] * (CORNERS[b] - CORNERS[a]))
        count += crossed
    return total / count[:, None]


def _quads(lattice: _Lattice, cells: np.ndarray, values: np.ndarray) -> Iterator[np.ndarray]:
    """(Q, 4) vertices around each crossed edge, in order, for each of the three axes."""
    for axis in range(3):
        u, v = (axis + 1) % 3, (axis + 2) % 3
        far = 1 << (2 - axis)  # number of the corner one step along the axis
        ends = values[:, 0], values[:, far]
        crossed = np.flatnonzero((ends[0] > 0) != (ends[1] > 0))
        steps = np.eye(3, dtype=np.int64)
        ring = [np.zeros(3, np.int64), -steps[u], -steps[u] - steps[v], -steps[v]]
        around = [lattice.find(cells[crossed] + lattice.shift(step), cells) for step in ring]
        quad = np.stack(around, axis=1)
        whole = (quad >= 0).all(axis=1)
        quad, free_below = quad[whole], ends[0][crossed[whole]] > 0
        # the ring turns about the axis; seen from its positive end counter-clockwise
        yield np.where(free_below[:, None], quad[:, ::-1], quad)


def _split(vertices: np.ndarray, quads: np.ndarray) -> np.ndarray:
    """(2 Q, 3): each quad along its shorter diagonal."""
    a, b, c, d = (vertices[quads[:, k]] for k in range(4))
    short = np.linalg.norm(a - c, axis=1) <= np.linalg.norm(b - d, axis=1)
    first = np.where(short[:, None], quads[:, [0, 1, 2]], quads[:, [0, 1, 3]])
    second = np.where(short[:, None], quads[:, [0, 2, 3]], quads[:, [1, 2, 3]])
    return np.concatenate([first, second])


def without_small_parts(mesh: Mesh, least: int) -> Mesh:
    """Without connected parts of fewer than `least` triangles, and without vertices that no triangle uses."""
    a, b = np.concatenate([mesh.triangles[:, :2], mesh.triangles[:, 1:]]).T
    part = components(len(mesh.vertices), a, b)
    size = np.bincount(part[mesh.triangles[:, 0]], minlength=len(mesh.vertices))
    triangles = mesh.triangles[size[part[mesh.triangles[:, 0]]] >= least]
    used = np.zeros(len(mesh.vertices), bool)
    used[triangles] = True
    number = np.cumsum(used) - 1
    return Mesh(mesh.vertices[used], number[triangles].astype(np.int32), mesh.colors[used])


def components(count: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(count,) smallest index in the connected component of each node; edges from `a` (E,) to `b` (E,) (Shiloach &
    Vishkin 1982).
    """
    part = np.arange(count)
    while True:
        low, high = np.minimum(part[a], part[b]), np.maximum(part[a], part[b])
        apart = low != high
        if not apart.any():
            return part
        np.minimum.at(part, high[apart], low[apart])
        while (shorter := part[part]).tobytes() != part.tobytes():
            part = shorter
