"""A local frame in which compounds are built: x to the right, y up, z to the front, rotated about the vertical."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lite3r_cli.data.procedural.materials import Look
from lite3r_cli.data.procedural.scene import UV, Builder, Kind, yaw

# rotation of a height field that stands upright: its relief points to +z, its image rows point down
UPRIGHT = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]).T


def pitch(angle: float) -> np.ndarray:
    """Rotation about +x."""
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def roll(angle: float) -> np.ndarray:
    """Rotation about +z."""
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


@dataclass
class Place:
    """A position in metres and a rotation `turn` about +y in radians; methods add primitives to `b` in this frame.

    Their x, y, z is the centre of the primitive, hx, hy, hz its half extents, `lean` a further rotation (3, 3).
    """

    b: Builder
    x: float
    y: float
    z: float
    turn: float = 0.0

    def __post_init__(self) -> None:
        self.rotation = yaw(self.turn)
        self._c, self._s = math.cos(self.turn), math.sin(self.turn)

    def at(self, x: float, y: float, z: float) -> tuple[float, float, float]:
        """World coordinates of a local point."""
        return (self.x + self._c * x + self._s * z, self.y + y, self.z - self._s * x + self._c * z)

    def sub(self, x: float, y: float, z: float, turn: float = 0.0) -> Place:
        """A frame at a local point, rotated by a further `turn` radians."""
        return Place(self.b, *self.at(x, y, z), self.turn + turn)

    def box(
        self, x, y, z, hx, hy, hz, look: Look, *, lean: np.ndarray | None = None, mode: UV = UV.BOX, **more
    ) -> None:
        rotation = self.rotation if lean is None else self.rotation @ lean
        self.b.add(Kind.BOX, self.at(x, y, z), (hx, hy, hz), look((hx, hy, hz), mode, **more), rotation=rotation)

    def picture(self, x, y, z, hx, hy, hz, look) -> None:
        """A box whose front (+z) shows one whole texture."""
        self.b.add(Kind.BOX, self.at(x, y, z), (hx, hy, hz), look((hx, hy, hz)), rotation=self.rotation)

    def cylinder(
        self, x, y, z, radius, half, look: Look, *, top: float = 1.0, lean: np.ndarray | None = None, deep: float = 0.0
    ) -> None:
        rotation = self.rotation if lean is None else self.rotation @ lean
        size = (radius, half, deep or radius)
        self.b.add(Kind.FRUSTUM, self.at(x, y, z), size, look(size, UV.CYLINDER), rotation=rotation, shape=(top,))

    def ball(self, x, y, z, hx, hy, hz, look: Look) -> None:
        self.b.add(
            Kind.ELLIPSOID, self.at(x, y, z), (hx, hy, hz), look((hx, hy, hz), UV.CYLINDER), rotation=self.rotation
        )

    def arch(self, x, y, z, hx, hy, hz, look: Look, shape: tuple[float, ...]) -> None:
        self.b.add(
            Kind.BOX_MINUS_ARCH,
            self.at(x, y, z),
            (hx, hy, hz),
            look((hx, hy, hz)),
            rotation=self.rotation,
            shape=shape,
            occluder=0.0,
        )

    def sdf(
        self,
        x,
        y,
        z,
        scale,
        look: Look,
        shape: tuple[float, ...],
        *,
        lean: np.ndarray | None = None,
        mode: UV = UV.CYLINDER,
    ) -> None:
        """A Kind.SDF primitive; `shape` holds its parameters, then the number of the shape."""
        rotation = self.rotation if lean is None else self.rotation @ lean
        full = shape[:-1] + (0.0,) * (8 - len(shape)) + shape[-1:]
        size = (scale, scale, scale)
        self.b.add(
            Kind.SDF, self.at(x, y, z), size, look(size, mode), rotation=rotation, shape=full, occluder=0.5 * scale
        )

    def rounded(self, x, y, z, hx, hy, hz, radius, look: Look, lean: np.ndarray | None = None) -> None:
        """A box whose edges are rounded with `radius` metres."""
        scale = math.sqrt(hx * hx + hy * hy + hz * hz)
        r = min(radius, 0.95 * min(hx, hy, hz))
        self.sdf(x, y, z, scale, look, (hx / scale, hy / scale, hz / scale, r / scale, 1.0), lean=lean, mode=UV.BOX)

    def torus(self, x, y, z, major, minor, look: Look, lean: np.ndarray | None = None) -> None:
        scale = (major + minor) * 1.005
        self.sdf(x, y, z, scale, look, (minor / scale, major / scale, 0.0), lean=lean)

    def turned(self, x, y, z, radius, half, look: Look, *, waves: float, phase: float, swell: float) -> None:
        """A baluster or vase of `radius` and half height `half`, in metres."""
        scale = math.hypot(half, radius * (1 + swell)) * 1.01
        r = radius / scale
        self.sdf(
            x,
            y,
            z,
            scale,
            look,
            (half / scale, r * (1 - 0.5 * swell), r * 0.5 * swell, waves * scale / half, phase, 0.1 * r, 0.0, 2.0),
        )

    def rock(self, x, y, z, radius, look: Look, d, lean: np.ndarray | None = None) -> None:
        shape = (
            d.uniform(0.08, 0.19),
            *(d.uniform(2, 7) for _ in range(3)),
            *(d.uniform(0, 6.28) for _ in range(3)),
            3.0,
        )
        self.sdf(x, y, z, radius, look, shape, lean=lean, mode=UV.BOX)
