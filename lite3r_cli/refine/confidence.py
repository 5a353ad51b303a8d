"""Confidence of refined pixels: the similarity of their windows in other views, and the agreement of the depth maps."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from ..scene import geometry
from ..scene.posed_view import View, known_depth

_AGREES = 0.01  # relative depth difference that halves the vote of a neighbour
_WITNESSES = 2.0  # number of agreeing views for full confidence


def fused_confidence(view: View, correlation: np.ndarray, neighbours: Sequence[View]) -> np.ndarray:
    """Confidence (h, w) float32 in 0..1 of a refined depth map: half photometric, half geometric, 0 where unknown.

    Photometric: the correlation (h, w), negative ones as 0. Geometric: the votes of the neighbours' depth maps, each
    1 / (1 + (difference / 1 %)²), at most two counted.
    """
    depth = known_depth(view)
    points = geometry.unproject(depth, _map_K(view), view.cam_from_world)
    votes = np.zeros(depth.shape, np.float32)
    for other in neighbours:
        pixel, z = geometry.project(points, _map_K(other), other.cam_from_world)
        maps = np.where(np.isfinite(pixel), pixel, -1e4).clip(-1e4, 1e4).astype(np.float32) - np.float32(0.5)
        seen = cv2.remap(known_depth(other), maps[..., 0], maps[..., 1], cv2.INTER_NEAREST, borderValue=0)
        valid = (seen > 0) & (z > 0)
        difference = np.where(valid, z / np.where(valid, seen, 1) - 1, np.inf)
        votes += (1 / (1 + (difference / _AGREES) ** 2)).astype(np.float32)
    geometric = np.minimum(votes / _WITNESSES, 1)
    photometric = np.clip(correlation, 0, 1)
    return np.where(depth > 0, 0.01 + 0.99 * (photometric + geometric) / 2, 0).astype(np.float32)


def _map_K(view: View) -> np.ndarray:
    height, width = known_depth(view).shape
    return geometry.scale_intrinsics(view.K, width / view.width, height / view.height)
