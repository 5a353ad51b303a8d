"""`scene.rrd`: points, cameras and photographs for rerun (extra `rerun`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..scene.geometry import camera_centres, scale_intrinsics
from ..scene.posed_view import View
from .files import write_bytes
from .scene_export import SceneExport

MOST_POINTS = 2_000_000
PICTURE = 640  # pixels, the longer side of the photographs
IMAGE_PLANE = 0.2  # depth of the drawn photographs, in medians of the distance to the points


def write_rerun(scene: SceneExport) -> list[Path]:
    """Write scene.rrd in the frame of the cameras and return it. Raises OutputError."""
    import rerun

    recording = rerun.RecordingStream("lite3r", recording_id=scene.title)
    memory = recording.memory_recording()
    if scene.up is not None:
        axis = int(np.abs(scene.up).argmax())
        recording.log("world", _coordinates(rerun, axis, bool(scene.up[axis] > 0)), static=True)
    else:
        recording.log("world", rerun.ViewCoordinates.RDF, static=True)
    count = min(len(scene.cloud), MOST_POINTS)
    kept = np.arange(count) * len(scene.cloud) // max(count, 1)
    points = rerun.Points3D(scene.cloud.points[kept], colors=scene.cloud.colors[kept])
    recording.log("world/points", points, static=True)
    plane = _plane(scene)
    for view in scene.views:
        _log_view(rerun, recording, scene, view, plane)
    path = scene.directory / "scene.rrd"
    write_bytes(path, memory.drain_as_bytes())
    return [path]


def _coordinates(rerun: Any, axis: int, positive: bool) -> Any:
    """rerun's name of the up direction, for the nearest axis."""
    name = f"RIGHT_HAND_{'XYZ'[axis]}_{'UP' if positive else 'DOWN'}"
    return getattr(rerun.ViewCoordinates, name)


def _plane(scene: SceneExport) -> float:
    """Distance of a drawn photograph from its camera."""
    if not len(scene.cloud) or not scene.views:
        return 1.0
    middle = np.median(scene.cloud.points, axis=0)
    centres = camera_centres(np.stack([view.cam_from_world for view in scene.views]))
    return float(IMAGE_PLANE * np.median(np.linalg.norm(centres - middle, axis=1))) or 1.0


def _log_view(rerun: Any, recording: Any, scene: SceneExport, view: View, plane: float) -> None:
    entity = ["world", "cameras", view.name]  # a list, because names may contain separators
    factor = min(1.0, PICTURE / max(view.width, view.height))
    size = max(1, round(view.width * factor)), max(1, round(view.height * factor))
    K = scale_intrinsics(view.K, size[0] / view.width, size[1] / view.height)
    rotation = view.cam_from_world[:, :3].T
    centre = camera_centres(view.cam_from_world[None])[0]
    recording.log(entity, rerun.Transform3D(translation=centre, mat3x3=rotation), static=True)
    camera = rerun.Pinhole(
        image_from_camera=K, resolution=size, camera_xyz=rerun.ViewCoordinates.RDF, image_plane_distance=plane
    )
    recording.log(entity, camera, static=True)
    picture = None if scene.read_picture is None else scene.read_picture(view.name)
    if picture is not None:
        small = cv2.resize(np.ascontiguousarray(picture), size, interpolation=cv2.INTER_AREA)
        done, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])
        if done:
            image = rerun.EncodedImage(contents=data.tobytes(), media_type="image/jpeg")
            recording.log(entity, image, static=True)
