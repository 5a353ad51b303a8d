"""COLMAP models, text and binary, with cameras and points, for Gaussian splatting and MVS programs.

COLMAP's conventions are ours: OpenCV camera axes, camera from world, pixel centres at +0.5. The points have tracks:
first the adjusted points of the refinement, then points of the fused cloud that two views see. If no point has a track,
the points of the cloud are written without tracks and with an error of -1, COLMAP's "not computed". COLMAP prefers the
binary files; in text files it reads a name only up to the first blank. `points3D.ply` is the file that graphdeco's
trainer makes on its first run; an outdated one would be used by it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..scene.geometry import quaternion_from_matrix
from ..scene.posed_view import PointCloud, View
from ..scene.sparse_points import SparseModel
from .colmap_database import Registered, write_database
from .colmap_model import MODEL_NAMES
from .colmap_rigs import frames_binary, frames_text, rigs_and_frames, rigs_binary, rigs_text
from .files import write_bytes
from .scene_export import SceneExport
from .splat_start import point_normals, write_start

MAX_POINTS = 200_000  # a larger cloud is subsampled evenly, because readers hold each point as an object
START = "points3D.ply"
DATABASE = "database.db"
_POINT = np.dtype(  # 51 bytes, packed
    [("id", "<u8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("track", "<u8")]
)
_OBSERVATION = np.dtype([("xy", "<f8", 2), ("point", "<u8")])  # of an image, 24 bytes


@dataclass(frozen=True)
class _Points:
    """Records of points3D, and the observations of each image."""

    records: np.ndarray  # (N,) of _POINT
    elements: np.ndarray  # (T, 2) uint32, the tracks of all points in order: image id, index of the observation
    observations: list[np.ndarray]  # per view (M,) of _OBSERVATION

    def tracks(self, count: int) -> np.ndarray:
        """Tracks of the first `count` points: (T, 3) int64, point, image id, index of the observation."""
        lengths = self.records["track"][:count].astype(np.int64)
        elements = self.elements[: lengths.sum()].astype(np.int64)
        return np.column_stack([np.repeat(np.arange(count), lengths), elements])


def write_colmap(scene: SceneExport) -> list[Path]:
    """Write cameras, rigs, frames, images and points3D as .txt and .bin into sparse/0 with points3D.ply, and, for a
    refined scene, database.db; return the files.

    One camera for all images with the same size and K, a PINHOLE unless the images are distorted. Each view of a 360°
    picture has its own camera; these are sensors of one rig. Ids start at 1, in the order of the views. Skew is not
    representable and left out. Raises OutputError.
    """
    folder, views, sparse = scene.directory / "sparse" / "0", scene.views, scene.sparse
    cameras, camera_of = _shared_cameras(scene)
    poses = [_pose(view) for view in views]
    names = [scene.picture_name(view) for view in views]
    points = _dense_points(scene.cloud, len(views)) if sparse is None else _sparse_points(sparse, scene)
    rigs, frames = rigs_and_frames(views, camera_of)
    contents = {
        "cameras.txt": _cameras_text(cameras),
        "cameras.bin": _cameras_binary(cameras),
        "rigs.txt": _text(rigs_text(rigs)),
        "rigs.bin": rigs_binary(rigs),
        "frames.txt": _text(frames_text(frames, camera_of)),
        "frames.bin": frames_binary(frames, camera_of),
        "images.txt": _images_text(poses, camera_of, names, points.observations, scene.comments),
        "images.bin": _images_binary(poses, camera_of, names, points.observations),
        "points3D.txt": _points_text(points, scene.comments),
        "points3D.bin": _points_binary(points),
    }
    for name, data in contents.items():
        write_bytes(folder / name, data)
    normals = point_normals(views, points.records["xyz"], scene.sparse)
    write_start(folder / START, points.records["xyz"], normals, points.records["rgb"])
    written = [*(folder / name for name in contents), folder / START]
    if scene.adjusted:
        pictures = Registered(views, names, cameras, camera_of, rigs, frames)
        keypoints = [seen["xy"] for seen in points.observations]
        written.append(write_database(scene.directory / DATABASE, pictures, keypoints, points.tracks(scene.adjusted)))
    return written


def _shared_cameras(scene: SceneExport) -> tuple[list[tuple], list[int]]:
    """The distinct (model, width, height, parameters…) and, per view, the id (from 1) of its camera."""
    ids: dict[tuple, tuple[int, tuple]] = {}
    camera_of = []
    for view in scene.views:
        K, lens = view.K, scene.lens(view)
        model = "PINHOLE" if lens is None else lens.model
        params = map(float, (K[0, 0], K[1, 1], K[0, 2], K[1, 2])) if lens is None else lens.params
        camera = (model, view.width, view.height, *params)
        alike = (model, view.width, view.height, *(float(f"{value:.12g}") for value in camera[3:]))  # up to rounding
        sensor = None if view.facing is None else view.facing.number  # a rig has six different sensors
        camera_of.append(ids.setdefault((sensor, *alike), (len(ids) + 1, camera))[0])
    return [camera for _, camera in ids.values()], camera_of


def _pose(view: View) -> tuple[float, ...]:
    """qw qx qy qz tx ty tz of a record."""
    x, y, z, w = quaternion_from_matrix(view.cam_from_world[:, :3]).tolist()
    return w, x, y, z, *view.cam_from_world[:, 3].tolist()


def _dense_points(cloud: PointCloud, views: int) -> _Points:
    """At most MAX_POINTS of the cloud, evenly by index."""
    count = min(len(cloud), MAX_POINTS)
    kept = np.arange(count) * len(cloud) // max(count, 1)
    points = np.zeros(count, dtype=_POINT)
    points["id"] = np.arange(1, count + 1)
    points["xyz"] = cloud.points[kept]
    points["rgb"] = cloud.colors[kept]
    points["error"] = -1
    return _Points(points, np.zeros((0, 2), np.uint32), [np.zeros(0, _OBSERVATION)] * views)


def _sparse_points(sparse: SparseModel, scene: SceneExport) -> _Points:
    """All points of the model with their tracks; the observations of an image are those of its points."""
    records = np.zeros(len(sparse), dtype=_POINT)
    records["id"] = np.arange(1, len(sparse) + 1)
    records["xyz"], records["rgb"], records["error"] = sparse.points, sparse.colors, sparse.errors
    records["track"] = np.bincount(sparse.point, minlength=len(sparse))
    observations = []
    place = np.zeros(len(sparse.image), np.int64)  # index of each observation in its image
    for i, view in enumerate(scene.views):
        mine = np.flatnonzero(sparse.image == i)
        place[mine] = np.arange(len(mine))
        seen = np.zeros(len(mine), _OBSERVATION)
        lens = scene.lens(view)
        pixels = sparse.pixel[mine]
        if lens is not None:
            pixels = lens.pixels(np.c_[pixels, np.ones(len(pixels))] @ np.linalg.inv(view.K).T)
        seen["xy"], seen["point"] = pixels, sparse.point[mine] + 1
        observations.append(seen)
    order = np.argsort(sparse.point, kind="stable")
    elements = np.stack([sparse.image[order] + 1, place[order]], axis=1).astype(np.uint32)
    return _Points(records, elements, observations)


def _cameras_text(cameras: Sequence[tuple]) -> bytes:
    lines = ["# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]", f"# Number of cameras: {len(cameras)}"]
    for number, (model, width, height, *params) in enumerate(cameras, 1):
        lines.append(f"{number} {model} {width} {height} {' '.join(map(repr, params))}")
    return _text(lines)


def _cameras_binary(cameras: Sequence[tuple]) -> bytes:
    records = [
        struct.pack(f"<IiQQ{len(rest) - 2}d", number, MODEL_NAMES.index(model), *rest)
        for number, (model, *rest) in enumerate(cameras, 1)
    ]
    return struct.pack("<Q", len(cameras)) + b"".join(records)


def _images_text(
    poses: Sequence[tuple], camera_of: Sequence[int], names: Sequence[str], observations: Sequence[np.ndarray],
    comments: Sequence[str],
) -> bytes:  # fmt: skip
    mean = sum(map(len, observations)) / max(len(names), 1)
    lines = [
        "# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME",
        "# POINTS2D[] as (X, Y, POINT3D_ID)",
        f"# Number of images: {len(names)}, mean observations per image: {mean:g}",
        *(f"# {text}" for text in comments),
    ]
    for number, (pose, camera, name, seen) in enumerate(zip(poses, camera_of, names, observations), 1):
        rows = zip(seen["xy"].tolist(), seen["point"].tolist())
        points = " ".join(f"{x:.9g} {y:.9g} {point}" for (x, y), point in rows)
        lines += [f"{number} {' '.join(map(repr, pose))} {camera} {name}", points]
    return _text(lines)


def _images_binary(
    poses: Sequence[tuple], camera_of: Sequence[int], names: Sequence[str], observations: Sequence[np.ndarray]
) -> bytes:
    records = []
    for number, (pose, camera, name, seen) in enumerate(zip(poses, camera_of, names, observations), 1):
        records.append(struct.pack("<I7dI", number, *pose, camera))
        records.append(name.encode("utf-8", "surrogateescape") + b"\0" + struct.pack("<Q", len(seen)))
        records.append(seen.tobytes())
    return struct.pack("<Q", len(names)) + b"".join(records)


def _points_text(points: _Points, comments: Sequence[str]) -> bytes:
    records = points.records
    mean = float(records["track"].mean()) if len(records) else 0
    lines = [
        "# POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[] as (IMAGE_ID, POINT2D_IDX)",
        f"# Number of points: {len(records)}, mean track length: {mean:g}",
        *(f"# {text}" for text in comments),
    ]
    words = [f" {image} {place}" for image, place in points.elements.tolist()]
    rows = zip(*(records[key].tolist() for key in ("id", "xyz", "rgb", "error", "track")))
    first = 0
    for number, (x, y, z), (red, green, blue), error, count in rows:
        track = "".join(words[first : first + count])
        lines.append(f"{number} {x:.9g} {y:.9g} {z:.9g} {red} {green} {blue} {error:.6g}{track}")
        first += count
    return _text(lines)


def _points_binary(points: _Points) -> bytes:
    head = struct.pack("<Q", len(points.records))
    if not points.records["track"].any():
        return head + points.records.tobytes()
    tracks, size = points.elements[0].nbytes * points.records["track"].astype(np.int64), _POINT.itemsize
    starts = np.arange(len(tracks)) * size + np.cumsum(tracks) - tracks
    data = np.empty(len(tracks) * size + tracks.sum(), np.uint8)
    is_track = np.ones(len(data), bool)
    for byte, values in enumerate(points.records.view(np.uint8).reshape(-1, size).T):
        data[starts + byte] = values
        is_track[starts + byte] = False
    data[is_track] = points.elements.view(np.uint8).ravel()
    return head + data.tobytes()


def _text(lines: Sequence[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape")
