"""Finds the views that show most of what a camera sees, before the depth of that camera is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from . import geometry
from .posed_view import View, known_depth

_CELLS, _POINTS = 16, 4096  # of the camera's picture, along each side; points of each view


def most_covered(camera: View, views: Sequence[View]) -> list[int]:
    """Indices of the views whose surface projects into the picture of `camera`, those with the largest share first."""
    shares = [_share(camera, view) for view in views]
    order = np.argsort(-np.array(shares), kind="stable")
    return [int(k) for k in order if shares[k] > 0]


def _share(camera: View, view: View) -> float:
    """Share of the cells of the camera's picture that contain points of the view."""
    depth = known_depth(view)
    step = max(1, int((depth.size / _POINTS) ** 0.5))
    grid = (slice(step // 2, None, step), slice(step // 2, None, step))
    z = depth[grid]
    K = geometry.scale_intrinsics(view.K, depth.shape[1] / view.width, depth.shape[0] / view.height)
    points = geometry.unproject_pixels(geometry.pixel_grid(*depth.shape)[grid][z > 0], z[z > 0], K, view.cam_from_world)
    pixels, front = geometry.project(points, camera.K, camera.cam_from_world)
    cells = pixels[front > 0] / [camera.width, camera.height] * _CELLS
    inside = cells[((cells >= 0) & (cells < _CELLS)).all(axis=1)].astype(int)
    return len(np.unique(inside[:, 1] * _CELLS + inside[:, 0])) / _CELLS**2
