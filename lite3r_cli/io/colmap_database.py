"""COLMAP's database.db of a refined scene: cameras and images of sparse/0, their keypoints and verified matches.

The keypoints of an image are the observations in images.bin, in the same order. Two images match where they see the
same adjusted point, so the matches are those that bundle adjustment kept. There are no descriptors.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import OutputError
from ..extras import import_pycolmap
from ..scene.geometry import relative_pose
from ..scene.posed_view import View
from .colmap_rigs import Frame, Rig
from .files import output_error


@dataclass(frozen=True)
class Registered:
    """Images of a COLMAP model. Ids start at 1, in the order of the sequences."""

    views: Sequence[View]
    names: Sequence[str]  # of the pictures, below images/
    cameras: Sequence[tuple]  # model, width, height, parameters…
    camera_of: Sequence[int]  # per view the id of its camera
    rigs: Sequence[Rig]
    frames: Sequence[Frame]


def write_database(path: Path, pictures: Registered, keypoints: Sequence[np.ndarray], tracks: np.ndarray) -> Path:
    """Write the database. Raises BackendError without pycolmap, OutputError.

    `keypoints`: per view (N, 2), pixels, centres at +0.5. `tracks`: (T, 3) integers, sorted: point, image id, index of
    the keypoint.
    """
    import_pycolmap("database.db")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        home = _home(path)
        with tempfile.TemporaryDirectory(prefix="lite3r-", dir=home) as folder:
            made = Path(folder) / path.name
            _fill(made, pictures, keypoints, tracks)
            (shutil.copyfile if home is None else os.replace)(made, path)
    except RuntimeError as error:  # from SQLite, also for a full disk
        reason = " ".join(str(error).split())
        raise OutputError(f"{path}: cannot be written (is the disk full?): {reason}") from error
    except OSError as error:
        raise output_error(path, error) from error
    return path


def _home(path: Path) -> Path | None:
    """SQLite's working folder: that of the file, or the temporary folder if the file's name cannot be passed to C."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return None
    return path.parent


def _fill(path: Path, pictures: Registered, keypoints: Sequence[np.ndarray], tracks: np.ndarray) -> None:
    import pycolmap

    with pycolmap.Database.open(path) as database:
        cameras = [_camera(number, *camera) for number, camera in enumerate(pictures.cameras, 1)]
        for camera in cameras:
            database.write_camera(camera, use_camera_id=True)
        for number, rig in enumerate(pictures.rigs, 1):
            database.write_rig(_rig(number, rig, cameras), use_rig_id=True)
        images = []
        for number, (name, camera_id) in enumerate(zip(pictures.names, pictures.camera_of, strict=True), 1):
            encoded: Any = name.encode("utf-8", "surrogateescape")  # pycolmap accepts bytes; the name may be no text
            images.append(pycolmap.Image(name=encoded, camera_id=camera_id, image_id=number))
            database.write_image(images[-1], use_image_id=True)
            database.write_keypoints(number, np.ascontiguousarray(keypoints[number - 1], np.float32).reshape(-1, 2))
        for number, frame in enumerate(pictures.frames, 1):
            record = pycolmap.Frame(frame_id=number, rig_id=frame.rig)
            for i in frame.views:
                record.add_data_id(images[i].data_id)
            database.write_frame(record, use_frame_id=True)
        for (i, j), rows in matched_pairs(tracks):
            database.write_matches(i, j, rows)
            first, second = (pictures.views[k - 1].cam_from_world for k in (i, j))
            database.write_two_view_geometry(i, j, _geometry(rows, relative_pose(first, second)))


def matched_pairs(tracks: np.ndarray) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
    """Sorted pairs of image ids with the keypoints (M, 2) uint32 of their common points; `tracks` as above."""
    found = [np.zeros((0, 4), np.int64)]
    for distance in range(1, len(tracks)):
        first, second = tracks[:-distance], tracks[distance:]
        same = first[:, 0] == second[:, 0]
        if not same.any():  # no longer tracks exist
            break
        found.append(np.column_stack([first[same, 1], second[same, 1], first[same, 2], second[same, 2]]))
    rows = np.concatenate(found)
    rows = rows[np.lexsort(rows.T[::-1])]
    pairs, starts = np.unique(rows[:, :2], axis=0, return_index=True)
    for (i, j), part in zip(pairs.tolist(), np.split(rows[:, 2:], starts[1:])):
        yield (i, j), part.astype(np.uint32)


def _camera(number: int, model: str, width: int, height: int, *params: float):
    import pycolmap

    camera = pycolmap.Camera(camera_id=number, model=model, width=width, height=height, params=params)
    camera.has_prior_focal_length = True
    return camera


def _rig(number: int, rig: Rig, cameras: Sequence):
    import pycolmap

    made = pycolmap.Rig(rig_id=number)
    first, *others = rig.cameras
    made.add_ref_sensor(cameras[first - 1].sensor_id)
    for camera, turn in zip(others, rig.turns[1:], strict=True):
        made.add_sensor(cameras[camera - 1].sensor_id, pycolmap.Rigid3d(np.column_stack([turn, np.zeros(3)])))
    return made


def _geometry(rows: np.ndarray, second_from_first: np.ndarray):
    import pycolmap

    found = pycolmap.TwoViewGeometry()
    found.config = pycolmap.TwoViewGeometryConfiguration.CALIBRATED
    found.inlier_matches = rows
    length = float(np.linalg.norm(second_from_first[:, 3])) or 1.0  # two images do not determine the scale
    found.cam2_from_cam1 = pycolmap.Rigid3d(
        np.column_stack([second_from_first[:, :3], second_from_first[:, 3] / length])
    )
    return found
