"""The two main data types after the network: posed depth maps and a fused cloud.

Conventions everywhere outside a network: OpenCV camera axes (+x right, +y down, +z forward), pixel centres at +0.5 (the
centre of the top-left pixel is (0.5, 0.5)), `cam_from_world` maps world points to the camera, depth is z-depth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .distortion import DistortedCamera
from .facing import Facing


@dataclass(frozen=True)
class View:
    """One photograph with its camera and its depth map.

    `K` refers to the original image (`width` × `height` pixels, after EXIF orientation). The depth map has its own,
    usually smaller, size and covers the same field of view: scale K's first row by `w / width`, its second by `h /
    height` for it.
    """

    name: str  # file name of the image, unique in its set, e.g. "a.jpg"
    width: int
    height: int
    K: np.ndarray  # (3, 3) float64
    cam_from_world: np.ndarray  # (3, 4) float64, [R | t]
    depth: np.ndarray | None = None  # (h, w) float32 z-depth in scene units, 0 = unknown
    confidence: np.ndarray | None = None  # (h, w) float32, larger is better, 0 where depth is unknown
    lens: DistortedCamera | None = None  # of the original picture, if the view belongs to the undistorted one
    facing: Facing | None = None  # which view of which 360° picture it is


def known_depth(view: View) -> np.ndarray:
    """The depth map (h, w) of a view that has one. Raises ValueError for another."""
    if view.depth is None:
        raise ValueError(f"{view.name} has no depth map")
    return view.depth


@dataclass(frozen=True)
class PointCloud:
    """Fused points in the world frame."""

    points: np.ndarray  # (N, 3) float32; float64 where the frame's origin is far away
    colors: np.ndarray  # (N, 3) uint8, RGB
    confidence: np.ndarray  # (N,) float32

    def __len__(self) -> int:
        return len(self.points)
