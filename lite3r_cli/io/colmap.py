"""A COLMAP model, text and binary, of the cameras and the fused points: what Gaussian splatting and MVS tools read.

COLMAP's conventions are ours: OpenCV camera axes, camera from world, pixel centres at +0.5. The points have no tracks
(they come from depth maps, not from matches) and an error of -1, COLMAP's "not computed". COLMAP reads the binary files
where both are there; from text it takes a name only up to its first blank.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..geometry import quaternion_from_matrix
from ..scene import PointCloud, View
from .files import write_bytes

MAX_POINTS = 200_000  # a larger cloud is subsampled evenly: readers hold each point as an object
PINHOLE = 1  # COLMAP's model id
_POINT = np.dtype(  # 51 bytes, packed
    [("id", "<u8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("track", "<u8")]
)


def write_colmap(directory: Path, views: Sequence[View], cloud: PointCloud) -> list[Path]:
    """Write cameras, images and points3D as .txt and .bin into `directory`/sparse/0 and return the files.

    One PINHOLE camera for all images with the same size and K; ids start at 1, in the order of `views`. Skew is not
    representable and left out. Raises OutputError.
    """
    folder = directory / "sparse" / "0"
    cameras, camera_of = _shared_cameras(views)
    poses = [_pose(view) for view in views]
    names = [" ".join(view.name.splitlines()) for view in views]  # a line break would end the record
    points = _subsample(cloud)
    contents = {
        "cameras.txt": _cameras_text(cameras),
        "cameras.bin": _cameras_binary(cameras),
        "images.txt": _images_text(poses, camera_of, names),
        "images.bin": _images_binary(poses, camera_of, names),
        "points3D.txt": _points_text(points),
        "points3D.bin": struct.pack("<Q", len(points)) + points.tobytes(),
    }
    for name, data in contents.items():
        write_bytes(folder / name, data)
    return [folder / name for name in contents]


def _shared_cameras(views: Sequence[View]) -> tuple[list[tuple], list[int]]:
    """The distinct (width, height, fx, fy, cx, cy) and, per view, the id (from 1) of its one."""
    ids: dict[tuple, int] = {}
    camera_of = []
    for view in views:
        K = view.K
        camera = (view.width, view.height, *map(float, (K[0, 0], K[1, 1], K[0, 2], K[1, 2])))
        camera_of.append(ids.setdefault(camera, len(ids) + 1))
    return list(ids), camera_of


def _pose(view: View) -> tuple[float, ...]:
    """The record's qw qx qy qz tx ty tz."""
    x, y, z, w = quaternion_from_matrix(view.cam_from_world[:, :3]).tolist()
    return w, x, y, z, *view.cam_from_world[:, 3].tolist()


def _subsample(cloud: PointCloud) -> np.ndarray:
    """At most MAX_POINTS of the cloud, evenly by index, as records of points3D.bin."""
    count = min(len(cloud), MAX_POINTS)
    kept = np.arange(count) * len(cloud) // max(count, 1)
    points = np.zeros(count, dtype=_POINT)
    points["id"] = np.arange(1, count + 1)
    points["xyz"] = cloud.points[kept]
    points["rgb"] = cloud.colors[kept]
    points["error"] = -1
    return points


def _cameras_text(cameras: Sequence[tuple]) -> bytes:
    lines = ["# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[] (fx, fy, cx, cy)", f"# Number of cameras: {len(cameras)}"]
    for number, (width, height, *params) in enumerate(cameras, 1):
        lines.append(f"{number} PINHOLE {width} {height} {' '.join(map(repr, params))}")
    return _text(lines)


def _cameras_binary(cameras: Sequence[tuple]) -> bytes:
    records = [struct.pack("<IiQQ4d", number, PINHOLE, *camera) for number, camera in enumerate(cameras, 1)]
    return struct.pack("<Q", len(cameras)) + b"".join(records)


def _images_text(poses: Sequence[tuple], camera_of: Sequence[int], names: Sequence[str]) -> bytes:
    lines = [
        "# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME",
        "# POINTS2D[] as (X, Y, POINT3D_ID): none",
        f"# Number of images: {len(names)}, mean observations per image: 0",
    ]
    for number, (pose, camera, name) in enumerate(zip(poses, camera_of, names), 1):
        lines += [f"{number} {' '.join(map(repr, pose))} {camera} {name}", ""]
    return _text(lines)


def _images_binary(poses: Sequence[tuple], camera_of: Sequence[int], names: Sequence[str]) -> bytes:
    records = []
    for number, (pose, camera, name) in enumerate(zip(poses, camera_of, names), 1):
        records.append(struct.pack("<I7dI", number, *pose, camera))
        records.append(name.encode("utf-8", "surrogateescape") + b"\0" + struct.pack("<Q", 0))
    return struct.pack("<Q", len(names)) + b"".join(records)


def _points_text(points: np.ndarray) -> bytes:
    lines = [
        "# POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[] as (IMAGE_ID, POINT2D_IDX): none",
        f"# Number of points: {len(points)}, mean track length: 0",
    ]
    rows = zip(points["id"].tolist(), points["xyz"].tolist(), points["rgb"].tolist())
    lines += ["%d %.9g %.9g %.9g %d %d %d -1" % (number, *xyz, *rgb) for number, xyz, rgb in rows]
    return _text(lines)


def _text(lines: Sequence[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape")
