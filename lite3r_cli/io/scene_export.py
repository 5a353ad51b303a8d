"""What a format writer is given: cameras, points, and where the pictures, masks and depth maps of the export lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..scene.distortion import DistortedCamera
from ..scene.frame import FIRST_CAMERA, WorldFrame
from ..scene.geometry import Similarity
from ..scene.posed_view import PointCloud, View
from ..scene.sparse_points import SparseModel
from ..scene.surface_nets import Mesh


@dataclass(frozen=True)
class SceneExport:
    """A scene on its way into a folder that all formats share. Paths are relative to it, with slashes."""

    directory: Path
    views: Sequence[View]
    cloud: PointCloud
    sparse: SparseModel | None = None  # points with tracks; None: the format makes do with the cloud
    pictures: Mapping[str, str] = field(default_factory=dict)  # view name → "images/a.jpg"; upright, as the cameras say
    masks: Mapping[str, str] = field(default_factory=dict)  # view name → "masks/a.jpg.png", black = ignore
    depths: Mapping[str, tuple[str, float]] = field(default_factory=dict)  # view name → file, scale (value / depth)
    times: Mapping[str, float] = field(default_factory=dict)  # view name → seconds, where they are known for all views
    frame: WorldFrame = FIRST_CAMERA
    up: np.ndarray | None = None  # (3,) unit vector against gravity, where that is known
    look: Similarity | None = None  # into the upright frame of viewers, where up is known
    upright: Similarity | None = None  # into a frame with +z up, where z is not up already
    geographic: Callable[[np.ndarray], np.ndarray] | None = None  # (N, 3) → degrees latitude, longitude; metres height
    title: str = "scene"
    read_picture: Callable[[str], np.ndarray | None] | None = None  # view name → (H, W, 3) RGB, upright
    make_mesh: Callable[[], Mesh] | None = None  # the surface, in the frame of the cloud
    distorted: bool = False  # pictures and masks are as the lenses took them, see `View.lens`
    adjusted: int = 0  # how many points of `sparse`, the first ones, bundle adjustment made

    def lens(self, view: View) -> DistortedCamera | None:
        """The lens of a view's picture as it lies in the export; None where that is a pinhole's with `view.K`."""
        return view.lens if self.distorted else None

    def time(self, index: int) -> str:
        """When view `index` was taken, in seconds; its index where that is not known."""
        name = self.views[index].name
        return f"{self.times[name]:.6f}" if name in self.times else str(index)

    def picture(self, view: View) -> str:
        """The path of a view's picture; images/NAME where none was written."""
        return self.pictures.get(view.name, f"images/{view.name}")

    def picture_name(self, view: View) -> str:
        """The same below images/: the name that COLMAP's files give it, one line."""
        return " ".join(self.picture(view).removeprefix("images/").splitlines())
