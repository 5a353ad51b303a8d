"""The levelled frame: gravity down, the first camera's heading ahead, the origin on the ground below the cameras."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..scene import geometry
from ..scene.geometry import Similarity
from ..scene.posed_view import PointCloud, View
from .gravity import Up

_GROUND = 3.0  # per cent of the points around the cameras that are below the ground
_AROUND = 2.0  # of the cameras' distance to the scene: farther points tell nothing about the ground below
# Axes of the frames as columns (right, ahead, up): viewers' y down, z ahead; maps' z up, y ahead
_LOOK = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
_MAP = np.eye(3)


@dataclass(frozen=True)
class Level:
    """The levelled frames of a scene, and the transforms into them from the world of the views."""

    up: Up
    look: Similarity  # into the frame of viewers: +x right, +y down, +z ahead, as a level first camera
    map: Similarity  # from the world of the outputs into the frame of `--world level`: +x right, +y ahead, +z up
    applied: Similarity | None = None  # with `--world level`: the transform that was applied to the outputs

    def as_dict(self) -> dict[str, object]:
        """The entry of run.json: the result, and the 4 × 4 matrix from the previous world to the levelled frame.

        The previous world is that of the outputs or, if these are levelled, that of the known or the first camera.
        """
        similarity, matrix = self.applied or self.map, np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = similarity.rotation, similarity.translation
        return {**self.up.as_dict(), "level_from_world": matrix.tolist()}


def level_scene(views: Sequence[View], cloud: PointCloud, up: Up) -> Level:
    """The levelled frames of a scene with a known up direction."""
    axes = _axes(views, up.direction)  # (3, 3) rows right, ahead, up
    origin = _origin(views, cloud, axes)
    look, level = (frame @ axes for frame in (_LOOK, _MAP))
    return Level(up, Similarity(1.0, look, -look @ origin), Similarity(1.0, level, -level @ origin))


def _axes(views: Sequence[View], up: np.ndarray) -> np.ndarray:
    """Unit vectors right, ahead and up: ahead is the horizontal viewing direction of the first camera, or that of the
    top of its picture if it looks straight down or up.
    """
    forward, top = views[0].cam_from_world[2, :3], -views[0].cam_from_world[1, :3]
    ahead = forward - (forward @ up) * up
    if np.linalg.norm(ahead) < 0.2:
        ahead = top - (top @ up) * up
    ahead /= np.linalg.norm(ahead)
    return np.stack([np.cross(ahead, up), ahead, up])


def _origin(views: Sequence[View], cloud: PointCloud, axes: np.ndarray) -> np.ndarray:
    """The point (3,) on the ground below the centre of the cameras; the centre itself without points."""
    centres = geometry.camera_centres(np.stack([view.cam_from_world for view in views]))
    middle = np.median(centres, axis=0)
    if not len(cloud):
        return middle
    points = (cloud.points[:: max(1, len(cloud) // 200_000)].astype(np.float64) - middle) @ axes.T
    apart = np.linalg.norm(points, axis=1)
    near = points[apart <= _AROUND * np.median(apart)]
    ground = float(np.percentile(near[:, 2], _GROUND))
    return middle + min(ground, 0.0) * axes[2]
