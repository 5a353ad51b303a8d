"""A scene approximated by boxes and spheres on the CPU, fast enough to test hundreds of camera positions."""

from __future__ import annotations

import numpy as np

from lite3r_cli.data.procedural.scene import Kind, Scene

MAX_CASTERS = 28  # rays are only tested against so many of the largest primitives: the rest hides little


class CoarseScene:
    """Each primitive as an axis-aligned box or the unit sphere of its local frame."""

    def __init__(self, scene: Scene) -> None:
        g = scene.geometry
        self.kind = g[:, 16].astype(int)
        affine = g[:, :12].reshape(-1, 3, 4)
        self.linear, self.offset = affine[:, :, :3], affine[:, :, 3]
        self.low, self.high = np.full((len(g), 3), -1, np.float32), np.full((len(g), 3), 1, np.float32)
        height = self.kind == Kind.HEIGHT
        self.high[height, 1] = g[height, 25] + 0.55 * g[height, 26]
        self.round = (self.kind == Kind.ELLIPSOID) | (self.kind == Kind.SDF)
        self.shell = self.kind == Kind.SHELL
        self.metres = 1 / np.maximum(np.linalg.norm(self.linear, axis=2), 1e-9)  # (P, 3) half extents
        order = np.argsort(-g[:, 15], kind="stable")[:MAX_CASTERS]
        self.casters = np.sort(order)

    def clearance(self, points: np.ndarray) -> np.ndarray:
        """(N,) lower bound of the distance from `points` (N, 3) to any surface; negative inside objects or outside a
        room."""
        q = np.einsum("pij,nj->npi", self.linear, points, optimize=True) + self.offset
        top = np.where(self.kind == Kind.HEIGHT, 1.0, self.high[:, 1])
        high = np.stack([self.high[:, 0], top, self.high[:, 2]], 1)
        outside = np.maximum(self.low - q, q - high) * self.metres  # (N, P, 3)
        box = outside.max(2)
        radius = np.sqrt((q * q).sum(2)) - 1
        distance = np.where(self.round, radius * self.metres.min(1), box)
        distance = np.where(self.shell, -box, distance)
        return distance.min(1)

    def cast(self, origin: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """(N,) ray parameter of the first hit of rays (N, 3); inf for rays that hit nothing."""
        c = self.casters
        linear = self.linear[c].reshape(-1, 3).T
        o = (origin @ linear).reshape(-1, len(c), 3) + self.offset[c]
        d = (direction @ linear).reshape(-1, len(c), 3)
        d = np.where(np.abs(d) < 1e-9, 1e-9, d)
        a, b = (self.low[c] - o) / d, (self.high[c] - o) / d
        near, far = np.minimum(a, b).max(2), np.maximum(a, b).min(2)
        t = np.where((near < far) & (near > 0), near, np.inf)
        t = np.where(self.shell[c] & (far > 0), far, t)
        balls = np.flatnonzero(self.round[c])
        if len(balls):
            o, d = o[:, balls], d[:, balls]
            dd = (d * d).sum(2)
            m = -(o * d).sum(2) / dd
            h = 1 - ((o + d * m[..., None]) ** 2).sum(2)
            near = m - np.sqrt(np.maximum(h, 0) / dd)
            t[:, balls] = np.where((h > 0) & (near > 0), near, np.inf)
        return t.min(1)
