"""The levelled frame: gravity down, the first camera's heading ahead, the origin on the ground below the cameras."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..scene import geometry
from ..scene.geometry import Similarity
from ..scene.posed_view import PointCloud, View
from .gravity import Up

_GROUND = 3.0  # per cent of the points around the cameras that lie lower
_AROUND = 2.0  # of the cameras' distance to the scene: points farther off say nothing about the ground below
# Axes of the frames as columns (right, ahead, up): viewers' y down, z ahead; maps' z up, y ahead
_LOOK = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
_MAP = np.eye(3)


@dataclass(frozen=True)
class Level:
    """How the scene stands, and the way from the world of the views to the levelled frames."""

    up: Up
    look: Similarity  # into the frame of viewers: +x right, +y down, +z ahead, as the first camera if it stood level
    map: Similarity  # from the world of the outputs into the frame of `--world level`: +x right, +y ahead, +z up
    applied: Similarity | None = None  # with `--world level`: what brought the outputs into that frame

    def as_dict(self) -> dict[str, object]:
        """For run.json: what was found, and the 4 × 4 matrix from the world before to the levelled frame.

        The world before is that of the outputs, or, where these are levelled, of the known or the first camera.
        """
        similarity, matrix = self.applied or self.map, np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = similarity.rotation, similarity.translation
        return {**self.up.as_dict(), "level_from_world": matrix.tolist()}


def level_scene(views: Sequence[View], cloud: PointCloud, up: Up) -> Level:
    """The levelled frames of a scene whose up is known."""
    axes = _axes(views, up.direction)  # (3, 3) rows right, ahead, up
    origin = _origin(views, cloud, axes)
    look, level = (frame @ axes for frame in (_LOOK, _MAP))
    return Level(up, Similarity(1.0, look, -look @ origin), Similarity(1.0, level, -level @ origin))


def _axes(views: Sequence[View], up: np.ndarray) -> np.ndarray:
    """Unit vectors to the right, ahead and up: ahead is where the first camera looks, or the top of its picture points
    where it looks straight down or up.
    """
    forward, top = views[0].cam_from_world[2, :3], -views[0].cam_from_world[1, :3]
    ahead = forward - (forward @ up) * up
    if np.linalg.norm(ahead) < 0.2:
        ahead = top - (top @ up) * up
    ahead /= np.linalg.norm(ahead)
    return np.stack([np.cross(ahead, up), ahead, up])


def _origin(views: Sequence[View], cloud: PointCloud, axes: np.ndarray) -> np.ndarray:
    """The point (3,) on the ground below the middle of the cameras; the middle itself where there are no points."""
    centres = geometry.camera_centres(np.stack([view.cam_from_world for view in views]))
    middle = np.median(centres, axis=0)
    if not len(cloud):
        return middle
    points = (cloud.points[:: max(1, len(cloud) // 200_000)].astype(np.float64) - middle) @ axes.T
    apart = np.linalg.norm(points, axis=1)
    near = points[apart <= _AROUND * np.median(apart)]
    ground = float(np.percentile(near[:, 2], _GROUND))
    return middle + min(ground, 0.0) * axes[2]
