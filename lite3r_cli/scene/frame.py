"""The world frame of a scene, as text and numbers for the header of every file and for run.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from .geometry import Similarity
from .lazy_views import LazyViews
from .posed_view import PointCloud, View

OPENCV = "OpenCV axes (+x right, +y down, +z forward)"
FAR_OFF = 100.0  # coordinates larger than this many times the scene's extent lose too many digits in single precision


@dataclass(frozen=True)
class WorldFrame:
    """Frame and units of points and poses."""

    name: str  # "first camera", "given", "level", "enu", "epsg:32632"
    description: str
    units: str = "scene units, arbitrary scale"
    metric: bool = False  # the unit is a metre
    up: tuple[float, float, float] | None = None  # unit vector, if known

    def comments(self) -> tuple[str, str]:
        """Two lines for the header of a file."""
        return f"frame: {self.description}", f"units: {self.units}"

    def as_dict(self) -> dict[str, Any]:
        """For run.json and cameras.json."""
        return asdict(self)


FIRST_CAMERA = WorldFrame("first camera", f"world = first camera, {OPENCV}")
METRIC = replace(FIRST_CAMERA, units="metres, as the network estimates them", metric=True)
GIVEN = WorldFrame("given", "world = that of the known cameras, as given", "those of the known cameras")


def local_origin(centres: np.ndarray) -> np.ndarray | None:
    """The rounded centre (3,) of the cameras, to be subtracted before computations in single precision; None if the
    centres (S, 3) are close enough to the origin, as in every frame except that of a map.
    """
    middle = np.median(centres, axis=0)
    extent = float(np.linalg.norm(np.ptp(centres, axis=0)))
    if np.abs(middle).max() <= FAR_OFF * max(extent, 1.0):
        return None
    result: np.ndarray | None = np.round(middle)
    return result


def translation(offset: np.ndarray | None) -> Similarity:
    """The similarity transform that adds `offset` (3,); None: nothing."""
    return Similarity(1.0, np.eye(3), np.zeros(3) if offset is None else np.asarray(offset, np.float64))


def move_views(views: Sequence[View], similarity: Similarity) -> list[View]:
    """The same views in another world frame, with depth in its unit; `LazyViews` stay lazy."""
    if isinstance(views, LazyViews):
        moved = [similarity.apply_to_poses(camera.cam_from_world) for camera in views.cameras]
        return views.placed(moved, similarity.scale)  # type: ignore[return-value]
    factor = np.float32(similarity.scale)

    def scaled(depth: np.ndarray | None) -> np.ndarray | None:
        return depth if depth is None or factor == 1 else depth * factor

    return [
        replace(view, cam_from_world=similarity.apply_to_poses(view.cam_from_world), depth=scaled(view.depth))
        for view in views
    ]


def move_cloud(cloud: PointCloud, similarity: Similarity) -> PointCloud:
    """The same points in another world frame: float64 where that is far from its origin, else float32."""
    points = similarity.apply(cloud.points)
    far = len(points) and local_origin(points[:: max(1, len(points) // 1000)]) is not None
    return replace(cloud, points=points if far else points.astype(np.float32))
