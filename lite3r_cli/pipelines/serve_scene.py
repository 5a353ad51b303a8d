"""`lite3r view --serve`: serves a scene to a browser on this machine, for clouds that are too large for one file.

`VoxelPyramid` selects the points for a browser by its viewpoint; viser (extra `serve`) does everything else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from ..config.viewing import ViewConfig
from ..errors import OutputError
from ..extras import require
from ..io.frusta import ACCENT, frustum_depth
from ..scene.geometry import camera_centres, quaternion_from_matrix
from ..scene.posed_view import View
from ..scene.voxel_pyramid import VoxelPyramid, build_pyramid
from .written_scene import WrittenScene

MOST = 1_000_000  # points per browser
PICTURE = 320  # pixels, the longer side of the photographs in the frusta
LINE = 0.015  # width of the lines, in depths of a frustum
BACK = 6.0  # distance of the first view behind the middle camera, in frusta
MOVED = 0.05  # of the distance to the target: movement after which the points are selected again


def serve_scene(config: ViewConfig, ready: Callable[[Any, str], None] = lambda server, address: None) -> Any:
    """Start the server and return it; `ready` is called with it and its address.

    Raises InputError without a scene, BackendError without viser, OutputError if the port is in use.
    """
    require("viser", "--serve")
    import viser

    scene = WrittenScene.at(config.scene)
    views, pictures = scene.views(), scene.photographs()
    pyramid = build_pyramid(scene.cloud())
    try:
        server = viser.ViserServer(host="127.0.0.1", port=config.port, label=scene.layout.title, verbose=False)
    except OSError as error:
        raise OutputError(f"--port {config.port}: cannot be listened at ({error.strerror})") from error
    up = scene.up
    server.scene.set_up_direction(tuple(up if up is not None else (0.0, -1.0, 0.0)))
    depth = frustum_depth(views, pyramid.cloud) if views else 1.0
    for view in views:
        _add_camera(server, view, pictures.read(view), depth)
    spacing = pyramid.voxel * 3.0

    @server.on_client_connect
    def connected(client: Any) -> None:
        if views:
            _look_through(client, views[len(views) // 2], back=BACK * depth)
        Guest(client, pyramid, spacing).follow()

    ready(server, f"http://127.0.0.1:{server.get_port()}")
    return server


class Guest:
    """A connected browser and its points, which are updated when its viewpoint moves."""

    def __init__(self, client: Any, pyramid: VoxelPyramid, spacing: float) -> None:
        self.client, self.pyramid, self.spacing = client, pyramid, spacing
        self.place: np.ndarray | None = None
        self.busy = threading.Lock()

    def follow(self) -> None:
        self.client.camera.on_update(lambda camera: self.update(camera.position, camera.look_at))
        self.update(self.client.camera.position, self.client.camera.look_at)

    def update(self, position: np.ndarray, target: np.ndarray) -> None:
        """Send the points for an eye at `position`, unless it hardly moved or an update is running."""
        reach = MOVED * float(np.linalg.norm(np.asarray(target) - position))
        if self.place is not None and np.linalg.norm(position - self.place) <= reach:
            return
        if not self.busy.acquire(blocking=False):
            return
        try:
            self.place = np.array(position)
            shown = self.pyramid.seen_from(self.place, MOST)
            cloud = self.pyramid.cloud
            self.client.scene.add_point_cloud(
                "/points", cloud.points[shown].astype(np.float32), cloud.colors[shown], point_size=self.spacing
            )
        finally:
            self.busy.release()


def _add_camera(server: Any, view: View, picture: np.ndarray | None, depth: float) -> None:
    """Add a frustum with its photograph; a click moves the view to the camera."""
    rotation = view.cam_from_world[:, :3].T
    x, y, z, w = quaternion_from_matrix(rotation)
    if picture is not None:
        factor = min(1.0, PICTURE / max(picture.shape[:2]))
        picture = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    handle = server.scene.add_camera_frustum(
        f"/cameras/{view.name}", fov=_field(view), aspect=view.width / view.height, scale=depth / 2, image=picture,
        wxyz=(w, x, y, z), position=camera_centres(view.cam_from_world[None])[0], color=ACCENT,
        thickness=LINE * depth / 2,
    )  # fmt: skip
    handle.on_click(lambda event: _look_through(event.client, view))


def _look_through(client: Any, view: View, back: float = 0.0) -> None:
    """Move the view to a camera, or behind it."""
    centre = camera_centres(view.cam_from_world[None])[0] - back * view.cam_from_world[2, :3]
    client.camera.position = centre
    client.camera.up_direction = -view.cam_from_world[1, :3]
    client.camera.look_at = centre + view.cam_from_world[2, :3]
    client.camera.fov = _field(view)


def _field(view: View) -> float:
    """Vertical field of view in radians."""
    return float(2 * np.arctan(view.height / 2 / view.K[1, 1]))
