"""Views of a 360° picture: pinholes around its horizon with one centre and known relative rotations.

Axes of the picture: +x right, +y down, +z ahead, which is the centre of the equirectangular picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from . import geometry

VIEWS = 6  # of a picture
FIELD = np.radians(90.0)  # of a view, in both directions: neighbours share a third


@dataclass(frozen=True)
class Facing:
    """The number of a view in a 360° picture."""

    picture: str  # name of the 360° picture
    number: int  # from 0, increasing to the right
    side: int  # pixels of the view, which is square
    views: int = VIEWS

    @property
    def yaw(self) -> float:
        """Radians to the right of the centre of the picture."""
        return 2 * np.pi * self.number / self.views

    @property
    def turn(self) -> np.ndarray:
        """(3, 3) from the axes of the picture to those of the view."""
        sine, cosine = np.sin(self.yaw), np.cos(self.yaw)
        return np.array([[cosine, 0, -sine], [0, 1, 0], [sine, 0, cosine]])

    @property
    def K(self) -> np.ndarray:
        """(3, 3) of the view."""
        focal, middle = self.side / 2 / np.tan(FIELD / 2), self.side / 2
        return np.array([[focal, 0, middle], [0, focal, middle], [0, 0, 1.0]])


def rigs_of(facings: Sequence[Facing | None]) -> dict[str, list[int]]:
    """Indices of the views of each 360° picture."""
    found: dict[str, list[int]] = {}
    for i, facing in enumerate(facings):
        if facing is not None:
            found.setdefault(facing.picture, []).append(i)
    return found


def same_picture(first: Facing | None, second: Facing | None) -> bool:
    """Whether two pictures are views of one 360° picture: they have one centre and no parallax."""
    return first is not None and second is not None and first.picture == second.picture


def tied(poses: np.ndarray, facings: Sequence[Facing | None]) -> np.ndarray:
    """Poses cam_from_world (S, 3, 4) in which the views of each 360° picture have their known relative rotations and
    one centre, fitted to the given poses by the median of the centres and the mean of the rotations.
    """
    poses = np.array(poses, np.float64)
    for members in rigs_of(facings).values():
        turns = np.stack([_turn(facings[i]).T @ poses[i, :, :3] for i in members])
        u, _, vt = np.linalg.svd(turns.sum(axis=0))
        mean = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
        for _ in range(5):
            angle = geometry.rotation_angle(turns @ mean.T)
            weight = 1 / (1 + (angle / max(2 * float(np.median(angle)), 1e-4)) ** 2)
            u, _, vt = np.linalg.svd((weight[:, None, None] * turns).sum(axis=0))
            mean = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
        centre = np.median(geometry.camera_centres(poses[members]), axis=0)
        for i in members:
            rotation = _turn(facings[i]) @ mean
            poses[i] = np.column_stack([rotation, -rotation @ centre])
    return poses


def _turn(facing: Facing | None) -> np.ndarray:
    assert facing is not None
    return facing.turn
