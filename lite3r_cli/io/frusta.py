"""Camera frusta for files and pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..scene.geometry import camera_centres
from ..scene.posed_view import PointCloud, View

ACCENT = (255, 122, 26)  # RGB

# Edges as pairs of corners: corner 0 is the camera centre, 1…4 are the image corners in order.
EDGES = np.array([(0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (2, 3), (3, 4), (4, 1)])


def frustum(view: View, depth: float) -> np.ndarray:
    """(5, 3) corners in the camera's frame: its centre, then the image's corners at z = `depth`, clockwise."""
    width, height = view.width, view.height
    pixels = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]], dtype=np.float64)
    return np.vstack([np.zeros(3), depth * pixels @ np.linalg.inv(view.K).T])


def frustum_depth(views: Sequence[View], cloud: PointCloud) -> float:
    """Depth of the drawn frusta in scene units: a third of the distance between cameras, 3–12 % of the scene's size."""
    centres = camera_centres([view.cam_from_world for view in views])
    steps = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    step = float(np.median(steps)) if len(steps) else 0.0
    if len(cloud) == 0:
        return step / 3 if step > 0 else 1.0
    size = float(np.median(np.linalg.norm(cloud.points - centres.mean(axis=0), axis=1)))
    return float(np.clip(step / 3, 0.03 * size, 0.12 * size)) if size > 0 else 1.0
