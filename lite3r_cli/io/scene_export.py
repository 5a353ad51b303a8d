"""The input of a format writer: cameras, points, and paths of images, masks and depth maps."""

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
from ..scene.surface_nets import Mesh, TexturedMesh
from .names import header_line


@dataclass(frozen=True)
class SceneExport:
    """A scene to export into the common folder of all formats. Paths are relative to it, with slashes."""

    directory: Path
    views: Sequence[View]
    cloud: PointCloud
    sparse: SparseModel | None = None  # points with tracks; None: only the cloud
    pictures: Mapping[str, str] = field(default_factory=dict)  # view name → "images/a.jpg"; upright, for the cameras
    masks: Mapping[str, str] = field(default_factory=dict)  # view name → "masks/a.jpg.png", black = ignore
    depths: Mapping[str, tuple[str, float]] = field(default_factory=dict)  # view name → file, scale (value / depth)
    times: Mapping[str, float] = field(default_factory=dict)  # view name → seconds, if known for all views
    frame: WorldFrame = FIRST_CAMERA
    up: np.ndarray | None = None  # (3,) unit up vector, if known
    look: Similarity | None = None  # into the upright frame of viewers, if the up direction is known
    upright: Similarity | None = None  # into a frame with +z up, if z is not up already
    geographic: Callable[[np.ndarray], np.ndarray] | None = None  # (N, 3) → degrees latitude, longitude; metres height
    title: str = "scene"
    read_picture: Callable[[str], np.ndarray | None] | None = None  # view name → (H, W, 3) RGB, upright
    make_mesh: Callable[[], Mesh] | None = None  # makes the surface in the frame of the cloud
    make_textured: Callable[[], TexturedMesh] | None = None  # the same with a texture from the photos
    distorted: bool = False  # images and masks are distorted, see `View.lens`
    adjusted: int = 0  # number of points of `sparse`, the first ones, from bundle adjustment

    @property
    def comments(self) -> list[str]:
        """Frame and units for the header of a text file, ASCII lines."""
        return [header_line(comment) for comment in self.frame.comments()]

    def lens(self, view: View) -> DistortedCamera | None:
        """The lens of a view's exported image; None for a pinhole with `view.K`."""
        return view.lens if self.distorted else None

    def time(self, index: int) -> str:
        """Timestamp of view `index` in seconds; its index if unknown."""
        name = self.views[index].name
        return f"{self.times[name]:.6f}" if name in self.times else str(index)

    def picture(self, view: View) -> str:
        """The path of a view's image; images/NAME if none was written."""
        return self.pictures.get(view.name, f"images/{view.name}")

    def picture_name(self, view: View) -> str:
        """The path below images/, COLMAP's name of the image, on one line."""
        return " ".join(self.picture(view).removeprefix("images/").splitlines())
