"""`lite3r view --serve`: serves a scene to a browser on this machine, for clouds that are too large for one file.

`VoxelPyramid` selects the points for a browser by its viewpoint; viser (extra `serve`) does everything else.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..config.viewing import ViewConfig
from ..errors import Lite3RError, OutputError
from ..extras import require
from ..io.frusta import ACCENT, frustum_depth
from ..scene.geometry import camera_centres, quaternion_from_matrix
from ..scene.posed_view import View
from ..scene.voxel_pyramid import VoxelPyramid, build_pyramid
from .live_chunks import LiveChunks, Shown, running
from .written_scene import WrittenScene

MOST = 1_000_000  # points per browser
PICTURE = 320  # pixels, the longer side of the photographs in the frusta
LINE = 0.015  # width of the lines, in depths of a frustum
BACK = 6.0  # distance of the first view behind the middle camera, in frusta
UP = (0.0, -1.0, 0.0)  # if a scene has no up direction: that of its first camera
CAMERAS = 200  # of a run that are shown at most
EVERY = 1.0  # seconds between two looks for new chunks
MOVED = 0.05  # of the distance to the target: movement after which the points are selected again


def serve_scene(
    config: ViewConfig,
    ready: Callable[[Any, str], None] = lambda server, address: None,
    tell: Callable[[str], None] = lambda text: None,
) -> Any:
    """Start the server and return it; `ready` is called with it and its address. A scene whose run in chunks is still
    going on is shown chunk by chunk, and in full when it is there; `tell` is called with what happens.

    Raises InputError without a scene, BackendError without viser, OutputError if the port is in use.
    """
    require("viser", "--serve")
    import viser

    folder = running(config.scene)
    scene = WrittenScene.at(config.scene) if folder is None else None
    live = None if folder is None else LiveChunks(folder, MOST)
    title = config.scene.stem if scene is None else scene.layout.title
    try:
        with redirect_stdout(StringIO()):  # viser prints a banner; standard output is for the address
            server = viser.ViserServer(host="127.0.0.1", port=config.port, label=title, verbose=False)
    except OSError as error:
        raise OutputError(f"--port {config.port}: cannot be listened at ({error.strerror})") from error
    try:
        if scene is not None:
            scene.tell_fault(tell)
            Stage(server).show_scene(scene, tell)
        elif live is not None:
            follower = Follower(Stage(server), live, config.scene, tell)
            threading.Thread(target=follower.run, daemon=True).start()
        ready(server, f"http://127.0.0.1:{server.get_port()}")
    except BaseException:
        server.stop()
        raise
    return server


class Stage:
    """What a server shows: points, cameras, and for each browser a first view."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.shown: list[Any] = []  # cameras and points, which the next `clear` removes
        self.first: tuple[View, float] | None = None  # camera of the first view, and the distance behind it
        self.guests: Callable[[Any], None] = lambda client: None
        server.on_client_connect(self._connected)

    def _connected(self, client: Any) -> None:
        if self.first is not None:
            _look_through(client, *self.first)
        self.guests(client)

    def clear(self) -> None:
        """Remove what was shown."""
        for handle in self.shown:
            handle.remove()
        self.shown = []

    def show_scene(self, scene: WrittenScene, tell: Callable[[str], None]) -> None:
        """A written scene: each browser gets the points that its viewpoint needs. Raises InputError."""
        views, pictures = scene.views(), scene.photographs()
        pyramid = build_pyramid(scene.cloud(tell))
        depth = frustum_depth(views, pyramid.cloud) if views else 1.0
        self.clear()
        up = scene.up
        self.server.scene.set_up_direction(tuple(up if up is not None else UP))
        for view in views:
            self.shown.append(_add_camera(self.server, view, pictures.read(view), depth))
        self._stand(views, depth)
        spacing = pyramid.voxel * 3.0
        self.guests = lambda client: Guest(client, pyramid, spacing).follow()
        for client in self.server.get_clients().values():
            self.guests(client)

    def show_part(self, found: Shown) -> None:
        """The scene of a run so far."""
        depth = frustum_depth(found.views, found.cloud)
        self.clear()
        self.server.scene.set_up_direction(UP)
        for k in range(0, len(found.views), -(-len(found.views) // CAMERAS)):
            self.shown.append(_add_camera(self.server, found.views[k], found.pictures[k], depth))
        spread = np.ptp(np.percentile(found.cloud.points, (5, 95), axis=0), axis=0).max()
        spacing = float(spread) / max(1.0, len(found.cloud) ** 0.5)
        cloud = self.server.scene.add_point_cloud(
            "/points", found.cloud.points, found.cloud.colors, point_size=max(spacing, 1e-9)
        )
        self.shown.append(cloud)
        beginning = self.first is None
        self._stand(found.views[:1], depth)
        for client in self.server.get_clients().values() if beginning else ():
            self._connected(client)

    def _stand(self, views: Sequence[View], depth: float) -> None:
        self.first = (views[len(views) // 2], BACK * depth) if views else None


class Follower:
    """Shows the chunks of a run as they are finished, and the scene when the run has written it."""

    def __init__(self, stage: Stage, live: LiveChunks, scene: Path, tell: Callable[[str], None]) -> None:
        self.stage, self.live, self.scene, self.tell = stage, live, scene, tell

    def run(self) -> None:
        """Look for news every `EVERY` seconds, until the run has ended."""
        while self.step():
            time.sleep(EVERY)

    def step(self) -> bool:
        """Show what is new; False if the run has ended."""
        try:
            found = self.live.news()
        except (Lite3RError, OSError, ValueError):  # the run removes its chunks when it ends
            found = None
        if found is not None:
            self.stage.show_part(found)
            self.tell(f"chunk {self.live.known}: {len(found.views)} of {found.expected} views")
        if os.path.lexists(self.live.folder):
            return True
        try:
            self.stage.show_scene(WrittenScene.at(self.scene), self.tell)
            self.tell("the run has ended: this is the scene")
        except Lite3RError:
            self.tell("the run has ended without a scene")
        return False


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


def _add_camera(server: Any, view: View, picture: np.ndarray | None, depth: float) -> Any:
    """Add a frustum with its image and return it; a click moves the view to the camera."""
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
    return handle


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
