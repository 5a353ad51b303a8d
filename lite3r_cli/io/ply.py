"""The point cloud as binary PLY: `x y z` float32, `red green blue` uchar, `confidence` float32."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from plyfile import PlyData, PlyElement, PlyParseError

from ..errors import InputError
from ..scene.view import PointCloud
from .files import write_bytes

VERTEX = np.dtype(
    [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1"), ("confidence", "<f4")]
)
FRAME_COMMENTS = (
    "frame: world = first camera, OpenCV axes (+x right, +y down, +z forward)",
    "units: scene units, arbitrary scale",
)


def write_ply(path: Path, cloud: PointCloud, comments: Sequence[str] = FRAME_COMMENTS) -> None:
    """Write `cloud` (0 points are fine) as little-endian PLY. `comments` state frame and units in the header.

    Raises OutputError.
    """
    vertices = np.empty(len(cloud), dtype=VERTEX)
    for axis, name in enumerate(("x", "y", "z")):
        vertices[name] = cloud.points[:, axis]
    for channel, name in enumerate(("red", "green", "blue")):
        vertices[name] = cloud.colors[:, channel]
    vertices["confidence"] = cloud.confidence
    header = [" ".join(comment.split()).encode("ascii", "backslashreplace").decode("ascii") for comment in comments]
    stream = io.BytesIO()
    PlyData([PlyElement.describe(vertices, "vertex")], byte_order="<", comments=header).write(stream)
    write_bytes(path, stream.getbuffer())


def read_ply(path: Path) -> PointCloud:
    """Read a cloud that `write_ply` wrote (or any PLY with the same vertex properties). Raises InputError."""
    try:
        ply = PlyData.read(str(path), mmap=False)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (PlyParseError, ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a valid PLY file: {' '.join(str(error).split())}") from error
    if "vertex" not in ply:
        raise InputError(f"{path}: has no element `vertex`")
    vertices = ply["vertex"].data
    missing = [name for name in VERTEX.names if name not in (vertices.dtype.names or ())]
    if missing:
        raise InputError(f"{path}: its vertices lack {', '.join(missing)}")
    return PointCloud(
        points=np.stack([vertices[name] for name in "xyz"], axis=1).astype(np.float32),
        colors=np.stack([vertices[name] for name in ("red", "green", "blue")], axis=1).astype(np.uint8),
        confidence=np.array(vertices["confidence"], dtype=np.float32),
    )
