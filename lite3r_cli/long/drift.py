"""Estimates the drift of a chain of chunks while it grows, from how much its measurements disagree.

Where two chunks meet, the scale is measured twice, by depth and by the distances between cameras, and the rotation by
every common camera. Their spread is the error of the edge. The drift is that of chains whose edges have random errors
of this size: the mean over some draws of the root mean square distance of the camera centres from the measured chain,
after one similarity transform, as a share of the path's length. It is a rough number: it was 0.7 % after 264 frames of
a drawn walk and 1.6 % after 1,000, where 1.2 and 2.7 % were true. Loop closure, which comes later, reduces the drift.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..scene import geometry
from ..scene.geometry import Similarity
from ..scene.posed_view import View, known_depth
from .common_cameras import by_cameras
from .sim3_fit import FitConfig, chain, tie

SHARED = 4  # views of each edge that are looked at
_DRAWS, _POINTS = 8, 5  # chains, and cameras of each chunk


@dataclass(frozen=True)
class _Edge:
    similarity: Similarity  # of the chunk into the world of the one before
    turn: float  # radians, standard deviation
    scale: float  # standard deviation of the logarithm


class DriftEstimate:
    """`add` takes the chunks in order; `percent` is the drift so far."""

    def __init__(self) -> None:
        self._edges: list[_Edge] = []
        self._centres: list[np.ndarray] = []  # of each chunk, in its own world
        self._broken = False

    def add(self, cam_from_world: np.ndarray, before: Sequence[View], here: Sequence[View]) -> None:
        """The next chunk: its cameras (S, 3, 4), and common views as the chunk before and as this one has them."""
        if self._centres:
            edge = _measured(before, here)
            self._broken |= edge is None  # two scenes: the path has no length
            if edge is not None:
                self._edges.append(edge)
        some = np.unique(np.linspace(0, len(cam_from_world) - 1, _POINTS).round().astype(int))
        self._centres.append(geometry.camera_centres(cam_from_world[some]))

    @property
    def percent(self) -> float | None:
        """None for a single chunk, for chunks that do not fit together, and for a camera that does not move."""
        if self._broken or not self._edges:
            return None
        measured = self._path(None)
        length = float(np.linalg.norm(np.diff(measured, axis=0), axis=1).sum())
        if not length > 0:
            return None
        rng, squared = np.random.default_rng(0), []
        for _ in range(_DRAWS):
            drawn = self._path(rng)
            off = np.linalg.norm(geometry.umeyama(drawn, measured).apply(drawn) - measured, axis=1)
            squared.append(float((off**2).mean()))
        return 100 * float(np.sqrt(np.mean(squared))) / length

    def _path(self, rng: np.random.Generator | None) -> np.ndarray:
        """Camera centres (N, 3) of the chain, in the world of the first chunk, with errors if there is an `rng`."""
        node = Similarity(1.0, np.eye(3), np.zeros(3))
        points = [self._centres[0]]
        for edge, centres in zip(self._edges, self._centres[1:]):
            node = chain(node, edge.similarity)
            if rng is not None:  # about the middle of the chunk's cameras
                node = chain(node, _about(centres.mean(0), edge, rng))
            points.append(node.apply(centres))
        return np.concatenate(points)


def _about(centre: np.ndarray, edge: _Edge, rng: np.random.Generator) -> Similarity:
    angle = rng.normal(0, edge.turn / np.sqrt(3), 3) / 2
    turn = geometry.matrix_from_quaternion((np.append(angle, 1.0) / np.linalg.norm(np.append(angle, 1.0)))[None])[0]
    scale = float(np.exp(rng.normal(0, edge.scale)))
    return Similarity(scale, turn, centre - scale * turn @ centre)


def _measured(before: Sequence[View], here: Sequence[View]) -> _Edge | None:
    by_depth = tie(before, here, FitConfig(cameras=False)) if before else None
    if by_depth is None or by_depth.verdict == "bad":
        return None
    depths = np.concatenate([known_depth(view).ravel() for view in before])
    found = by_cameras(by_depth.similarity, before, here, float(np.median(depths[depths > 0])))
    turns = [x.cam_from_world[:, :3].T @ y.cam_from_world[:, :3] @ found.rotation.T for x, y in zip(before, here)]
    spread = float(np.sqrt(np.mean(geometry.rotation_angle(np.stack(turns)) ** 2)))
    return _Edge(found, spread, abs(float(np.log(found.scale / by_depth.similarity.scale))))
